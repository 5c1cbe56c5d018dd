"""The job of a call: which class drives which algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feynkac.smc.rng import Streams
from feynkac.steering.algorithms import Batch, Plan
from feynkac.steering.exact import Exact
from feynkac.steering.jobs import Job
from feynkac.steering.problems import Problems
from feynkac.steering.sweeps import Chains

if TYPE_CHECKING:
    from feynkac.steering.checkpoints.saving import Saver


def start(problems: Problems, plan: Plan, streams: Streams, *, first: int = 0, saver: Saver | None = None) -> Job:
    """The job of an algorithm.

    `first`: the number of its first chain among those of the call, for "gibbs". `saver`: what saves it on its way.
    """
    if plan.algorithm == "exact":
        return Exact(problems)
    if plan.algorithm == "gibbs":
        return Chains(problems, plan, streams, streams.seed, first=first, saver=saver)
    return Batch(problems, plan, streams, streams.seed, saver)
