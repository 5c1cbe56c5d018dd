"""A bigram model given a context-free grammar: the evidence is known by recursion over the depth of brackets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import mask_within, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, multinomial, systematic
from feynkac.smc.testing import enumerate_runs

VOCABULARY = Vocabulary((b"", b"[", b"]", b"[]", b"]["), (0,))
P = (
    np.array([[0, 6, 1, 2, 1], [1, 3, 4, 1, 1], [4, 2, 2, 1, 1], [3, 2, 2, 2, 1], [2, 1, 5, 1, 1]]) / 10
)  # row: the last token


@dataclass(frozen=True)
class Drawn:
    """N token sequences, 0 where they have ended."""

    sequences: np.ndarray
    vocabulary: Vocabulary = VOCABULARY

    def __len__(self) -> int:
        return len(self.sequences)

    def fork(self, rows: Any) -> Drawn:
        return replace(self, sequences=self.sequences[rows])

    def tokens(self, rows: Any) -> list[np.ndarray]:
        return [row[row > 0] for row in self.sequences[rows]]

    def texts(self, rows: Any) -> list[str]:
        return [self.vocabulary.text(tokens) for tokens in self.tokens(rows)]


class Bigrams:
    """Texts of up to `limit` tokens by a bigram model, drawn under the masks of a grammar."""

    def __init__(self, constraint: Any, limit: int, within: bool) -> None:
        self.automaton, self.limit, self.within = constraint.automaton(VOCABULARY), limit, within

    def init(self, n: int, rng: Any) -> Drawn:
        return Drawn(np.zeros((n, 0), dtype=np.int64))

    def step(self, t: int, state: Drawn, rng: Any) -> tuple[Drawn, np.ndarray]:
        done, inc = self.done(state), np.zeros(len(state))
        column, uniform = np.zeros(len(state), dtype=np.int64), rng.uniform(len(state))
        for i in np.flatnonzero(~done):
            sequence, place = state.sequences[i], np.array([self.automaton.start])
            for token in sequence:
                place = self.automaton.advance(place, np.array([token]))
            left = np.array([self.limit - len(sequence) if self.within else 99])
            law = P[sequence[-1] if len(sequence) else 0] * unpack(mask_within(self.automaton, place, left), 5)[0]
            with np.errstate(divide="ignore"):
                inc[i] = np.log(law.sum())
            if law.sum():
                *below, _ = np.cumsum(law[law > 0]) / law.sum()
                column[i] = np.flatnonzero(law)[sum(bool(uniform[i] >= edge) for edge in below)]
        return Drawn(np.column_stack([state.sequences, column])), inc

    def done(self, state: Drawn) -> np.ndarray:
        ended = (state.sequences[:, -1:] == 0).any(axis=1)
        return ended | (state.sequences.shape[1] == self.limit)


def find_evidence(limit: int) -> float:
    """The mass of balanced texts: forwards over the last token and the depth, an end or the limit at depth 0."""
    mass, total = {(0, 0): 1.0}, 0.0
    for _ in range(limit):
        after: dict[tuple[int, int], float] = {}
        for (last, depth), m in mass.items():
            total += m * P[last, 0] if depth == 0 else 0.0
            for token, (low, change) in {1: (0, 1), 2: (-1, -1), 3: (0, 0), 4: (-1, 0)}.items():
                if depth + low >= 0:
                    key = token, depth + change
                    after[key] = after.get(key, 0.0) + m * P[last, token]
        mass = after
    return total + sum(m for (_, depth), m in mass.items() if depth == 0)


@pytest.mark.parametrize(
    "lark", ['start: ("[" start "]")*', 'start: "[" start "]" start |', 'start: start start | "[" start "]" |']
)
@pytest.mark.parametrize(
    ("limit", "n", "resample"), [(2, 2, systematic), (3, 1, systematic), (3, 2, adaptive(multinomial, ess=0.9))]
)
def test_the_evidence_of_balanced_brackets_is_exact(lark: str, limit: int, n: int, resample: Any) -> None:
    constraint, deaths = fk.grammar(lark), {}
    for within in (True, False):
        model = Bigrams(constraint, limit, within)

        def run(rng: Any, model: Bigrams = model) -> float:
            *_, last = smc(model, fk.product(constraint), n=n, resample=resample, rng=rng)
            rows = np.flatnonzero(last.log_weight > -np.inf)
            assert all(map(balanced, last.state.texts(rows)))
            return float(np.exp(last.log_weight).sum())

        runs = list(enumerate_runs(run))
        assert sum(p for p, _ in runs) == pytest.approx(1.0, abs=1e-12)
        assert sum(p * z for p, z in runs) == pytest.approx(find_evidence(limit), rel=1e-12)
        deaths[within] = sum(p for p, z in runs if z == 0.0)
    assert deaths[True] < deaths[False]


def balanced(text: str) -> bool:
    while "[]" in text:
        text = text.replace("[]", "")
    return not text
