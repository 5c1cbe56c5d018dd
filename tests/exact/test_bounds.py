"""Bounds of the evidence, through the face: every run about every posterior sample enumerated, against brute force."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_language_model import law
from toys import chain, text

import feynkac as fk
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.smc.testing import Choices, expectation
from feynkac.steering import bounds as steering


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bound_evidence` that takes its random numbers from an enumeration."""

    def run(rng: Choices, *given: Any, **options: Any) -> Any:
        monkeypatch.setattr(steering, "Streams", lambda seed: SimpleNamespace(at=rng.at, child=rng.child))
        return fk.bound_evidence(*given, **options)

    return run


@pytest.mark.parametrize(("toy", "runs"), [(chain(1), 1), (chain(1), 2), (chain(2), 1)])
def test_an_exact_posterior_sample_makes_bounds_that_hold(bounded: Any, toy: Any, runs: int) -> None:
    """E[lower] <= log Z <= E[upper], over all posterior samples and all runs, in both forms."""
    total = math.fsum(toy.truth.values())

    def found(rng: Choices, path: Any) -> np.ndarray:
        got = bounded(rng, toy.model, toy.potential, particles=2, runs=runs, sample=path)
        assert got.exact and got.gap == got.upper - got.lower
        return np.array([got.lower, got.upper, got.lower_runs.mean(), got.upper_runs.mean(), np.exp(-got.upper)])

    each = [mass / total * expectation(lambda rng, path=path: found(rng, path)) for path, mass in toy.truth.items()]
    lower, upper, mean_lower, mean_upper, inverse = np.sum(each, axis=0)
    assert mean_lower <= lower < math.log(total) < upper <= mean_upper
    assert inverse == pytest.approx(1.0 / total, abs=1e-12)  # no run dies here, so that one over Z is unbiased
    assert runs > 1 or (mean_lower == lower and mean_upper == upper)


def test_without_a_sample_the_upper_bound_is_that_of_a_chain_and_says_so(bounded: Any) -> None:
    """After more sweeps the sample is nearer to the posterior, and the mean nearer to the exact bound."""
    toy = chain(1)
    total = math.fsum(toy.truth.values())

    def mean(**options: Any) -> np.ndarray:
        def found(rng: Choices) -> np.ndarray:
            got = bounded(rng, toy.model, toy.potential, particles=2, runs=1, **options)
            return np.array([got.lower, got.upper, got.exact])

        return expectation(found)

    exact = sum(mass / total * mean(sample=path)[1] for path, mass in toy.truth.items())
    found = [mean(sweeps=sweeps) for sweeps in (1, 2)]
    assert all(lower < math.log(total) and not is_exact for lower, _, is_exact in found)
    assert abs(found[1][1] - exact) < abs(found[0][1] - exact)


class Coins:
    def __init__(self, heads: np.ndarray) -> None:
        self.heads = heads

    def __len__(self) -> int:
        return len(self.heads)

    def fork(self, rows: np.ndarray) -> Coins:
        return Coins(self.heads[rows])


class Toss:
    """One coin, which shows heads with probability 0.3."""

    def init(self, n: int, rng: Any) -> Coins:
        return Coins(np.full(n, -1))

    def step(self, t: int, state: Coins, rng: Any) -> tuple[Coins, np.ndarray]:
        return Coins(np.array([int(u < 0.3) for u in rng.uniform(len(state))])), np.zeros(len(state))

    def done(self, state: Coins) -> np.ndarray:
        return state.heads >= 0

    def replay(self, t: int, state: Coins, rng: Any, reference: int) -> tuple[Coins, np.ndarray]:
        drawn, increment = self.step(t, state.fork(np.arange(1, len(state))), rng)
        return Coins(np.append(reference, drawn.heads)), np.append(0.0, increment)

    def trace(self, state: Coins, row: int) -> int:
        return int(state.heads[row])


class Heads:
    """Only heads have weight, which is foretold by nothing."""

    def level(self, t: int, state: Coins, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))

    def final(self, state: Coins, rows: np.ndarray) -> np.ndarray:
        return np.where(state.heads[rows] > 0, 0.0, -np.inf)


def test_runs_that_die_out_count_in_the_lower_bound(bounded: Any) -> None:
    """E[exp(lower)] = Z over all runs, with 0 where all died: one that died is a lower bound of -inf, and no error."""

    def found(rng: Choices) -> np.ndarray:
        try:
            got = bounded(rng, Toss(), Heads(), particles=2, runs=2, sweeps=1)
        except AllParticlesDied:
            return np.array([0.0, 0.0, 1.0])
        dead = int((got.lower_runs == -math.inf).sum())
        assert len(got.upper_runs) == 2 - dead and math.isfinite(got.upper)
        return np.array([math.exp(got.lower), dead == 1, 0.0])

    mean, one_died, all_died = expectation(found)
    alone = 0.7**2  # one run of two particles dies out
    assert mean == pytest.approx(0.3, abs=1e-12)
    assert one_died == pytest.approx(2 * alone * (1 - alone)) and all_died == pytest.approx(alone**2)


def test_a_prompt_is_bounded_about_a_text_that_it_wrote(tiny_lm: Any) -> None:
    """The path of a text is its tokens, and its end of sequence where it has one."""
    lm = tiny_lm("a", "b", seed=3)
    task, pattern = lm.prompt("a", max_tokens=3), fk.regex("a+b?")
    texts = {(1,), (1, 1), (1, 2), (1, 1, 1), (1, 1, 2)}
    allowed = {tokens: p for tokens, p in law(lm, "a", 3, "truncate").items() if tokens in texts}
    z, upper = math.fsum(allowed.values()), 0.0
    for i, (tokens, p) in enumerate(allowed.items()):
        path = [*tokens, 0] if len(tokens) < 3 else tokens
        found = fk.bound_evidence(task, pattern, particles=8, runs=20, seed=i, sample=path)
        upper += p / z * found.upper
        assert abs(found.lower - math.log(z)) < 0.05
    assert abs(upper - math.log(z)) < 0.05


def test_what_cannot_be_bounded_is_refused(tiny_lm: Any) -> None:
    toy = text(2)
    with pytest.raises(ArgumentError, match="weight zero"):
        fk.bound_evidence(toy.model, toy.potential, sample=(1, 1), seed=0)
    with pytest.raises(ArgumentError, match=r"particles is 1.*at least 2"):
        fk.bound_evidence(toy.model, toy.potential, particles=1)
    with pytest.raises(ArgumentError, match="sweeps is 0"):
        fk.bound_evidence(toy.model, toy.potential, sweeps=0)
    with pytest.raises(ArgumentError, match="cannot walk a path again"):
        fk.bound_evidence(SimpleNamespace(init=1, step=1, done=1), toy.potential)
    with pytest.raises(ArgumentError, match="is no model"):
        fk.bound_evidence(lambda text: text)
    with pytest.raises(ArgumentError, match="one model"):
        fk.bound_evidence([toy.model], toy.potential)
    with pytest.raises(AllParticlesDied):
        fk.bound_evidence(tiny_lm("a", "b").prompt("a", max_tokens=1), fk.constraint(lambda text: False), seed=0)
