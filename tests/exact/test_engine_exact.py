"""E[Z_hat] = Z and E[sum w f] = Z E[f] for every f, to 1e-12, for every resampler, by walking all possible runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from toys import (
    Problem,
    TextModel,
    TextPotential,
    Toy,
    assert_equal_masses,
    assert_exact,
    chain,
    tempered,
    text,
    text_truth,
)

from feynkac.smc.checks import name_of
from feynkac.smc.engine import Step, smc
from feynkac.smc.resample import (
    adaptive,
    chopthin,
    islands,
    killing,
    mean_partition,
    multinomial,
    never,
    optimal,
    residual,
    shrink,
    split,
    ssp,
    stratified,
    systematic,
    then,
)
from feynkac.smc.rng import Streams
from feynkac.smc.testing import Choices, enumerate_runs, expectation

SCHEMES = {
    "never": never,
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
    "ssp": ssp,
    "killing": killing,
    "chopthin(4)": chopthin(4.0),
    "chopthin(6)": chopthin(6.0),
    "mean_partition(systematic)": mean_partition(systematic),
    "mean_partition(ssp)": mean_partition(ssp),
    "adaptive(systematic, 0.9)": adaptive(systematic, 0.9),
    "adaptive(multinomial, 0.7)": adaptive(multinomial, 0.7),
    "adaptive(ssp, 0.8, max)": adaptive(ssp, 0.8, measure="max"),
}

PAIRS = {
    "text, truncated": text(3),
    "text, ended": text(2, "end"),
    "chain": chain(3),
    "tempered": tempered(3),
}
TRIPLES = {"text, truncated": text(2), "chain": chain(2), "tempered": tempered(2), "two moves": tempered(2, moves=2)}


@pytest.mark.parametrize("toy", PAIRS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_particles(toy: str, scheme: str) -> None:
    assert_exact(PAIRS[toy], SCHEMES[scheme], 2)


@pytest.mark.parametrize("toy", TRIPLES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_three_particles(toy: str, scheme: str) -> None:
    assert_exact(TRIPLES[toy], SCHEMES[scheme], 3)


# name: scheme, particles at the start
RESIZING = {
    "optimal, 3 to 2": (optimal(2), 3),
    "shrinking systematic, 3 to 2": (shrink(systematic, 2), 3),
    "growing ssp, 2 to 3": (shrink(ssp, 3), 2),
    "chopthin, 2 to 3": (chopthin(4.0, 3), 2),
    "split in 2": (split(2), 1),
    "beam: expand 2 to 4, keep 2": (then(split(2), optimal(2)), 2),
    "beam: keep 2 of 4, expand": (then(optimal(2), split(2)), 2),
    "adaptive optimal": (adaptive(optimal(2), 0.8), 3),
}


@pytest.mark.parametrize("toy", ["text, truncated", "chain", "tempered"])
@pytest.mark.parametrize("scheme", RESIZING)
def test_populations_that_change_size(toy: str, scheme: str) -> None:
    assert_exact(TRIPLES[toy], *RESIZING[scheme])


@pytest.mark.parametrize("inner", [systematic, adaptive(systematic, 0.9), then(split(2), optimal(2))], ids=name_of)
@pytest.mark.parametrize("toy", [chain(2), tempered(2), text(1, "end")], ids=["chain", "tempered", "text"])
def test_islands(toy: Toy, inner: Any) -> None:
    assert_exact(toy, islands(inner, 2), 4)


def test_islands_are_independent_runs() -> None:
    toy, z = chain(2), math.fsum(chain(2).truth.values())

    def product(rng: Choices) -> list[float]:
        log_w = toy.run(n=4, resample=islands(systematic, 2), rng=rng).log_weight
        first, second = 2 * np.exp(log_w[:2]).sum(), 2 * np.exp(log_w[2:]).sum()
        return [first, second, first * second]

    np.testing.assert_allclose(expectation(product), [z, z, z * z], rtol=1e-12)


def test_the_toys_can_die_out_and_their_particles_end_at_different_steps() -> None:
    toy, seen = text(3), []

    def run(rng: Choices) -> tuple[bool, int]:
        steps = list(smc(toy.model, toy.potential, n=2, resample=systematic, rng=rng))
        seen.append(any(step.done.any() and not step.ended for step in steps))
        return steps[-1].log_z == -math.inf, len(steps)

    extinct, lengths = zip(*(outcome for _, outcome in enumerate_runs(run)), strict=True)
    assert any(extinct) and not all(extinct) and set(lengths) == {1, 2, 3} and any(seen)


# --- at every step, not only at the end ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["systematic", "adaptive(systematic, 0.9)", "chopthin(4)", "killing"])
def test_every_step_is_weighted_for_the_target_so_far(scheme: str) -> None:
    """E[sum_i w_i 1{x_i = x}] = p(x_{<=t}) psi_t(x) for every partial path of the chain, so a run may be stopped."""
    toy = chain(3)

    def partial(rng: Choices) -> np.ndarray:
        found = np.zeros((3, 2, 2))
        for step in smc(toy.model, toy.potential, n=2, resample=SCHEMES[scheme], rng=rng):
            for past, log_w in zip(step.state.outcomes(), step.log_weight, strict=True):
                found[step.t, past[0], past[-1]] += math.exp(log_w)
        return found

    mean = expectation(partial)
    p, r = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0.9, -0.6])
    best = np.array([[max(a, b) for b in r] for a in r])
    first = np.diag(p[0] * np.exp(1.5 * r))
    second = p[0][:, None] * p * np.exp(1.5 * best)
    last = p[0][:, None] * (p @ p) * np.exp(1.5 * r)
    np.testing.assert_allclose(mean, np.stack([first, second, last]), atol=1e-12)


# --- several problems in one batch -----------------------------------------------------------------------------------

SHORT, LONG = Problem(limit=1, at_limit="end"), Problem(limit=2, q=np.array([[0.5, 0.2, 0.3]] * 3))
BATCH = TextModel([SHORT, LONG], sizes=[2, 2])


@pytest.mark.parametrize("scheme", ["systematic", "adaptive(systematic, 0.9)", "optimal"])
def test_two_problems_in_one_batch_are_two_independent_runs(scheme: str) -> None:
    resample = optimal(1) if scheme == "optimal" else SCHEMES[scheme]
    toys = [Toy(BATCH, TextPotential(), text_truth(problem)) for problem in (SHORT, LONG)]

    def run(rng: Choices) -> np.ndarray:
        *_, last = smc(BATCH, TextPotential(), n=[2, 2], resample=resample, rng=rng)
        a, b = (toy.masses(last, last.groups[g]) for g, toy in enumerate(toys))
        return np.concatenate([a, b, np.outer(a, b).ravel()])

    a, b = (np.array(list(toy.truth.values())) for toy in toys)
    assert_equal_masses(expectation(run), np.concatenate([a, b, np.outer(a, b).ravel()]))


@pytest.mark.parametrize("resample", [systematic, adaptive(ssp, 0.7), optimal(3)], ids=name_of)
def test_a_problem_in_a_batch_is_what_it_is_alone_by_seed(resample: Any) -> None:
    problems, sizes = [Problem(limit=2), Problem(limit=6), Problem(limit=4, at_limit="end")], [4, 3, 5]
    for seed in range(10):
        batch = list(smc(TextModel(problems, sizes), TextPotential(), n=sizes, resample=resample, rng=Streams(seed)))
        for g, (problem, size) in enumerate(zip(problems, sizes, strict=True)):
            alone = smc(TextModel([problem]), TextPotential(), n=size, resample=resample, rng=Streams(seed, group=g))
            last = assert_same_steps([step.group(g) for step in batch], list(alone))
            assert batch[-1].state.outcomes()[batch[-1].groups[g]] == last.state.outcomes()


def assert_same_steps(batched: list[Step], alone: list[Step]) -> Step:
    for ours, theirs in zip(batched, alone, strict=False):
        for name in ("log_weight", "level", "rows", "done"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.resampled == theirs.resampled
    for later in batched[len(alone) :]:
        np.testing.assert_array_equal(later.log_weight, alone[-1].log_weight)
        assert later.resampled == (False,)
    return alone[-1]
