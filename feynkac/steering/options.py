"""The keywords of `steer`: their types, for editors and type checkers, and what to do in place of others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from feynkac.base.arguments import refuse_names
from feynkac.base.contract import Resample
from feynkac.smc.budgets import Budget
from feynkac.smc.observers import Observer
from feynkac.steering.algorithms import Algorithm
from feynkac.steering.checkpoints.saved import Saved
from feynkac.steering.checkpoints.saving import Checkpoint
from feynkac.steering.executors.pieces import Executor


class SteerOptions(TypedDict, total=False):
    """What `steer` takes besides a model and potentials; what each means is in its docstring."""

    particles: int
    algorithm: Algorithm
    resampler: str | Resample
    ess_threshold: float
    islands: int
    sweeps: int | None
    moves: Any
    seed: int | None
    progress: bool | None
    on_death: Literal["raise", "return"]
    observers: Iterable[Observer]
    executor: Executor | None
    budget: Budget | None
    checkpoint: str | os.PathLike[str] | Checkpoint | Saved | None


_POTENTIALS = "potentials come behind the model, without a name: fk.steer(lm.prompt(...), potential, another)"
_PROBLEM = "the problem comes first, without a name: fk.steer(lm.prompt('...', max_tokens=30), ...)"
ADVICE = {
    **dict.fromkeys(
        ("constraint", "constraints", "potential", "potentials", "reward", "rewards", "critic"), _POTENTIALS
    ),
    **dict.fromkeys(("prompt", "prompts", "text", "lm", "task"), _PROBLEM),
    "logits_processor": "it belongs to lm.prompt(...), and what masks or weighs texts is a potential, behind the model",
    "num_beams": "it is particles=, with algorithm='beam'",
    "steps": "it is max_tokens of lm.prompt(...) for texts, and belongs to fk.Diffusion.from_pipeline(...) for images",
    "num_workers": "give executor=fk.RayExecutor(workers=...)",
    "workers": "it belongs to fk.RayExecutor(...), and of slow rewards to fk.reward(...)",
}
"""What to do in place of keywords that `steer` is given by mistake."""


def check_names(called: str, options: Mapping[str, Any]) -> None:
    """Raises UnknownArgument for keywords of the function `called` that `steer` has not."""
    refuse_names(called, options.keys() - SteerOptions.__annotations__, list(SteerOptions.__annotations__), ADVICE)
