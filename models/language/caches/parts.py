"""One pass of all contexts, or several of some: where memory runs out, halves of what was too much."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.parts import run_in_halves
from feynkac.models.language.caches.plan import Plan, split_plan

_log = logging.getLogger(__name__)

_TOLD = (
    "memory ran out with %d contexts in one pass (%s); they are forwarded in smaller parts from now on, which takes "
    "longer and changes nothing else; fewer particles, or a smaller dtype, need no parts"
)
Passed: TypeAlias = tuple[Tensor, "Tensor | None"]
"""(K, V) logits, and (K, width) hidden states where they can be told."""


class Parts:
    """How many contexts go into a pass: all of them, until that was too much for the memory; then no more than fit.

    A pass that fails is made again. It writes the same keys and values to the same places, so that nothing is lost.
    """

    def __init__(self) -> None:
        self.room: dict[str, int] = {}
        """Contexts that fit into one pass, where more were too many."""
        self.told: str | None = None
        """What was said when memory first ran out; None as long as it has not."""

    def forward(self, plan: Plan, run: Callable[[Plan], Passed]) -> Passed:
        """What `run` gives of the plan, or of its parts put together. Raises what it raises of a single context."""
        n = len(plan.rows)
        return run_in_halves(
            "a pass", n, self.room, lambda most: run(plan) if most == n else _run_parts(plan, most, run), self.tell
        )

    def tell(self, contexts: int, cause: Exception) -> None:
        """Say, once, that memory ran out with so many contexts in one pass."""
        if self.told is None:
            said = str(cause).strip() or type(cause).__name__
            self.told = _TOLD % (contexts, said.splitlines()[0])
            _log.info("%s", self.told)


def _run_parts(plan: Plan, most: int, run: Callable[[Plan], Passed]) -> Passed:
    logits, hidden, places = [], [], []
    for part, place in split_plan(plan, most):
        found, read = run(part)
        logits.append(found)
        hidden.append(read)
        places.append(place)
    order = torch.as_tensor(np.argsort(np.concatenate(places)), device=logits[0].device)
    read = [x for x in hidden if x is not None]
    return torch.cat(logits)[order], torch.cat(read)[order] if len(read) == len(hidden) else None
