"""Processors of a user's own: functions of tokens and scores, which must say the same whenever they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from feynkac.base.errors import ModelError
from feynkac.smc.checks import call, name_of

if TYPE_CHECKING:
    from torch import Tensor

Processor: TypeAlias = "Callable[[Any, Any], Tensor]"
"""It makes scores (U, V) from token ids (U, T) and scores (U, V), all of them tensors."""
_REPEATS = 2  # calls that are made again: what a first call lays up may show in the second only
_CLOSE = 1e-3  # nats, far beyond what the place of a row does to the rounding of a processor's own network


class Watched:
    """A processor that is given copies, and is asked twice about the first rows, the second time in another order.

    Raises ModelError for what are no scores, and for scores that are others the second time: rows are copied, merged
    and asked about in any order, so that what counts calls or rows would be a law of its own in each.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor, self._repeats = processor, _REPEATS

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        import torch

        found = self._ask(ids, logits)
        if self._repeats > 0:
            self._repeats -= 1
            again = self._ask(ids.flip(0), logits.flip(0)).flip(0)
            if not torch.allclose(found, again, rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
                raise ModelError(
                    f"'{name_of(self._processor)}' in logits_processor returned other scores when it was asked again "
                    "about the same texts in another order; it must be a function of each row's tokens and scores "
                    "alone, and keep nothing between calls"
                )
        return found

    def _ask(self, ids: Tensor, logits: Tensor) -> Tensor:
        import torch

        found = call(self._processor, ids.clone(), logits.clone(), of=self._processor)
        if not isinstance(found, torch.Tensor) or found.shape != logits.shape:
            what = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ModelError(
                f"'{name_of(self._processor)}' in logits_processor returned {what}; it must return scores of shape "
                f"{tuple(logits.shape)}, as those it was given"
            )
        return found.detach().to(logits)
