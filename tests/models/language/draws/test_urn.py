"""Urns against float64 numpy, down to the last token."""

from __future__ import annotations

import numpy as np
import pytest

from feynkac.base.masks import pack
from feynkac.models.language.draws.kernels import BLOCK, normalise
from feynkac.models.language.draws.urn import EnumeratedUrn, FastUrn


def make_urn(logits, allowed, scale, context):
    mask = pack(allowed)
    return FastUrn(logits, mask, scale, normalise(logits, mask, scale), context)


def draw_one(urn, at, uniforms):
    return urn.draw(at, uniforms[:, None], np.ones(len(at), np.int64))[:, 0]


def take_out_one(urn, at, tokens):
    return urn.take_out(at, tokens[:, None], np.ones(len(at), np.int64))[:, 0]


def empty(urn, rng, rows):
    """The tokens of each urn in the order drawn, and what was left after each."""
    order, left = [[] for _ in range(rows)], [[] for _ in range(rows)]
    going = np.arange(rows)
    while len(going):
        drawn = draw_one(urn, going, rng.random(len(going)))
        going, drawn = going[drawn >= 0], drawn[drawn >= 0]
        take_out_one(urn, going, drawn)
        for i, token in zip(going, drawn, strict=True):
            order[i].append(int(token))
            left[i].append(urn.log_left[i])
    return order, left


@pytest.mark.parametrize("spread", [1.0, 40.0, 300.0])
def test_an_urn_is_emptied_to_its_last_token_and_knows_what_is_left(spread) -> None:
    """Also where each token has e^-300 of the mass of the one before."""
    rng = np.random.default_rng(3)
    n_tokens, rows = 2 * BLOCK + 37, 12
    logits = rng.standard_normal((2, n_tokens)).astype(np.float32) * np.float32(spread)
    allowed = rng.random((2, n_tokens)) < 0.02
    scale = np.array([1.0, 0.5], np.float32)
    context = np.arange(rows) % 2
    order, left = empty(make_urn(logits, allowed, scale, context), rng, rows)
    for i, c in enumerate(context):
        assert sorted(order[i]) == np.flatnonzero(allowed[c]).tolist()
        scaled = np.float64(logits[c] * scale[c])[order[i]]
        log_left = np.logaddexp.accumulate(scaled[::-1])[::-1]
        np.testing.assert_allclose(left[i][:-1], log_left[1:] - log_left[0], rtol=1e-6, atol=2e-5)
        assert left[i][-1] == -np.inf


def make_both(spread):
    """The two kinds of urns over one law with few tokens, four rows each, made anew at each call."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((2, BLOCK + 70)).astype(np.float32) * np.float32(spread)
    allowed = rng.random(logits.shape) < 0.05
    context = np.arange(4) % 2
    masked = np.where(allowed, np.float64(logits), -np.inf)
    return {
        "fast": lambda: make_urn(logits, allowed, np.ones(2, np.float32), context),
        "enumerated": lambda: EnumeratedUrn(masked, context),
    }


@pytest.mark.parametrize("kind", ["fast", "enumerated"])
@pytest.mark.parametrize("spread", [1.0, 40.0, 300.0])
def test_tokens_drawn_ahead_are_those_of_one_draw_after_the_other_to_the_last_bit(spread, kind) -> None:
    """However many are drawn ahead, and however few of them are then taken out, until the urns are empty."""
    rng, rows = np.random.default_rng(7), np.arange(4)
    many, single = (make_both(spread)[kind]() for _ in range(2))
    for _ in range(40):
        uniforms, count = rng.random((4, 6)), rng.integers(1, 7, 4)
        drawn = many.draw(rows, uniforms, count)
        assert (drawn == many.draw(rows, uniforms, count)).all()
        taken = np.minimum((drawn >= 0).sum(axis=1), rng.integers(0, 7, 4))
        left = many.take_out(rows, drawn, taken)
        assert ((drawn[:, 0] >= 0) == (single.log_left > -np.inf)).all()
        for i in rows:
            for j in range(taken[i]):
                assert draw_one(single, rows[[i]], uniforms[i, [j]]) == drawn[i, j]
                assert take_out_one(single, rows[[i]], drawn[i, [j]]) == left[i, j]
        assert (many.log_left == single.log_left).all()
    assert (many.log_left == -np.inf).any()


def test_draws_have_the_law_of_what_is_left() -> None:
    """Of 4,000 urns of which one token was taken out: z-scores of the shares, false alarm 1e-4 for each of five."""
    rng = np.random.default_rng(1)
    logits = np.array([[1.0, 0.0, -1.0, 2.0, 0.5, 3.0]], np.float32)
    n = 4000
    urn = make_urn(logits, np.array([[True] * 5 + [False]]), np.ones(1, np.float32), np.zeros(n, np.int64))
    take_out_one(urn, np.arange(n), np.full(n, 3))
    drawn = draw_one(urn, np.arange(n), rng.random(n))
    p = np.exp(np.float64(logits[0])) * [1, 1, 1, 0, 1, 0]
    p /= p.sum()
    counts = np.bincount(drawn, minlength=6)
    assert counts[[3, 5]].tolist() == [0, 0]
    z = (counts - n * p)[p > 0] / np.sqrt(n * p * (1 - p))[p > 0]
    assert np.abs(z).max() < 3.9


def test_urns_are_apart_and_leave_logits_and_masks_alone() -> None:
    logits, allowed = np.zeros((1, 4), np.float32), np.array([[True, True, False, True]])
    mask = pack(allowed)
    law = normalise(logits, mask, np.ones(1, np.float32))
    urn = FastUrn(logits, mask, np.ones(1, np.float32), law, np.zeros(2, np.int64))
    for token in (0, 1, 3):
        take_out_one(urn, np.array([1]), np.array([token]))
    assert draw_one(urn, np.arange(2), np.zeros(2)).tolist() == [0, -1]
    assert urn.log_left.tolist() == [0.0, -np.inf]
    assert (mask == pack(allowed)).all() and (law.blocks == 3.0).any()


def test_an_urn_of_nothing_is_empty() -> None:
    urn = make_urn(np.zeros((1, 4), np.float32), np.zeros((1, 4), bool), np.ones(1, np.float32), np.zeros(1, np.int64))
    assert draw_one(urn, np.zeros(1, np.int64), np.zeros(1)).tolist() == [-1]
    assert urn.log_left.tolist() == [-np.inf]
    assert EnumeratedUrn(np.full((1, 4), -np.inf), np.zeros(1, np.int64)).log_left.tolist() == [-np.inf]


def test_both_urns_agree() -> None:
    logits = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    allowed = np.ones((1, 50), bool)
    urns = [
        make_urn(logits, allowed, np.ones(1, np.float32), np.zeros(1, np.int64)),
        EnumeratedUrn(np.float64(logits), np.zeros(1, np.int64)),
    ]
    one = np.zeros(1, np.int64)
    for u in (0.1, 0.9, 0.5, 0.5, 0.99, 0.0):
        first, second = (draw_one(urn, one, np.array([u])) for urn in urns)
        assert first == second
        for urn in urns:
            take_out_one(urn, one, first)
        np.testing.assert_allclose(urns[0].log_left, urns[1].log_left, rtol=0, atol=1e-6)
