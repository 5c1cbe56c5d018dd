"""What the logger "feynkac" is told of a run: nothing is written anywhere unless an application listens.

INFO when a run begins and ends, WARNING for each warning of a result, DEBUG for each resampling.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from feynkac.results.result import Result
from feynkac.smc.engine import Step
from feynkac.steering.algorithms import Plan
from feynkac.steering.problems import name_problem

logger = logging.getLogger(__name__)


def log_start(plan: Plan, problems: int, seed: int) -> None:
    """A run begins."""
    logger.info(
        "run begins: %d problem(s), %d particles, algorithm %s, seed %d", problems, plan.particles, plan.algorithm, seed
    )


def log_end(results: Sequence[Result]) -> None:
    """A run has ended."""
    if not logger.isEnabledFor(logging.WARNING):
        return
    for g, result in enumerate(results):
        which = name_problem(g, len(results))
        logger.info(
            "%srun %s after %.3f s: log evidence %.3f, ESS %.1f of %d",
            which, "ended" if result.complete else "stopped", result.timing.total, result.log_evidence,
            result.ess, len(result.log_weights),
        )  # fmt: skip
        for warning in result.warnings:
            logger.warning("%s%s", which, warning)


def log_resampling(step: Step) -> None:
    """An observer that tells of resampling."""
    for g, resampled in enumerate(step.resampled):
        if resampled:
            alone = step.group(g)
            which = name_problem(g, len(step.groups))
            logger.debug("%sresampled before step %d: log evidence %.3f now", which, step.t, alone.log_z)
