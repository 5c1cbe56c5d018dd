"""The draw on a device against the compiled one of the CPU, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from same_draws import compare, make

from feynkac.base.errors import ModelError
from feynkac.base.masks import pack
from feynkac.models.language.draws import next_token
from feynkac.models.language.draws.kernels import BLOCK
from feynkac.models.language.draws.next_token import score_tokens, sum_masses
from feynkac.models.language.kernels import draws as kernels


def draw_on_device(*arguments, pinned=None):
    return next_token._draw_by_kernels(*arguments, pinned)


@pytest.mark.parametrize(
    ("n", "n_tokens", "rows"),
    [(3, 128, 12), (3, 31, 12), (2, BLOCK, 6), (3, BLOCK + 1, 12), (4, 5000, 12), (2, 262_144, 3)],
)
def test_the_same_uniform_numbers_give_the_same_tokens(n: int, n_tokens: int, rows: int) -> None:
    given = make(n, n_tokens, rows, seed=n_tokens)
    compare(given, draw_on_device(*given))


def test_a_mask_that_leaves_almost_nothing_keeps_its_exact_mass() -> None:
    """Tokens 300 nats below the best one underflow in float32 unless they are summed relative to their own peak."""
    logits = np.full((1, 3000), -300.0, np.float32)
    logits[0, [0, 2999]] = 0.0, -301.0
    allowed = np.ones((1, 3000), bool)
    allowed[0, 0] = False
    one = np.ones(1, np.float32)
    found = draw_on_device(torch.from_numpy(logits), pack(allowed), one, np.zeros(9, int), np.linspace(0, 1, 9, False))
    np.testing.assert_allclose(found.log_mass, np.log(2998 * np.exp(-300.0) + np.exp(-301.0)), atol=2e-6)
    assert allowed[0, found.tokens].all() and len(set(found.tokens)) == 9


def test_blocks_far_below_the_best_are_drawn_with_their_shares() -> None:
    """In a block of weight e^-60 no token is drawn, at the last of all numbers either; alone it is drawn from."""
    logits = np.full((2, 2 * BLOCK), -60.0, np.float32)
    logits[:, :BLOCK] = 0.0
    allowed = np.ones_like(logits, bool)
    allowed[1, :BLOCK] = False
    given = (torch.from_numpy(logits), pack(allowed), np.ones(2, np.float32))
    found = draw_on_device(*given, np.array([0, 0, 1, 1]), np.array([0.0, 1.0 - 2.0**-53, 0.0, 1.0 - 2.0**-53]))
    assert found.tokens.tolist() == [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1]


@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-53])
def test_extreme_uniforms_choose_tokens_with_mass(u: float) -> None:
    logits, mask, scale, *_ = make(3, 2 * BLOCK + 37, 1, share=0.9)
    logits[:, 10:20] = -np.inf
    logits[:, -5:] = -np.inf
    found = draw_on_device(logits, mask, scale, np.arange(3), np.full(3, u))
    assert np.isfinite(found.log_prob[:2]).all() and found.tokens[2] == -1


def test_a_pinned_token_and_dead_ends() -> None:
    given = make(4, 300, 12, seed=3)
    given[3][0] = 3  # the context where nothing is allowed
    found = draw_on_device(*given, pinned=7)
    compare(given, found, pinned=7)
    assert found.tokens[0] == 7 and found.log_mass[3] == -np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["one", "all"])
def test_logits_that_are_no_law_are_a_model_error(bad: float, where: str) -> None:
    logits, mask, scale, context, uniforms = make(3, BLOCK + 9, 5)
    logits[1, 17 if where == "one" else slice(None)] = bad
    ways = [
        lambda: draw_on_device(logits, mask, scale, context, uniforms),
        lambda: next_token._sum_by_kernels(logits, mask, scale),
        lambda: next_token._sum_by_kernels(logits, None, scale),
    ]
    for way in ways:
        if bad == -np.inf and where == "one":  # single tokens may well have no probability
            way()
            continue
        with pytest.raises(ModelError, match="logits of the next token hold"):
            way()


def test_masses_and_scores_are_those_of_the_cpu(monkeypatch) -> None:
    logits, mask, scale, context, _ = make(4, 2 * BLOCK + 3, 30)
    tokens = np.random.default_rng(1).integers(-1, logits.shape[1], 30)
    wanted = sum_masses(logits, mask, scale), score_tokens(logits, scale, context, tokens, exact=False)
    monkeypatch.setattr(next_token, "_is_on_host", lambda logits: False)
    monkeypatch.setattr(next_token, "_has_kernels", lambda logits: True)
    for one, other in zip(wanted[0], sum_masses(logits, mask, scale), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=3e-6)
    found = score_tokens(logits, scale, context, tokens, exact=False)
    np.testing.assert_allclose(found, wanted[1], rtol=0, atol=3e-6)


def test_masks_of_another_vocabulary_are_refused_before_they_are_read() -> None:
    logits, mask, scale, context, uniforms = make(3, 200, 5)
    for other in (mask[:, :3], mask[:2]):
        with pytest.raises(ModelError, match="as many logits as its vocabulary has tokens"):
            draw_on_device(logits, other, scale, context, uniforms)
    with pytest.raises(ModelError, match="contexts"):
        draw_on_device(logits, mask, scale, context + 3, uniforms)


def test_logits_that_do_not_lie_evenly() -> None:
    logits, *rest = make(3, 100, 9)
    wide = torch.zeros(3, 130)
    wide[:, :100] = logits
    wanted, found = draw_on_device(logits, *rest), draw_on_device(wide[:, :100], *rest)
    assert all(np.array_equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert kernels.BLOCK % 32 == 0  # a block begins with a word of the mask
