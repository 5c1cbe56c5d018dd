"""What is looked at whenever a network or a decoder has been called."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import FeynkacError, ModelError, is_out_of_memory
from feynkac.base.parts import run_in_halves
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from feynkac.models.diffusion.state import Latents

T = TypeVar("T")
_ROOM = "rows that fit into the memory"
"""The key in a run's memory of how many rows the network, the decoder and the preview take at once."""
_log = logging.getLogger(__name__)


@contextmanager
def within_memory(what: str, rows: int) -> Iterator[None]:
    """Raises ModelError where memory runs out while `what` works on so many rows, with what to set."""
    try:
        yield
    except Exception as cause:
        if not is_out_of_memory(cause):
            raise
        less = (
            f"give the model batch={rows // 2}, or less: it then takes so many rows at a time, with the same result"
            if rows > 1
            else "that is the least there is: use half precision, a smaller sample, or a cheaper decode= or preview="
        )
        count = f"{rows} rows at once" if rows > 1 else "1 row"
        raise ModelError(f"memory ran out while {what} worked on {count}; {less}") from cause


def run_in_parts(state: Latents, what: str, x: Tensor, run: Callable[[Tensor], T]) -> list[T]:
    """What `run` gives of `x` (R, ...), or of parts of its rows where that was too much for the memory.

    From then on `what` gets no more rows at once than fit, which the results of the run say. Raises ModelError where
    memory runs out with a single row.
    """
    room: dict[str, int] = state.memory.share(_ROOM, dict)
    with within_memory(what, 1):  # with more, it is tried again
        return run_in_halves(
            what,
            len(x),
            room,
            lambda most: [run(part) for part in x.split(most)],
            lambda most, _: tell(state, warn_of_memory(what, most)),
        )


def warn_of_memory(what: str, rows: int) -> str:
    """Say in the log that memory ran out while `what` worked on so many rows, and return what was said."""
    said = (
        f"memory ran out while {what} worked on {rows} rows; it gets fewer at a time from now on, which takes longer "
        "and changes nothing else; batch= of the model sets how many"
    )
    _log.info("%s", said)
    return said


def tell(state: Latents, said: str) -> None:
    """Let the results of the run of `state` say it among their warnings."""
    state.memory.note(said, np.unique(state.group, return_index=True)[1])


def differ(one: Tensor, other: Tensor, elsewhere: bool = False) -> bool:
    """Whether a network says different things in `one` and in `other` of the same shape, beyond rounding.

    `elsewhere`: they come from batches of different sizes, for which devices may round float32 to fewer bits (TF32).
    """
    eps = torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
    if elsewhere and one.dtype == torch.float32 and one.device.type != "cpu":
        eps = 2.0**-10
    return bool((one.float() - other.float()).norm() > eps**0.5 * one.float().norm())


def decode_latents(state: Latents, latents: Tensor) -> Tensor:
    """(R, ...) the samples that R final latents are.

    Raises ModelError for what the decoder raises, where memory runs out, for another number of samples, and for samples
    that are not finite.
    """
    return _show(state, state.sampler.decode, "the decoder", latents)


def preview_latents(state: Latents, latents: Tensor) -> Tensor:
    """(R, ...) what guesses see of R clean latents. Raises ModelError as `decode_latents` does."""
    sampler = state.sampler
    name = "the decoder" if sampler.preview is sampler.decode else "the preview"
    return _show(state, sampler.preview, name, latents)


def _show(state: Latents, decode: Callable[[Tensor], Tensor], name: str, latents: Tensor) -> Tensor:
    parts = run_in_parts(state, name, latents, lambda part: _show_part(decode, name, part))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _show_part(decode: Callable[[Tensor], Tensor], name: str, latents: Tensor) -> Tensor:
    try:
        samples = decode(latents)
    except FeynkacError:
        raise
    except Exception as cause:  # which would be blamed on the reward that wants to see the samples
        if is_out_of_memory(cause):
            raise
        raise ModelError(
            f"{name} '{name_of(decode)}' raised {type(cause).__name__}: {cause}; it was given latents of shape "
            f"{tuple(latents.shape)}"
        ) from cause
    if not isinstance(samples, Tensor) or samples.ndim == 0 or len(samples) != len(latents):
        found = f"shape {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise ModelError(
            f"{name} made {found} of {len(latents)} latents; it must return a tensor with one sample for each"
        )
    # A sum is one pass over the samples, and finite unless they are not, or overflow it.
    if not math.isfinite(samples.detach().sum().item()) and not bool(torch.isfinite(samples).all()):
        known = bool(torch.isfinite(latents).all())
        raise ModelError(
            f"{name} made samples with nan or infinity of latents that are finite; it overflows, as happens in half "
            "precision: run it in float32"
            if known
            else "the latents hold nan or infinity, and so must what the network predicted; run it in float32"
        )
    return samples
