"""Draws made elsewhere than on the CPU, compared with those of its compiled kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from feynkac.base.masks import pack
from feynkac.models.language.draws.next_token import Drawn, draw_tokens, mask_laws


def make(n: int, n_tokens: int, rows: int, seed: int = 0, spread: float = 3.0, share: float = 0.3) -> tuple[Any, ...]:
    """Logits, masks, scales, contexts and uniforms; the last context may go on with nothing."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, n_tokens)) * spread).astype(np.float32)
    allowed = rng.random((n, n_tokens)) < share
    allowed[-1] = False
    scale = rng.uniform(0.5, 2.0, n).astype(np.float32)
    return torch.from_numpy(logits), pack(allowed), scale, rng.integers(0, n, rows), rng.random(rows)


def compare(given: tuple[Any, ...], found: Drawn, pinned: int | None = None) -> None:
    """The same token but for uniforms within 1e-6 of a boundary; numbers to the rounding of float32 exponentials."""
    wanted = draw_tokens(*given, pinned)
    assert ((found.tokens >= -1) & (found.tokens < given[0].shape[1])).all()
    same = wanted.tokens == found.tokens
    assert all(_is_on_boundary(given, i, found.tokens[i]) for i in np.flatnonzero(~same))
    np.testing.assert_allclose(found.log_prob[same], wanted.log_prob[same], rtol=0, atol=3e-6)
    np.testing.assert_allclose(found.log_mass, wanted.log_mass, rtol=0, atol=3e-6)


def _is_on_boundary(given: tuple[Any, ...], i: int, token: int) -> bool:
    """Whether the uniform number of row i is as good as where the token begins or ends in the exact law."""
    logits, mask, scale, context, uniforms = given
    c = slice(context[i], context[i] + 1)
    masked, log_mass = mask_laws(logits[c], mask[c], scale[c])[1:]
    p = np.exp(masked[0] - log_mass[0])
    end = p[: token + 1].sum()
    return token >= 0 and min(abs(end - uniforms[i]), abs(end - p[token] - uniforms[i])) < 1e-6
