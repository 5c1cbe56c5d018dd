"""The next token of every row: one pass over the logits on the CPU and on CUDA, elsewhere a few batched operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ModelError
from feynkac.base.masks import TokenMask, unpack
from feynkac.models.language.draws.kernels import check_contexts, check_shapes, draw, normalise

if TYPE_CHECKING:
    from torch import Tensor


class Drawn(NamedTuple):
    """The draws of R rows from the laws of U contexts."""

    tokens: NDArray[np.int64]
    """(R,) tokens; -1 where the mask allows none."""
    log_prob: NDArray[np.float64]
    """(R,) log-probabilities of the tokens under the unmasked law, in nats; -inf for no token."""
    log_mass: NDArray[np.float64]
    """(U,) log of the probability that each mask leaves, in nats; (R,) where each row has an estimate of its own."""


def draw_tokens(
    logits: Tensor,
    mask: TokenMask,
    scale: NDArray[np.float32],
    context: NDArray[np.int64],
    uniforms: NDArray[Any],
    pinned: int | None = None,
) -> Drawn:
    """Draw for each row from the law of its context, masked and renormalised.

    `logits` (U, V) float32, `mask` (U, ceil(V / 32)), `scale` (U,) one over the temperature, `context` (R,) the
    context of each row, `uniforms` (R,). The first row takes `pinned` instead, if it is given. Raises ModelError for
    logits that are no law.
    """
    if uniforms.dtype == object:
        return _draw_enumerated(logits, mask, scale, context, uniforms, pinned)
    if not _is_on_host(logits):
        draw_there = _draw_by_kernels if _has_kernels(logits) else _draw_on_device
        return draw_there(logits, mask, scale, context, uniforms, pinned)
    values = logits.numpy()
    law = normalise(values, mask, scale)
    check_law(law.log_total, logits)
    tokens = draw(values, mask, scale, law, context, uniforms)
    if pinned is not None:
        tokens[0] = pinned
    log_prob = np.float64(values[context, np.maximum(tokens, 0)]) * scale[context] - law.log_total[context]
    return Drawn(tokens, np.where(tokens < 0, -np.inf, log_prob), law.log_mass)


def check_law(log_total: NDArray[np.float64], logits: Tensor) -> None:
    """Raises ModelError unless the (U,) log-totals of (U, V) logits are finite; it says what the logits hold."""
    if np.isfinite(log_total).all():
        return
    row = int(np.flatnonzero(~np.isfinite(log_total))[0])
    found = logits[row].double().cpu().numpy()
    bad = ~(found < np.inf)
    held = f"{found[bad][0]} for token {np.flatnonzero(bad)[0]}" if bad.any() else "nothing that can be normalised"
    raise ModelError(
        f"the model's logits of the next token hold {held}, so that they are no law; look at its weights and its dtype "
        "(float16 overflows where bfloat16 and float32 do not), and at the temperature"
    )


def sum_masses(
    logits: Tensor, mask: TokenMask, scale: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(U,) log-sums of exp(logit / temperature) over all tokens, and over those of each mask; -inf for no token.

    Raises ModelError for logits that are no law.
    """
    if _is_on_host(logits):
        law = normalise(logits.numpy(), mask, scale)
        check_law(law.log_total, logits)
        return law.log_total, law.log_allowed
    if _has_kernels(logits):
        return _sum_by_kernels(logits, mask, scale)
    import torch

    scaled = (logits * torch.as_tensor(scale, device=logits.device)[:, None]).double()
    forbidden = torch.as_tensor(~unpack(mask, logits.shape[1]), device=logits.device)
    total = torch.logsumexp(scaled, 1).cpu().numpy()
    check_law(total, logits)
    return total, torch.logsumexp(scaled.masked_fill(forbidden, -torch.inf), 1).cpu().numpy()


def score_tokens(
    logits: Tensor, scale: NDArray[np.float32], context: NDArray[np.int64], tokens: NDArray[np.int64], exact: bool
) -> NDArray[np.float64]:
    """(R,) log-probabilities of tokens under the unmasked laws of their contexts, in nats; -inf for token -1.

    `exact`: in float64 throughout, where else sums of float32 exponentials are taken (2e-7).
    """
    import torch

    if not exact and _has_kernels(logits):
        log_total = _sum_by_kernels(logits, None, scale)[0]
    elif exact or not _is_on_host(logits):
        scaled = logits.double() * torch.as_tensor(scale, dtype=torch.float64, device=logits.device)[:, None]
        log_total = torch.logsumexp(scaled, 1).cpu().numpy()
    else:
        values = logits.numpy()
        everything = np.full((len(values), -(-values.shape[1] // 32)), 0xFFFFFFFF, np.uint32)
        log_total = normalise(values, everything, scale).log_total
    check_law(log_total, logits)
    chosen = logits[torch.from_numpy(context), torch.from_numpy(np.maximum(tokens, 0))].double().cpu().numpy()
    return np.where(tokens < 0, -np.inf, chosen * scale[context] - log_total[context])


def mask_laws(
    logits: Tensor, mask: TokenMask, scale: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(U, V) log-probabilities in float64, the same with -inf for what each mask forbids, and (U,) their log-masses.

    Raises ModelError for logits that are no law.
    """
    scaled = logits.cpu().numpy().astype(np.float64) * scale[:, None]
    with np.errstate(invalid="ignore"):
        log_total = np.logaddexp.reduce(scaled, axis=1)
    check_law(log_total, logits)
    log_p = scaled - log_total[:, None]
    masked = np.where(unpack(mask, scaled.shape[1]), log_p, -np.inf)
    return log_p, masked, np.logaddexp.reduce(masked, axis=1)


def _draw_enumerated(logits, mask, scale, context, uniforms, pinned) -> Drawn:
    """The same in float64 and by comparisons alone, for the symbolic uniforms of `smc.testing`: exact to rounding."""
    log_p, masked, log_mass = mask_laws(logits, mask, scale)
    cdf = np.cumsum(np.exp(masked), axis=1)
    tokens = np.full(len(context), -1, np.int64)
    for i, c in enumerate(context):
        support = np.flatnonzero(masked[c] > -np.inf)
        tokens[i] = next((v for v in support if uniforms[i] < cdf[c, v] / cdf[c, -1]), -1)
    if pinned is not None:
        tokens[0] = pinned
    return Drawn(tokens, np.where(tokens < 0, -np.inf, log_p[context, np.maximum(tokens, 0)]), log_mass)


def _is_on_host(logits: Tensor) -> bool:
    return logits.device.type == "cpu"


def _has_kernels(logits: Tensor) -> bool:
    """Whether Triton's kernels serve logits where they are."""
    from feynkac.models.language.kernels.availability import has_kernels

    return has_kernels(logits.device)


def _draw_by_kernels(logits, mask, scale, context, uniforms, pinned) -> Drawn:
    import torch

    from feynkac.models.language.kernels import draws

    check_shapes(logits.shape, mask, scale)
    check_contexts(context, len(logits))
    with torch.cuda.device_of(logits):  # Triton launches on the current device, wherever its tensors are
        found = draws.draw(logits, mask, scale, context, uniforms, pinned)
    check_law(found.log_total, logits)
    return Drawn(found.tokens, found.log_prob, found.log_allowed - found.log_total)


def _sum_by_kernels(logits, mask, scale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import torch

    from feynkac.models.language.kernels import draws

    if mask is not None:
        check_shapes(logits.shape, mask, scale)
    with torch.cuda.device_of(logits):
        log_total, log_allowed = draws.sum_up(logits, mask, scale)
    check_law(log_total, logits)
    return log_total, log_allowed


def _draw_on_device(logits, mask, scale, context, uniforms, pinned) -> Drawn:
    import torch

    device = logits.device
    scaled = logits * torch.as_tensor(scale, device=device)[:, None]
    log_p = torch.log_softmax(scaled, dim=1)
    check_law(log_p[:, 0].nan_to_num(np.nan, 0.0, 0.0).cpu().numpy(), logits)  # NaN fills its whole row
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
