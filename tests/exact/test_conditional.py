"""Conditional SMC leaves the target invariant, and bounds the evidence, both proven by enumeration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from toys import Problem, TextModel, TextPotential, Toy, chain, text, text_truth

from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.smc import conditional
from feynkac.smc.conditional import csmc, gibbs, sandwich, select
from feynkac.smc.engine import Step
from feynkac.smc.resample import multinomial
from feynkac.smc.rng import Streams
from feynkac.smc.schemes import systematic
from feynkac.smc.testing import Choices, expectation
from feynkac.smc.weights import log_sum_exp

TOYS = {
    "text, truncated": (text(2), 2),
    "text, ended": (text(2, "end"), 2),
    "text of one token": (text(1), 3),
    "chain": (chain(3), 2),
    "short chain": (chain(2), 3),
}


def target(toy: Toy) -> dict[Any, float]:
    z = math.fsum(toy.truth.values())
    return {path: mass / z for path, mass in toy.truth.items() if mass > 0}


def last_of(toy: Toy, reference: Any, n: int, rng: Any) -> Step:
    *_, last = csmc(toy.model, toy.potential, reference, n=n, rng=rng)
    return last


def transition(toy: Toy, reference: Any, n: int) -> tuple[np.ndarray, float]:
    """The law of the next path, and E[1/Z_hat], by enumeration."""
    paths = list(target(toy))

    def run(rng: Choices) -> np.ndarray:
        last = last_of(toy, reference, n, rng)
        chosen = toy.model.trace(last.state, select(last, rng))
        return np.array([*(path == chosen for path in paths), math.exp(-last.log_z)])

    *law, inverse_z = expectation(run)
    return np.array(law), inverse_z


def assert_invariant(toy: Toy, n: int) -> None:
    """pi P = pi, and E_pi[1/Z_hat] = P(plain SMC survives) / Z, for 1/Z_hat is no function of an extinct run."""
    pi, z = target(toy), math.fsum(toy.truth.values())
    rows, inverse = zip(*(transition(toy, path, n) for path in pi), strict=True)
    weights = np.array(list(pi.values()))
    error = np.abs(weights @ np.stack(rows) - weights).max()
    alive = expectation(lambda rng: toy.run(n=n, resample=multinomial, rng=rng).log_z > -math.inf)
    bias = weights @ np.array(inverse) * z / alive - 1
    assert error < 1e-12 and abs(bias) < 1e-12, f"pi P - pi = {error:.1e}, E[1/Z] Z / P - 1 = {bias:.1e}"


@pytest.mark.parametrize("name", TOYS)
def test_the_target_is_invariant(name: str) -> None:
    assert_invariant(*TOYS[name])


def overwritten(rows: np.ndarray, log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows[0] = 0
    return rows, np.full(len(rows), log_sum_exp(log_weight) - math.log(len(rows)))


def sorted_multinomial(log_weight: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """particles: slot 0 of a sorted draw is overwritten by the reference."""
    rows, _ = multinomial(log_weight, rng)
    return overwritten(np.sort(rows), log_weight)


def overwritten_systematic(log_weight: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """GeneralisedFilters.jl: slot 0 of a systematic draw is overwritten by the reference."""
    rows, _ = systematic(log_weight, rng)
    return overwritten(rows, log_weight)


def reference_weighs_twice(log_weight: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """The reference keeps its own weight when it is pinned."""
    rows, new = conditional_multinomial(log_weight, rng)
    new[0] = log_weight[0]
    return rows, new


conditional_multinomial = conditional._conditional_multinomial


@pytest.mark.parametrize(
    ("mutant", "toy", "n", "measured"),
    [
        (sorted_multinomial, chain(2), 3, "pi P - pi = 1.2e-02, E[1/Z] Z / P - 1 = -1.7e-02"),
        (overwritten_systematic, chain(2), 3, "pi P - pi = 1.7e-02, E[1/Z] Z / P - 1 = -2.4e-02"),
        (overwritten_systematic, text(2), 2, "pi P - pi = 6.8e-03, E[1/Z] Z / P - 1 = 4.7e-02"),
        (reference_weighs_twice, chain(2), 2, "pi P - pi = 3.5e-02, E[1/Z] Z / P - 1 = 3.2e-02"),
    ],
)
def test_mutants_are_caught(mutant: Any, toy: Toy, n: int, measured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "_conditional_multinomial", mutant)
    with pytest.raises(AssertionError) as caught:
        assert_invariant(toy, n)
    assert str(caught.value).startswith(measured), caught.value


def test_the_reference_keeps_row_0_at_every_step() -> None:
    toy = chain(3)
    for seed in range(20):
        last = last_of(toy, (1, 0, 1), 4, Streams(seed))
        assert toy.model.trace(last.state, 0) == (1, 0, 1)


def test_gibbs_runs_conditional_smc_about_the_path_before() -> None:
    problem = Problem(limit=1)
    toy = Toy(TextModel([problem]), TextPotential(), {k: m for k, m in text_truth(problem).items() if m})
    paths = list(toy.truth)
    start, p = paths[0], np.stack([transition(toy, path, 2)[0] for path in paths])

    def laws(rng: Choices) -> np.ndarray:
        chain_ = list(gibbs(toy.model, toy.potential, n=2, sweeps=2, rng=rng, resample=multinomial, reference=start))
        assert all(sweep.path == toy.model.trace(sweep.step.state, sweep.row) for sweep in chain_)
        return np.array([[path == sweep.path for path in paths] for sweep in chain_])

    first, second = expectation(laws)
    np.testing.assert_allclose(first, p[0], atol=1e-12)
    np.testing.assert_allclose(second, p[0] @ p, atol=1e-12)


def test_sweeps_have_numbers_of_their_own_and_can_be_repeated() -> None:
    def paths(seed: int) -> list[Any]:
        toy = chain(3)
        sweeps = gibbs(toy.model, toy.potential, n=3, sweeps=40, rng=Streams(seed), resample=systematic)
        return [sweep.path for sweep in sweeps]

    assert paths(4) == paths(4) != paths(5)
    assert len(set(paths(4))) > 1


def test_the_evidence_lies_between_the_two_bounds() -> None:
    toy, pi = chain(2), target(chain(2))
    log_z = math.log(math.fsum(toy.truth.values()))
    bounds = {
        path: expectation(
            lambda rng, path=path: sandwich(toy.model, toy.potential, path, n=2, resample=systematic, rng=rng)
        )
        for path in pi
    }
    lower, upper = sum(pi[path] * bounds[path] for path in pi)
    assert lower < log_z < upper


def test_what_cannot_be_a_reference_is_refused() -> None:
    toy = text(2)
    with pytest.raises(ArgumentError, match="reference path has weight zero at step 1"):
        last_of(toy, (1, 1), 2, Streams(0))
    with pytest.raises(ArgumentError, match="at least 2"):
        last_of(toy, (0, 1), 1, Streams(0))


def test_nothing_is_selected_from_the_dead() -> None:
    toy = text(2)
    last = last_of(toy, (0, 1), 2, Streams(0))
    last.log_weight[:] = -np.inf
    with pytest.raises(AllParticlesDied, match="all 2 particles have died"):
        select(last, Streams(0))
