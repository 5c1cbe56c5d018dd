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


def empty(urn, rng, rows):
    """The tokens of each urn in the order drawn, and what was left after each."""
    order, left = [[] for _ in range(rows)], [[] for _ in range(rows)]
    going = np.arange(rows)
    while len(going):
        drawn = urn.draw(going, rng.random(len(going)))
        going, drawn = going[drawn >= 0], drawn[drawn >= 0]
        urn.take_out(going, drawn)
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


def test_draws_have_the_law_of_what_is_left() -> None:
    """Of 4,000 urns of which one token was taken out: z-scores of the shares, false alarm 1e-4 for each of five."""
    rng = np.random.default_rng(1)
    logits = np.array([[1.0, 0.0, -1.0, 2.0, 0.5, 3.0]], np.float32)
    n = 4000
    urn = make_urn(logits, np.array([[True] * 5 + [False]]), np.ones(1, np.float32), np.zeros(n, np.int64))
    urn.take_out(np.arange(n), np.full(n, 3))
    drawn = urn.draw(np.arange(n), rng.random(n))
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
        urn.take_out(np.array([1]), np.array([token]))
    assert urn.draw(np.arange(2), np.zeros(2)).tolist() == [0, -1]
    assert urn.log_left.tolist() == [0.0, -np.inf]
    assert (mask == pack(allowed)).all() and (law.blocks == 3.0).any()


def test_an_urn_of_nothing_is_empty() -> None:
    urn = make_urn(np.zeros((1, 4), np.float32), np.zeros((1, 4), bool), np.ones(1, np.float32), np.zeros(1, np.int64))
    assert urn.draw(np.zeros(1, np.int64), np.zeros(1)).tolist() == [-1]
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
        first, second = (urn.draw(one, np.array([u])) for urn in urns)
        assert first == second
        for urn in urns:
            urn.take_out(one, first)
        np.testing.assert_allclose(urns[0].log_left, urns[1].log_left, rtol=0, atol=1e-6)
