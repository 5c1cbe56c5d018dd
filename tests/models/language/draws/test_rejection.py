"""Rejection of tokens in rows that draw ahead: what is the same as without, and what it asks for."""

from __future__ import annotations

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import pack
from feynkac.models.language.draws import rejection
from feynkac.models.language.draws.kernels import normalise
from feynkac.models.language.draws.rejection import Checks, Rounds, reject
from feynkac.models.language.draws.urn import FastUrn

ROWS, N_TOKENS = 8, 3000
NEVER = 1 << 40


class Accepts:
    """Knows which tokens are accepted, and what each row was asked about."""

    def __init__(self, accepted) -> None:
        self.accepted, self.rounds = accepted, 0
        self.asked: list[list[int]] = [[] for _ in range(ROWS)]

    def check(self, states, tokens, group):
        self.rounds += 1
        for row, token in zip(states[:, 0], tokens, strict=True):
            self.asked[row].append(int(token))
        return np.isin(tokens, self.accepted)


class Seeded:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)

    def uniform(self, n):
        return self._rng.random(n)


def run(monkeypatch, accepted, part, draws=3):
    """Tokens and shares of some rows, and who was asked about what."""
    monkeypatch.setattr(rejection, "_PART", part)
    logits = np.random.default_rng(0).standard_normal((1, N_TOKENS)).astype(np.float32) * np.float32(2.0)
    mask, scale, context = pack(np.ones((1, N_TOKENS), bool)), np.ones(1, np.float32), np.zeros(ROWS, np.int64)
    urn = FastUrn(logits, mask, scale, normalise(logits, mask, scale), context)
    rows, rng, asks = np.arange(ROWS), Seeded(), Accepts(accepted)
    checks = Checks(asks, rows[:, None], context, np.full(ROWS, draws), Rounds(rng, rng.uniform(ROWS)), rows)
    return *reject(urn, checks), asks


@pytest.mark.parametrize("accepted", [range(0, 3000, 2), range(0, 3000, 150), [7, 8], [2999], []])
def test_a_row_that_draws_ahead_has_the_token_and_the_weight_of_one_that_does_not(monkeypatch, accepted) -> None:
    """To the last bit, with the same uniform numbers, however far ahead is drawn."""
    tokens, log_share, _ = run(monkeypatch, accepted, NEVER)
    for part in (8, 3, 1):
        again, log_again, _ = run(monkeypatch, accepted, part)
        assert (again == tokens).all() and (log_again == log_share).all()
    assert np.isin(tokens, accepted).all() if len(accepted) else (tokens == -1).all()


def test_what_is_asked_in_vain_is_one_eighth_of_what_was_rejected_at_most(monkeypatch) -> None:
    """Of each row, whatever its state accepts; without drawing ahead nothing is asked in vain."""
    for accepted in (range(0, 3000, 5), range(0, 3000, 50), range(0, 3000, 400), [7, 8]):
        _, _, needed = run(monkeypatch, accepted, NEVER)
        _, _, asks = run(monkeypatch, accepted, 8)
        for alone, ahead in zip(needed.asked, asks.asked, strict=True):
            rejected = len(set(alone) - set(accepted))
            assert len(alone) <= len(ahead) <= len(alone) + rejected / 8


def test_many_rejections_take_few_rounds_of_questions(monkeypatch) -> None:
    """A round asks about an eighth more than all before it, up to 64 tokens of a row."""
    _, _, needed = run(monkeypatch, [7], NEVER)
    _, _, asks = run(monkeypatch, [7], 8)
    assert needed.rounds > 1000
    assert asks.rounds < needed.rounds / 15


def test_a_run_is_the_same_to_the_last_bit_however_far_ahead_its_rows_draw(tiny_lm, monkeypatch) -> None:
    lm = tiny_lm("a", "b", "e", seed=3)
    results = []
    for part in (NEVER, 8, 1):
        monkeypatch.setattr(rejection, "_PART", part)
        results.append(fk.steer(lm.prompt("a", max_tokens=6), fk.lazy(lambda t: "b" not in t), particles=8, seed=4))
    first, *others = results
    assert all(each.texts == first.texts and each.log_evidence == first.log_evidence for each in others)
