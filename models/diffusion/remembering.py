"""Whether a denoiser keeps something of its latents in its own attributes, which would not fork with the particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.errors import ModelError, is_out_of_memory
from feynkac.models.diffusion.checks import differ
from feynkac.models.diffusion.tree import gather

if TYPE_CHECKING:
    from feynkac.models.diffusion.state import Latents

FORKED = "whether particles were copied, and denoisers proved to be forgetful since"
"""The key in a run's memory."""


def note_fork(state: Latents) -> None:
    """Let the denoisers of the run of `state` be tried when they are asked next, unless they were."""
    state.memory.share(FORKED, dict[str, bool]).setdefault("proved", False)


def prove_forgetful(state: Latents, x0hat: Tensor, ask: Callable[[Rows], Tensor], denoisers: Any) -> None:
    """Raises ModelError where denoisers say something else of latents that stand in other rows, or are asked again.

    `x0hat` (N, ...) is what they have just said of `state`; `ask` asks them about some rows once more. It is done once
    in a run, for two rows of each problem, after the first fork: without one, nothing has to be copied.
    """
    known = state.memory.share(FORKED, dict[str, bool])
    if known.get("proved", True):
        return
    known["proved"] = True
    pairs = [np.flatnonzero(state.alive & (state.group == g))[:2][::-1] for g in np.unique(state.group)]
    rows = np.concatenate(pairs)
    try:
        again = ask(rows)
    except Exception as cause:  # whatever it keeps may not fit to two rows
        if is_out_of_memory(cause):
            raise
        rows = next(state.sampler.batches(np.flatnonzero(state.alive)))[::-1].copy()
        again = ask(rows)
    before = gather(x0hat, rows)
    if any(differ(one, other, elsewhere=True) for one, other in zip(before, again, strict=True)):
        names = ", ".join(dict.fromkeys(type(each).__name__ for each in denoisers))
        raise ModelError(
            f"{names} says something else of the same latents when it is asked again: it remembers earlier calls, "
            "depends on the other rows, or draws numbers of its own. What is kept in its attributes would stay with "
            "the row when particles are copied: return it as Prediction.carry (see Recurrent), call eval() on its "
            "networks, or take algorithm='best_of_n' or 'importance', which copy nothing"
        )
