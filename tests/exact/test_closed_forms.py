"""Constraints under laws whose evidence has a closed form: geometric series, and linear systems over automaton states.

Texts have no limit. Under the optimal twist every log-weight is the log evidence, whatever is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import length, parser, phrases, product, regex, tokens, wfsa
from feynkac.potentials.constraints.tokenwise import TokenFactor
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, multinomial, ssp, systematic
from feynkac.smc.rng import Streams

VOCABULARY = Vocabulary((b"a", b"b", b"ab", b""), (3,))
A, B, AB, END = 0.3, 0.2, 0.1, 0.4
IID = np.tile([A, B, AB, END], (4, 1))
"""The law of the next token by the last one; the last row is the start."""
BIGRAM = np.array([[0.1, 0.4, 0.2, 0.3], [0.5, 0.0, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
X, Y, W = 0.5, 1.7, 0.9

SERIES: dict[str, tuple[Callable[[], Any], float]] = {
    "every spelling of (ab)*": (lambda: regex("(ab)*"), END / (1 - A * B - AB)),
    "no b": (lambda: regex("[^b]*"), END / (1 - A)),
    "tokens": (lambda: tokens(ban=["b"]), END / (1 - A)),
    "at least two tokens": (lambda: length(min=2), (1 - END) ** 2),
    "at least one character": (lambda: length(min=1, unit="characters"), 1 - END),
    "no bb": (lambda: phrases(ban=["bb"]), END * (1 + B) / ((1 - A) * (1 - AB) - A * (B + AB))),
    "an a": (lambda: phrases(require=["a"]), 1 - END / (1 - B)),
    "a parser of (ab)*": (
        lambda: parser(lambda q, byte: 1 - q if byte == b"ab"[q : q + 1] else None, 0, lambda q: q == 0),
        END / (1 - A * B - AB),
    ),
    "weights of letters": (
        lambda: wfsa([("s", "a", "s", np.log(X)), ("s", "b", "s", np.log(Y))], "s", "s"),
        END / (1 - A * X - B * Y - AB * X * Y),
    ),
    "many paths": (
        lambda: wfsa([("p", "a", "p", np.log(X)), ("p", "a", "q", np.log(Y)), ("q", "b", "q", np.log(W))], "p", "q"),
        END * (A * Y + AB * Y * W) / ((1 - A * X) * (1 - B * W)),
    ),
    "weighted regexes": (
        lambda: wfsa({"[^b]*": np.log(X), "(ab)*": np.log(Y)}),
        END * (X / (1 - A) + Y / (1 - A * B - AB)),
    ),
}


def find_state(factor: Any) -> Callable[[tuple[int, ...]], tuple[Hashable, float, float]]:
    """What is after some tokens: all that the future depends on, the log-weight so far, and what an end adds."""
    if isinstance(factor, TokenFactor):
        automaton = factor.automaton(VOCABULARY)

        def find(ids: tuple[int, ...]) -> tuple[Hashable, float, float]:
            state = np.array([automaton.start])
            for token in ids:
                state = automaton.advance(state, np.array([token]))
            alive = 0.0 if state[0] >= 0 else -np.inf
            return int(state[0]), alive, 0.0 if state[0] >= 0 and automaton.accepts(state)[0] else -np.inf

        return find
    mask, weigh = factor.factors

    def find_weighted(ids: tuple[int, ...]) -> tuple[Hashable, float, float]:
        walk, _ = weigh._find_walk(Texts([ids], np.zeros(1, bool)), np.arange(1))
        ((prospect, log_weight),) = walk.read([np.array(ids, np.int64)])
        alive = find_state(mask)(ids)[1]
        return prospect, log_weight + alive, walk.end(prospect)

    return find_weighted


@dataclass
class Texts:
    """Token sequences."""

    ids: list[tuple[int, ...]]
    ended: np.ndarray
    vocabulary = VOCABULARY

    def __len__(self) -> int:
        return len(self.ids)

    def fork(self, rows: np.ndarray) -> Texts:
        return Texts([self.ids[i] for i in rows], self.ended[rows])

    def tokens(self, rows: np.ndarray) -> list[np.ndarray]:
        return [np.array(self.ids[i], np.int64) for i in rows]


class Prospects:
    """The mass that is to come, by a linear system: h = T h + e over the last token and the state of the automaton."""

    def __init__(self, law: np.ndarray, factor: Any) -> None:
        self.law, self.find = law, find_state(factor)
        number: dict[Any, int] = {self.key(()): 0}
        met: list[tuple[int, ...]] = [()]
        moves: list[tuple[int, int, float]] = []
        ends = []
        for i, ids in enumerate(met):  # grows as it goes
            _, before, end = self.find(ids)
            ends.append(law[self.last(ids), 3] * np.exp(end))
            for token in range(3):
                longer = (*ids, token)
                gain = self.find(longer)[1] - before
                if gain > -np.inf and law[self.last(ids), token] > 0:
                    j = number.setdefault(self.key(longer), len(met))
                    if j == len(met):
                        met.append(longer)
                    moves.append((i, j, law[self.last(ids), token] * np.exp(gain)))
        matrix = np.eye(len(met))
        for i, j, mass in moves:
            matrix[i, j] -= mass
        self.mass = dict(zip(number, np.linalg.solve(matrix, np.array(ends)), strict=True))

    @property
    def evidence(self) -> float:
        return float(np.exp(self.find(())[1]) * self.to_come(()))

    def key(self, ids: tuple[int, ...]) -> Any:
        return self.last(ids), self.find(ids)[0]

    @staticmethod
    def last(ids: tuple[int, ...]) -> int:
        return ids[-1] if ids else 3

    def to_come(self, ids: tuple[int, ...]) -> float:
        return self.mass.get(self.key(ids), 0.0)


class Steered:
    """The law itself, drawn from its optimal proposal."""

    def __init__(self, prospects: Prospects) -> None:
        self.h = prospects

    def init(self, n: int, rng: Any) -> Texts:
        return Texts([()] * n, np.zeros(n, bool))

    def step(self, t: int, state: Texts, rng: Any) -> tuple[Texts, np.ndarray]:
        p = np.array([self.h.law[self.h.last(ids)] for ids in state.ids])
        q = np.zeros_like(p)
        for i, ids in enumerate(state.ids):
            _, before, end = self.h.find(ids)
            for token in range(3):
                longer = (*ids, token)
                q[i, token] = np.exp(self.h.find(longer)[1] - before) * self.h.to_come(longer)
            q[i, 3] = np.exp(end)
        q *= p
        q /= q.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            drawn = rng.categorical(np.log(q))
        running, rows = ~state.ended, np.arange(len(state))
        log_ratio = np.log(p[rows, drawn]) - np.log(q[rows, drawn])
        ids = [(*s, int(v)) if run and v < 3 else s for s, v, run in zip(state.ids, drawn, running, strict=True)]
        return Texts(ids, state.ended | (drawn == 3)), np.where(running, log_ratio, 0.0)

    def done(self, state: Texts) -> np.ndarray:
        return state.ended


class Twist:
    """The log of the mass to come."""

    def __init__(self, prospects: Prospects) -> None:
        self.h = prospects

    def level(self, t: int, state: Texts, rows: np.ndarray) -> np.ndarray:
        return np.log([self.h.to_come(state.ids[i]) for i in rows])

    def final(self, state: Texts, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))


@pytest.mark.parametrize("case", SERIES)
def test_independent_tokens_give_the_geometric_series(case: str) -> None:
    make, z = SERIES[case]
    assert Prospects(IID, make()).evidence == pytest.approx(z, rel=1e-12)


@pytest.mark.parametrize("law", [IID, BIGRAM], ids=["independent", "bigram"])
@pytest.mark.parametrize("case", SERIES)
def test_with_the_optimal_twist_every_weight_is_the_evidence(case: str, law: np.ndarray) -> None:
    factor = SERIES[case][0]()
    prospects = Prospects(law, factor)
    log_z = np.log(prospects.evidence)
    for seed, (n, scheme) in enumerate([(1, killing), (5, multinomial), (4, systematic), (6, adaptive(ssp, ess=0.5))]):
        potential = product(factor, Twist(prospects))
        *_, last = smc(Steered(prospects), potential, n=n, resample=scheme, rng=Streams(seed))
        np.testing.assert_allclose(last.log_weight + np.log(n), log_z, atol=1e-12, rtol=0)


def test_a_bigram_law_under_a_pattern_is_the_matrix_series() -> None:
    """(ab)* by hand: the tokens a, b and ab, and after a only b."""
    p = BIGRAM
    after_b_or_ab = np.array([[p[1, 0] * p[0, 1], p[1, 2]], [p[2, 0] * p[0, 1], p[2, 2]]])
    mass = np.linalg.solve(np.eye(2) - after_b_or_ab, np.array([p[1, 3], p[2, 3]]))
    z = p[3, 3] + np.array([p[3, 0] * p[0, 1], p[3, 2]]) @ mass
    for factor in (SERIES["every spelling of (ab)*"][0](), SERIES["a parser of (ab)*"][0]()):
        assert Prospects(BIGRAM, factor).evidence == pytest.approx(z, rel=1e-12)
