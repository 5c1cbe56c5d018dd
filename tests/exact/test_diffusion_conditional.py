"""Conditional SMC on samplers: paths are walked again bit by bit, and the target stays what it is.

The law of the chain is known by quadrature, or in closed form (see test_diffusion). Exact paths of the target come from
rejection: the rewards are at most 0, so that a path of the chain is kept with probability exp(reward).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_diffusion import (
    EXPERTS,
    GAUSSIAN,
    PRIOR,
    SCALE,
    SCHEDULES,
    Exact,
    chain_law,
    composed,
    quadratic,
    sampler_of,
    seen,
)

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc.conditional import csmc, gibbs, sandwich
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial, systematic
from feynkac.smc.rng import Streams

Z_LIMIT, CHAINS = 3.0, 300
REWARD = fk.reward(quadratic, SCALE, batch=True)
SHORT = fd.flow([0.8, 0.5, 0.25, 0.1], eta=1.0)
PROPOSALS = {
    "base": fd.BASE,
    "denoiser": fd.Guided(REWARD, through="denoiser", trust=0.5),
    "x0hat": fd.Guided(REWARD, trust=0.5),  # it takes the variance from the population
    "far": fd.Guided(REWARD, through="denoiser", strength=3.0),  # farther than is good: weights matter more
}


def short(proposal="base", denoiser=PRIOR, cls=fd.DiffusionSampler):
    return cls(denoiser, SHORT, (1,), proposal=PROPOSALS[proposal], dtype=torch.float64)


def walked(sampler, n, seed, move):
    """The last state and all increments of `n` particles that are never resampled."""
    source, increments = Streams(seed), []
    state = sampler.init(n, source.at("init", 0, [n]))
    state.record()
    for t in range(len(sampler.schedule)):
        state, inc = move(sampler, t, state, source.at("propose", t, [n]))
        increments.append(inc)
    return state, np.array(increments)


def stepped(sampler, t, state, rng):
    return sampler.step(t, state, rng)


def along(path):
    return lambda sampler, t, state, rng: sampler.replay(t, state, rng, path)


def same(path, other):
    return all(torch.equal(a, b) for a, b in zip(path.latents, other.latents, strict=True))


def exact_paths(sampler, reward, count, seed):
    """Paths of the target, by rejection from the chain itself."""
    seed = 10_000 + 100 * seed
    base, found = fd.DiffusionSampler(sampler.denoiser, sampler.schedule, sampler.shape, dtype=torch.float64), []
    while len(found) < count:
        seed += 1
        state, _ = walked(base, 1024, seed, stepped)
        kept = np.random.default_rng(seed).random(1024) < np.exp(reward.final(state, np.arange(1024)))
        found += [base.trace(state, row) for row in np.flatnonzero(kept)]
    return found[:count]


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_path_is_walked_again_bit_by_bit(schedule, proposal):
    """In another population, too: that of a resampled run, whose path has changed its slot on the way."""
    sampler = sampler_of(schedule, proposal=PROPOSALS[proposal])
    state, increments = walked(sampler, 4, 0, stepped)
    again, others = walked(sampler, 4, 0, along(sampler.trace(state, 0)))
    assert torch.equal(state.x, again.x) and np.array_equal(increments, others)
    *_, sweep = gibbs(sampler, REWARD, n=4, sweeps=3, rng=Streams(0), resample=systematic)
    path = sampler.trace(sweep.step.state, 3)
    assert len(path.latents) == len(sampler.schedule) + 1
    *_, last = csmc(sampler, REWARD, path, n=5, rng=Streams(1))
    assert same(path, sampler.trace(last.state, 0))
    assert not all(same(path, sampler.trace(last.state, row)) for row in range(5))


def test_increments_are_those_of_step_in_any_slot_where_the_proposal_sees_one_row_only():
    sampler = sampler_of(proposal=PROPOSALS["denoiser"])
    state, increments = walked(sampler, 4, 0, stepped)
    _, others = walked(sampler, 3, 1, along(sampler.trace(state, 2)))
    assert np.array_equal(increments[:, 2], others[:, 0])


def test_correctors_and_the_first_draw_are_weighed_again():
    sampler = fd.DiffusionSampler(
        composed(EXPERTS["guidance"]), SHORT, (1,), proposal=PROPOSALS["denoiser"], dtype=torch.float64
    )
    state, increments = walked(sampler, 4, 0, stepped)
    _, others = walked(sampler, 3, 1, along(sampler.trace(state, 2)))
    assert np.array_equal(increments[:, 2], others[:, 0])


def test_lineages_share_their_past_and_the_dead_are_freed():
    sampler = short()
    state, _ = walked(sampler, 4, 0, stepped)
    fork = state.fork(np.array([1, 1, 1, 3]))
    paths = [sampler.trace(fork, row) for row in range(4)]
    assert all(a is b for a, b in zip(paths[0].latents, paths[1].latents, strict=True))
    assert not any(a is b for a, b in zip(paths[0].latents, paths[3].latents, strict=True))
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in paths[0].latents), "a view keeps its population alive"


def test_a_resampled_population_keeps_few_latents():
    """About T + N log N of T N."""
    sampler = fd.DiffusionSampler(PRIOR, fd.ddpm(50), (1,))
    *_, sweep = gibbs(sampler, REWARD, n=64, sweeps=2, rng=Streams(0), resample=systematic)
    paths = [sampler.trace(sweep.step.state, row) for row in range(64)]
    held = len({id(x) for path in paths for x in path.latents})
    assert held < 2 * (50 + 64 * math.log(64)) < 64 * 51 / 4


def test_paths_are_kept_on_request_only():
    *_, last = smc(short(), REWARD, n=4, resample=systematic, rng=Streams(0))
    assert last.state.past is None
    with pytest.raises(ArgumentError, match="were not kept"):
        short().trace(last.state, 0)


def test_what_cannot_be_walked_is_refused():
    class Unweighable:
        start, prepare, move = fd.BASE.start, fd.BASE.prepare, fd.BASE.move

    path = exact_paths(short(), REWARD, 1, 0)[0]
    with pytest.raises(ArgumentError, match="give it the methods start_ratio"):
        list(csmc(fd.DiffusionSampler(PRIOR, SHORT, (1,), proposal=Unweighable()), REWARD, path, n=2, rng=Streams(0)))
    with pytest.raises(ArgumentError, match="none of this sampler"):
        list(csmc(sampler_of(), REWARD, path, n=2, rng=Streams(0)))


# --- the target ------------------------------------------------------------------------------------------------------


class Weighable(Exact):
    """The optimal proposal of a linear-Gaussian chain, which can weigh what it did not draw."""

    def weight(self, mean, std, optimal, x):
        inner, offset, cov = optimal
        q = torch.distributions.MultivariateNormal(mean @ inner.T + offset, cov)
        return torch.distributions.Normal(mean, std).log_prob(x).sum(1) - q.log_prob(x)

    def start_ratio(self, std, x):
        return self.weight(torch.zeros_like(x), std, self.first, x)

    def ratio(self, state, transition, mean, x):
        return self.weight(mean, transition.std, self.optimal[state.t], x)


@pytest.mark.parametrize("schedule", ["ddim", "flow", "euler", "lcm"])
def test_exact_twist_and_optimal_proposal_leave_no_variance_about_any_reference(schedule):
    exact = Weighable(GAUSSIAN, SCHEDULES[schedule], fp.observed(*seen()))
    optimal, base = (sampler_of(schedule, GAUSSIAN, (3,), proposal=each) for each in (exact, fd.BASE))
    for sampler in (optimal, base):  # a path of the target, and one of the chain
        state, _ = walked(sampler, 3, 0, stepped)
        *_, last = csmc(optimal, exact, sampler.trace(state, 1), n=3, rng=Streams(1))
        assert abs(last.log_z - exact.log_z) < 1e-8


@pytest.fixture(scope="module")
def expected():
    """E[1{x > 0.5}], E[x] and E[x^2] under the target, and 1 / Z."""
    x, mass = chain_law(PRIOR, SHORT)
    tilted = mass * np.exp(SCALE * quadratic(x[:, None]))
    return np.array([tilted[x > 0.5].sum(), tilted @ x, tilted @ x**2, 1.0]) / tilted.sum()


def moments(log_w, x):
    """(4,) sum_i W_i f(x_i) for f = 1{x > 0.5}, x, x^2 of a whole population, and 1 / Z_hat."""
    w = np.exp(log_w)
    return np.array([w @ (x > 0.5), w @ x, w @ x**2, 1.0]) / w.sum()


def sweeps(sampler, n, count, seed, potential=REWARD):
    """(count, 4) moments of conditional SMC about exact paths."""
    found = []
    for k, path in enumerate(exact_paths(sampler, REWARD, count, seed)):
        *_, last = csmc(sampler, potential, path, n=n, rng=Streams(k))
        found.append(moments(last.log_weight, last.state.x[:, 0].numpy()))
    return np.array(found)


def assert_target_stays(sampler, n, expected, seed, **options):
    """E[sum W f] = E_target[f], so that a path drawn from the weights is from the target; and E[1 / Z_hat] = 1 / Z."""
    off = sweeps(sampler, n, CHAINS, seed, **options) - expected
    z = off.mean(0) / (off.std(0, ddof=1) / math.sqrt(CHAINS))
    assert np.abs(z).max() < Z_LIMIT, f"z = {z}"


@pytest.mark.parametrize(
    ("proposal", "n", "seed"), [("base", 6, 1), ("denoiser", 6, 2), ("x0hat", 6, 3), ("far", 3, 5)]
)
def test_the_target_stays_and_the_inverse_evidence_is_unbiased(proposal, n, seed, expected):
    assert_target_stays(short(proposal), n, expected, seed)


def test_levels_may_depend_on_the_population(expected):
    assert_target_stays(short(), 6, expected, 4, potential=fp.tempered(REWARD, ess=0.8))


class OwnRatio(fd.DiffusionSampler):
    """Row 0 takes the latent of the reference with the weight of what it had drawn itself."""

    def _weigh_again(self, state, transition, mean, x, log_w):
        return log_w


class FreeStart(fd.DiffusionSampler):
    """Row 0 joins the reference only after the first step."""

    def pin(self, state, reference):
        state.record()
        return state


class FreeEnd(fd.DiffusionSampler):
    """Row 0 leaves the reference after the first step, and comes back for the last."""

    def advance(self, state, rng, reference=None):
        return super().advance(state, rng, None if state.t in (1, 2) else reference)


@pytest.mark.parametrize("mutant", [OwnRatio, FreeStart, FreeEnd])
def test_wrong_replays_are_found(mutant, expected):
    with pytest.raises(AssertionError, match="z ="):
        assert_target_stays(short("far", cls=mutant), 3, expected, 5)


def test_gibbs_finds_the_target_from_anywhere(expected):
    """Without a reference the first path is one of plain SMC; it is forgotten, in mean over many chains."""
    sampler, runs = short(), []
    for k in range(100):
        walk = list(gibbs(sampler, REWARD, n=6, sweeps=6, rng=Streams(k), resample=multinomial))
        last = walk[-1].step
        runs.append(moments(last.log_weight, last.state.x[:, 0].numpy())[:3])
    off = np.array(runs) - expected[:3]
    assert np.abs(off.mean(0) / off.std(0, ddof=1) * math.sqrt(len(runs))).max() < Z_LIMIT


def test_the_log_evidence_lies_between_the_bounds(expected):
    sampler, log_z = short("x0hat"), -math.log(expected[3])
    bounds = np.array(
        [
            sandwich(sampler, REWARD, path, n=8, resample=systematic, rng=Streams(k))
            for k, path in enumerate(exact_paths(sampler, REWARD, 100, 6))
        ]
    )
    lower, upper = (bounds - log_z).mean(0) / (bounds.std(0, ddof=1) / 10.0)
    assert lower < -1.0 and upper > 1.0, f"z = {lower}, {upper}"
