"""How several laws of the next token make one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from feynkac.base.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """A law of the next token, made of K of them and locally normalised."""

    kind: Literal["product", "mixture"]
    """Proportional to prod_k p_k^w_k, or to sum_k w_k p_k."""
    weights: tuple[float, ...]
    plausible: float = 0.0
    """The share of the first law's likeliest token that a token has at least in it, or else it is left out."""

    def combine(self, log_laws: Sequence[Tensor]) -> Tensor:
        """(U, V) float32 nats of the law that K laws (U, V) make, each in float64 nats.

        Raises ModelError where they leave no token.
        """
        import torch

        if self.kind == "mixture":
            shares = [law + np.log(weight) for law, weight in zip(log_laws, self.weights, strict=True)]
            found = torch.logsumexp(torch.stack(shares), 0)
        else:
            lacking = torch.stack([law.isneginf() for law in log_laws]).any(0)
            # Filled before they are multiplied: minus infinity times a negative weight would let in what one excludes.
            parts = [w * law.masked_fill(lacking, 0.0) for w, law in zip(self.weights, log_laws, strict=True)]
            found = torch.stack(parts).sum(0).masked_fill(lacking, -torch.inf)
        if self.plausible:
            least = log_laws[0].amax(1, keepdim=True) + np.log(self.plausible)
            found = found.masked_fill(log_laws[0] < least, -torch.inf)
        log_total = torch.logsumexp(found, 1, keepdim=True)
        if not log_total.isfinite().all():
            raise ModelError(
                "the laws of the ensemble's prompts leave no token that all of them allow; loosen what leaves tokens "
                "out (top_k, top_p, min_p, plausible)"
            )
        return (found - log_total).float()
