"""The next token of every particle: on the CPU one fused kernel, on other devices a few batched operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.masks import TokenMask, unpack
from feynkac.models.language.draw import draw, normalise

if TYPE_CHECKING:
    from torch import Tensor


class Drawn(NamedTuple):
    """The draws of R particles from U contexts."""

    tokens: NDArray[np.int64]
    """(R,) tokens; -1 where the mask allows none."""
    log_prob: NDArray[np.float64]
    """(R,) log-probabilities of the tokens under the unmasked law, in nats; -inf for no token."""
    log_mass: NDArray[np.float64]
    """(U,) log of the probability that each mask leaves, in nats."""


def next_tokens(
    logits: Tensor,
    mask: TokenMask,
    scale: NDArray[np.float32],
    context: NDArray[np.int64],
    uniforms: NDArray[Any],
    pinned: int | None = None,
) -> Drawn:
    """Draw for each particle from the law of its context, masked and renormalised.

    `logits` (U, V) float32, `mask` (U, ceil(V / 32)), `scale` (U,) one over the temperature, `context` (R,) the
    context of each particle, `uniforms` (R,). The first particle takes `pinned` instead, if it is given.
    """
    if logits.device.type != "cpu" and uniforms.dtype != object:
        return _next_tokens_on_device(logits, mask, scale, context, uniforms, pinned)
    values = logits.cpu().numpy()
    law = normalise(values, mask, scale)
    tokens = draw(values, mask, scale, law, context, uniforms)
    if pinned is not None:
        tokens[0] = pinned
    log_prob = np.float64(values[context, tokens]) * scale[context] - law.log_total[context]
    return Drawn(tokens, np.where(tokens < 0, -np.inf, log_prob), law.log_mass)


def _next_tokens_on_device(logits, mask, scale, context, uniforms, pinned) -> Drawn:
    import torch

    device = logits.device
    scaled = logits * torch.as_tensor(scale, device=device)[:, None]
    log_p = torch.log_softmax(scaled, dim=1)
    allowed = torch.as_tensor(unpack(mask, logits.shape[1]), device=device)
    masked = log_p.masked_fill(~allowed, -torch.inf)
    log_mass = torch.logsumexp(masked.double(), dim=1)
    rows = torch.as_tensor(context, device=device)
    cdf = torch.cumsum(torch.exp(masked.double() - log_mass[:, None]).nan_to_num(0.0), dim=1)
    points = torch.as_tensor(uniforms, device=device)[:, None] * cdf[rows, -1:]
    tokens = torch.searchsorted(cdf[rows], points, right=True).squeeze(1)
    # u * total may round up to the total: the last token with mass is then the one meant.
    last = logits.shape[1] - 1 - torch.argmax((masked.flip(1) > -torch.inf).int(), dim=1)
    tokens = torch.minimum(tokens, last[rows])
    if pinned is not None:
        tokens[0] = pinned
    log_prob = log_p[rows, tokens].double()
    dead = log_mass[rows] == -torch.inf
    tokens, log_prob = tokens.masked_fill(dead, -1), log_prob.masked_fill(dead, -torch.inf)
    return Drawn(tokens.cpu().numpy(), log_prob.cpu().numpy(), log_mass.cpu().numpy())
