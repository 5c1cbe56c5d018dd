"""Steered samplers of Gaussian mixtures: weights against the law of the chain, known by quadrature or in closed form.

A chain in one dimension is integrated on a grid; the mixtures in three dimensions are products of such chains, seen
through rotations, so that the code under test finds nothing separable in them. Every z-test compares a mean over
independent replicates (the groups of one run) with the truth at 3 standard errors: 0.27 % false alarms each, and none
at all from run to run, for the seeds are fixed. The mutants are the published bugs of diffusion steering.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.composition import corrector, power_of, start_of
from feynkac.models.diffusion.denoisers import ask
from feynkac.models.diffusion.state import Latents
from feynkac.potentials import as_potential, diffusion as fp
from feynkac.potentials.rewards.decoded import DecodedReward
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.smc import resample as schemes
from feynkac.smc.checks import name_of
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.weights import effective_sample_size

Z_LIMIT = 3.0
SSP = adaptive(schemes.ssp, 0.5)


# --- truth -----------------------------------------------------------------------------------------------------------


def chain_law(denoiser, schedule, points=1601):
    """(G,) samples x0 and their (G,) weights under the chain: the weights sum to 1, or to the mass of a composition.

    Trapezoids on smooth densities: the error falls faster than any power of the spacing. The last transition is
    without noise, so that x0 is a function of the last latent.
    """
    std, log_z = start_of(power_of(denoiser), schedule.start, 1)
    grid = np.linspace(-9 * std, 9 * std, points)
    mass = np.exp(log_z - 0.5 * (grid / std) ** 2) / math.sqrt(2 * math.pi) / std * (grid[1] - grid[0])
    for step in schedule.transitions:
        said = ask(denoiser, torch.as_tensor(grid)[:, None], step.before)
        if said.rate is not None:
            mass = mass * np.exp(np.asarray(corrector(power_of(denoiser), said.rate, step, 1)))
        mean = step.mean(said.x0hat, said.epshat)[:, 0].numpy()
        if step.std == 0.0:
            grid = mean
            continue
        width = 8 * step.std + 1e-9
        kept = mass > 1e-14 * mass.max()
        new = np.linspace(mean[kept].min() - width, mean[kept].max() + width, points)
        kernel = np.exp(-0.5 * ((new[:, None] - mean[None, kept]) / step.std) ** 2)
        mass = kernel @ mass[kept] * (new[1] - new[0]) / (math.sqrt(2 * math.pi) * step.std)
        grid = new
    return grid, mass


def truth(denoiser, schedule, log_weight):
    """E[exp(r)] and E[exp(r) f] for f = 1{x > 0.5} under the chain, r = log_weight(x) in nats."""
    x, mass = chain_law(denoiser, schedule)
    tilted = mass * np.exp(log_weight(x))
    return tilted.sum(), tilted[x > 0.5].sum()


# --- runs ------------------------------------------------------------------------------------------------------------


def run(sampler, potential, n, resample=SSP, *, replicates=None, seed=0):
    """Final log-weights (n,) and samples (n, ...) of independent replicates, which share one batch."""
    replicates = replicates or {4: 300, 16: 200, 64: 100}[n]
    joint = sampler.join([sampler] * (replicates - 1))
    *_, last = smc(joint, potential, n=[n] * replicates, resample=resample, rng=Streams(seed))
    assert last.done.all()
    sizes = [part.stop - part.start for part in last.groups]
    ends = np.cumsum([0, *sizes])
    return [(last.log_weight[a:b], last.state.x[a:b].numpy()) for a, b in itertools.pairwise(ends)]


def z_scores(runs, expected, f):
    """How many standard errors the means of sum w and of sum w f over the replicates are off."""
    found = np.array([(np.exp(w).sum(), np.exp(w) @ f(x)) for w, x in runs]) / expected[0]
    off = found.mean(0) - np.array(expected) / expected[0]
    return off / (found.std(0, ddof=1) / math.sqrt(len(found)))


def right(x):
    return x[:, 0] > 0.5


def assert_unbiased(sampler, potential, n, expected, resample=SSP, *, f=right, **options):
    z = z_scores(run(sampler, potential, n, resample, **options), expected, f)
    assert np.abs(z).max() < Z_LIMIT, f"z = {z}"


# --- one dimension: a quadratic reward between the two modes ---------------------------------------------------------

PRIOR = fd.GaussianMixture([0.7, 0.3], [[-2.0], [3.0]], 0.5)
SCHEDULES = {
    "ddpm": fd.ddpm(10),
    "ddim": fd.ddim(8, eta=0.6),
    "lcm": fd.lcm(6),
    "euler": fd.euler_ancestral([20.0, 9.0, 4.0, 2.0, 1.0, 0.5, 0.2]),
    "flow": fd.flow(8, eta=1.0),
    "flow-eta": fd.flow([1.0, 0.8, 0.6, 0.4, 0.2, 0.05], eta=0.5),
    "edm": fd.edm(fd.karras_sigmas(7, 0.2, 20.0)),
    "edm-scaled": fd.edm(fd.karras_sigmas(7, 0.2, 20.0), [0.6, 0.6, 0.0, 0.6, 0.6, 0.3, 0.0], 1.003, 1.2),
    "revisited": fd.revisit(fd.ddpm(5), 3),
}
SCALE = 0.5


def quadratic(x):
    return -((x[..., 0] - 1.0) ** 2)


def sampler_of(schedule="ddpm", denoiser=PRIOR, shape=(1,), **options):
    return fd.DiffusionSampler(denoiser, SCHEDULES[schedule], shape, dtype=torch.float64, **options)


@pytest.fixture(scope="module")
def expected():
    return {name: truth(PRIOR, s, lambda x: SCALE * quadratic(x[:, None])) for name, s in SCHEDULES.items()}


@pytest.mark.parametrize("n", [4, 16, 64])
@pytest.mark.parametrize("kind", ["difference", "max", "sum"])
def test_every_kind_of_reward_has_the_same_target(expected, kind, n):
    # A sum over all steps overshoots the target so far that no mean of a few hundred runs is normal.
    reward = fk.reward(quadratic, SCALE, kind, every=4 if kind == "sum" else 1, batch=True)
    assert_unbiased(sampler_of(), reward, n, expected["ddpm"])


@pytest.mark.parametrize("n", [4, 16, 64])
@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_guided_proposals_keep_the_target(expected, through, n):
    reward = fk.reward(quadratic, SCALE, batch=True)
    assert_unbiased(sampler_of(proposal=fd.Guided(reward, through=through, trust=0.3)), reward, n, expected["ddpm"])


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_inner_steps_of_guided_proposals_keep_the_target(expected, through):
    reward = fk.reward(quadratic, SCALE, batch=True)
    proposal = fd.Guided(reward, through=through, inner=4, strength=4.0, trust=0.3)
    assert_unbiased(sampler_of(proposal=proposal), reward, 16, expected["ddpm"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_kernel(expected, schedule):
    reward = fk.reward(quadratic, SCALE, every=2, batch=True)
    proposal = fd.Guided(reward, through="denoiser", trust=0.1)
    assert_unbiased(sampler_of(schedule, proposal=proposal), reward, 16, expected[schedule])


@pytest.mark.parametrize(
    "resample",
    [
        schemes.never,
        schemes.multinomial,
        systematic,
        schemes.residual,
        adaptive(schemes.stratified, 0.9),
        schemes.mean_partition(systematic),
        schemes.killing,
        schemes.chopthin(),
        schemes.islands(SSP, 4),
        schemes.islands(schemes.during(systematic, range(2, 8, 2)), 4),
        schemes.then(schemes.split(2), schemes.shrink(systematic, 16)),
    ],
    ids=name_of,
)
def test_every_resampler(expected, resample):
    reward = fk.reward(quadratic, SCALE, batch=True)
    proposal = fd.Guided(reward, trust=0.1)
    assert_unbiased(sampler_of(proposal=proposal), reward, 16, expected["ddpm"], resample)


def noisy_guess(x, level):
    return -0.2 * (x[:, 0] - 1.0).abs() + 0.3 * torch.sin(1e3 * x[:, 0])  # whatever its worth


def one(x):
    return quadratic(x[None])[0]


ROLES = {
    "end": lambda: fk.reward(quadratic, SCALE, every="end", batch=True),
    "twist": lambda: fk.reward(quadratic, SCALE, every="end", batch=True) * fp.twist(noisy_guess),
    "sparse": lambda: fk.reward(quadratic, SCALE, "sum", every=3, batch=True) * fp.twist(noisy_guess, every=2),
    "window": lambda: fk.reward(quadratic, SCALE, "max", every=range(3, 8, 2), batch=True),
    "power": lambda: fk.reward(quadratic, 2 * SCALE, batch=True) ** 0.5,
    "schedule": lambda: fp.tempered(fk.reward(quadratic, SCALE, batch=True), lambda t: min(1.0, 0.2 * t)),
    "bisection": lambda: fp.tempered(fk.reward(quadratic, SCALE, batch=True), ess=0.8),
    "signal": lambda: fp.tempered(fk.reward(quadratic, SCALE, batch=True), "signal"),
    "bisection above signal": lambda: fp.tempered(fk.reward(quadratic, SCALE, batch=True), "signal", ess=0.9),
    "bisection-of-max": lambda: fp.tempered(fk.reward(quadratic, SCALE, "max", batch=True), ess=0.6),
    "of one sample": lambda: fk.reward(one, SCALE, "max", every=2) * fp.twist(noisy_guess),
    "of a batch": lambda: fk.reward(quadratic, SCALE, "sum", every=4, batch=True),
    "plain": lambda: as_potential(lambda x: SCALE * one(x)),
}


@pytest.mark.parametrize("role", ROLES)
def test_guesses_change_no_target(expected, role):
    assert_unbiased(sampler_of(), ROLES[role](), 4, expected["ddpm"], replicates=600)


@pytest.mark.parametrize("inside", [fk.constraint(lambda x: x[:, 0] > -2.0, batch=True), lambda x: x[0] > -2.0])
def test_a_constraint_conditions(expected, inside):
    x, mass = chain_law(PRIOR, SCHEDULES["ddpm"])
    tilted = mass * np.exp(SCALE * quadratic(x[:, None])) * (x > -2.0)
    potential = fk.reward(quadratic, SCALE, batch=True) * inside
    assert_unbiased(sampler_of(), potential, 16, (tilted.sum(), tilted[x > 0.5].sum()))


def test_a_gradient_through_a_function_of_one_sample_keeps_the_target(expected):
    reward = fk.reward(one, SCALE)
    assert_unbiased(sampler_of(proposal=fd.Guided(reward, trust=0.3)), reward, 16, expected["ddpm"])


def test_total_variation_falls_as_particles_are_added():
    reward, bins = fk.reward(quadratic, SCALE, batch=True), np.linspace(-4, 5, 13)
    x, mass = chain_law(PRIOR, SCHEDULES["ddpm"])
    law = np.histogram(x, bins, weights=mass * np.exp(SCALE * quadratic(x[:, None])))[0]

    def off(n, pick):
        found = sum(pick(w, np.histogram, x[:, 0]) for w, x in run(sampler_of(), reward, n, replicates=8192 // n))
        return 0.5 * np.abs(found / found.sum() - law / law.sum()).sum()

    def weighted(w, histogram, x):
        return histogram(x, bins, weights=np.exp(w - w.max()) / np.exp(w - w.max()).sum())[0]

    def best(w, histogram, x):
        return histogram(x[np.argmax(quadratic(x[:, None]))], bins)[0]

    ours, best_of = [off(n, weighted) for n in (4, 16, 64)], [off(n, best) for n in (4, 16, 64)]
    assert ours[0] > ours[1] > ours[2] and ours[2] < 0.04
    assert best_of[0] < best_of[1] < best_of[2], "best-of-n is the baseline that worsens with particles"


# --- mutants: each is in published code ------------------------------------------------------------------------------


def drops_weights(log_w, rng):
    """FK-steering, adaptive: where the population is not resampled, its weights are forgotten."""
    if effective_sample_size(log_w) >= 0.5 * len(log_w):
        return None, np.full(len(log_w), np.logaddexp.reduce(log_w) - math.log(len(log_w)))
    return systematic(log_w, rng)


class StaleAncestors:
    """Psi-Sampler: where the population is not resampled, the ancestors of the last time are taken again."""

    def __init__(self, groups):
        self.groups, self.calls, self.rows = groups, 0, {}

    def __call__(self, log_w, rng):
        g, self.calls = self.calls % self.groups, self.calls + 1
        rows, new = SSP(log_w, rng)
        if rows is None and g in self.rows:
            return self.rows[g], log_w
        self.rows[g] = rows if rows is not None else np.arange(len(log_w))
        return rows, new


class StaleTwist:
    """DAS: the particles are gathered and their twists are not, so that a weight is divided by another row's guess."""

    def __init__(self, base):
        self.base, self.name = base, "stale"

    def level(self, t, state, rows):
        return self._exchanged(state, rows, self.base.level(t, state, rows))

    def final(self, state, rows):
        return self._exchanged(state, rows, self.base.final(state, rows))

    def _exchanged(self, state, rows, new):
        in_engine = state.memory.array(self, 0.0)
        stale = self.last[rows] if state.t > 1 else np.zeros(len(rows))
        in_engine[rows] += new - stale
        self.last = np.zeros(len(state))
        self.last[rows] = new
        return in_engine[rows]


class StaleLeaves(Latents):
    """DAS's notebooks: after resampling x comes from one particle and x0hat from another."""

    def fork(self, rows):
        child = super().fork(rows)
        child.leaves = self.leaves
        return child


class StaleSampler(fd.DiffusionSampler):
    def init(self, n, rng):
        return StaleLeaves(**vars(super().init(n, rng)))


class NoTerminalCorrection(DecodedReward):
    """FK-steering: the last weight is the running maximum or sum of the reward, and not the reward."""

    def final(self, state, rows):
        memory = state.memory.array(self, np.array((0.0, False), dtype=[("value", float), ("seen", bool)]))
        return self.fold(memory["value"][rows], super().final(state, rows))


class OneRatioInThree(fd.Guided):
    """Boltz: guides at every step, and counts the proposal's ratio at every third."""

    def move(self, state, transition, mean, noise):
        x, ratio = super().move(state, transition, mean, noise)
        return x, ratio if state.t % 3 == 0 else torch.zeros_like(ratio)


class MeanRatio(fd.Guided):
    """Flow-GRPO and DDPO helpers: the log-density averaged over coordinates."""

    def move(self, state, transition, mean, noise):
        x, ratio = super().move(state, transition, mean, noise)
        return x, ratio / noise[0].numel()


REWARD, SCORER = fk.reward(quadratic, SCALE, batch=True), Scorer(quadratic, "quadratic", batch=True)
MUTANTS = {
    "weights dropped": lambda: (sampler_of(), REWARD, drops_weights),
    "stale ancestors": lambda: (sampler_of(), REWARD, StaleAncestors(200)),
    "stale twist": lambda: (sampler_of(), StaleTwist(REWARD), SSP),
    "stale x0hat": lambda: (
        StaleSampler(PRIOR, SCHEDULES["ddpm"], (1,), dtype=torch.float64), REWARD, adaptive(schemes.ssp, 1.0)
    ),
    "max without correction": lambda: (sampler_of(), NoTerminalCorrection(SCORER, SCALE, "max", 1), SSP),
    "sum without correction": lambda: (sampler_of(), NoTerminalCorrection(SCORER, SCALE, "sum", 4), SSP),
    "ratio at one step in three": lambda: (sampler_of(proposal=OneRatioInThree(REWARD, trust=0.3)), REWARD, SSP),
    "guidance without weights": lambda: (
        sampler_of(proposal=fd.Guided(REWARD, trust=None, weighted=False)), REWARD, SSP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_published_bugs_are_found(expected, mutant):
    sampler, potential, resample = MUTANTS[mutant]()
    with pytest.raises(AssertionError, match="z ="):
        assert_unbiased(sampler, potential, 16, expected["ddpm"], resample)


# --- three dimensions: a linear-Gaussian observation -----------------------------------------------------------------

ROTATION = torch.linalg.qr(torch.as_tensor(np.random.default_rng(0).normal(size=(3, 3))))[0]
ALONG = fd.GaussianMixture([0.4, 0.6], [[-1.5], [1.5]], 0.3)
ACROSS = (0.8, 0.2)


def rotated():
    """The mixture ALONG in one direction, independent normals across it, and all of it rotated."""
    means = torch.tensor([[-1.5, 0.0, 0.0], [1.5, 0.0, 0.0]], dtype=torch.float64) @ ROTATION.T
    cov = ROTATION @ torch.diag(torch.tensor([0.3, *ACROSS], dtype=torch.float64)) @ ROTATION.T
    return fd.GaussianMixture([0.4, 0.6], means, cov.expand(2, 3, 3))


def seen(noise=0.5):
    """Observation of the first two coordinates before rotation, times 1 and 0.7, through another rotation."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    gains, y = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.7, 0.0]], dtype=torch.float64), torch.tensor([0.3, -0.6])
    return fp.linear(turn @ gains @ ROTATION.T), turn @ y.double(), noise


def evidence_3d(schedule, noise=0.5):
    """The density of the observation under the chain, and the same with the first coordinate before rotation > 0.5."""

    def density(x, gain, y):
        return -0.5 * ((y - gain * x) / noise) ** 2 - math.log(math.sqrt(2 * math.pi) * noise)

    along = truth(ALONG, schedule, lambda x: density(x, 1.0, 0.3))
    across = truth(fd.GaussianMixture([1.0], [[0.0]], ACROSS[0]), schedule, lambda x: density(x, 0.7, -0.6))
    return along[0] * across[0], along[1] * across[0]


def right_3d(x):
    return (x @ ROTATION.numpy())[:, 0] > 0.5


@pytest.mark.parametrize("n", [4, 16, 64])
@pytest.mark.parametrize("through", [None, "denoiser", "x0hat"])
def test_linear_observations_in_three_dimensions(through, n):
    potential = fp.observed(*seen())
    proposal = fd.Guided(potential, through=through, trust=None) if through else fd.BASE
    sampler = sampler_of("flow", rotated(), (3,), proposal=proposal)
    assert_unbiased(sampler, potential, n, evidence_3d(SCHEDULES["flow"]), f=right_3d)


def test_log_densities_averaged_over_coordinates_are_found():
    potential = fp.observed(*seen())
    sampler = sampler_of("flow", rotated(), (3,), proposal=MeanRatio(potential, through="denoiser", trust=None))
    with pytest.raises(AssertionError, match="z ="):
        assert_unbiased(sampler, potential, 16, evidence_3d(SCHEDULES["flow"]), f=right_3d)


def test_many_steps_reach_the_posterior_of_the_mixture_itself():
    """The chain's evidence tends to that of the data, at the rate of a first-order sampler or better."""
    log_z, _ = PRIOR.tilt([1.0], 2 * SCALE)
    off = [
        abs(math.log(truth(PRIOR, fd.ddpm(s), lambda x: SCALE * quadratic(x[:, None]))[0]) - log_z) for s in (12, 24)
    ]
    assert off[1] < 0.6 * off[0]


# --- a linear-Gaussian chain: nothing is left to chance --------------------------------------------------------------


@dataclass(frozen=True)
class Quadratic:
    """exp(-x'Px/2 + h'x + k) on R^3."""

    p: torch.Tensor
    h: torch.Tensor
    k: torch.Tensor | float

    def __call__(self, x):
        return -0.5 * ((x @ self.p) * x).sum(1) + x @ self.h + self.k

    def after(self, matrix, offset):
        """x -> self(matrix x + offset)."""
        h = matrix.T @ (self.h - self.p @ offset)
        return Quadratic(matrix.T @ self.p @ matrix, h, self.k + self.h @ offset - 0.5 * offset @ self.p @ offset)

    def blurred(self, variance):
        """m -> log of the integral of N(x; m, variance I) exp(self(x)); and x under it: N(inner m + offset, cov)."""
        inner = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + variance * self.p)
        k = self.k + 0.5 * variance * self.h @ inner @ self.h + 0.5 * torch.linalg.slogdet(inner)[1]
        return Quadratic(self.p @ inner, inner.T @ self.h, k), inner, variance * inner @ self.h, variance * inner


class Exact:
    """The twist E[exp(final) | x] of a linear chain and the optimal proposal, by backward recursion."""

    name = "exact twist"

    def __init__(self, denoiser, schedule, observation):
        basis = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
        a, y, noise = observation.operator.apply(torch.eye(3).double()).T, observation.y, observation.noise
        at_zero = -0.5 * (y @ y / noise**2 + len(a) * math.log(2 * math.pi * noise**2))
        psi = Quadratic(a.T @ a / noise**2, a.T @ y / noise**2, at_zero)
        self.observation, self.twists, self.optimal = observation, {}, {}
        for t in reversed(range(len(schedule))):
            step = schedule.transitions[t]
            said = ask(denoiser, basis, step.before)
            images = step.mean(said.x0hat, said.epshat)
            psi, *self.optimal[t] = psi.blurred(step.std**2)
            psi = psi.after((images[1:] - images[0]).T, images[0])
            self.twists[t] = psi  # of the latent after t transitions
        psi, *self.first = psi.blurred(schedule.start**2)
        self.log_z = float(psi(torch.zeros(1, 3).double()))

    def level(self, t, state, rows):
        return self.twists[state.t](state.x[rows]).numpy()

    def final(self, state, rows):
        return self.observation.final(state, rows)

    def draw(self, mean, std, optimal, noise):
        inner, offset, cov = optimal
        q = torch.distributions.MultivariateNormal(mean @ inner.T + offset, cov)
        x = q.mean + noise @ torch.linalg.cholesky(cov).T
        return x, torch.distributions.Normal(mean, std).log_prob(x).sum(1) - q.log_prob(x)

    def start(self, std, noise):
        return self.draw(torch.zeros_like(noise), std, self.first, noise)

    def prepare(self, state):
        pass

    def move(self, state, transition, mean, noise):
        return self.draw(mean, transition.std, self.optimal[state.t], noise)


GAUSSIAN = fd.GaussianMixture([1.0], [[0.5, -1.0, 0.3]], (ROTATION * torch.tensor([2.0, 0.5, 0.1])) @ ROTATION.T[None])


@pytest.mark.parametrize("schedule", ["ddim", "flow", "euler", "lcm"])
def test_exact_twist_and_optimal_proposal_leave_no_variance(schedule):
    exact = Exact(GAUSSIAN, SCHEDULES[schedule], fp.observed(*seen()))
    runs = run(sampler_of(schedule, GAUSSIAN, (3,), proposal=exact), exact, 4, replicates=20)
    log_z = [np.logaddexp.reduce(w) for w, _ in runs]
    assert np.var(log_z) < 1e-8
    assert np.abs(np.array(log_z) - exact.log_z).max() < 1e-8


def test_the_exact_evidence_tends_to_that_of_the_data():
    observation = fp.observed(*seen())
    log_z, _ = GAUSSIAN.observe(observation.operator.apply(torch.eye(3).double()).T, observation.y, 0.25)
    off = [abs(Exact(GAUSSIAN, fd.ddpm(s), observation).log_z - log_z) for s in (25, 50, 100)]
    assert off[1] < 0.6 * off[0] and off[2] < 0.6 * off[1]


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_a_base_twist_and_guidance_estimate_what_the_recursion_gives(through):
    exact = Exact(GAUSSIAN, SCHEDULES["ddim"], fp.observed(*seen()))
    potential = exact.observation
    sampler = sampler_of("ddim", GAUSSIAN, (3,), proposal=fd.Guided(potential, through=through, trust=None))
    log_z = math.exp(exact.log_z)
    z = z_scores(run(sampler, potential, 16), (log_z, log_z), lambda x: np.ones(len(x)))
    assert np.abs(z).max() < Z_LIMIT


# --- Feynman-Kac correctors ------------------------------------------------------------------------------------------


def gaussian(mean, variance):
    return fd.GaussianMixture([1.0], [[mean]], variance)


def gaussian_scheme(experts, schedule):
    """Log Z, mean and variance that a composition of normal experts [(mean, variance, power)] has at the end.

    Weights exp(w(x)), w quadratic, and affine transitions keep a normal law normal: an integral a step, done here from
    the scores s_i = -(x - alpha m_i) / (alpha^2 v_i + sigma^2) alone.
    """
    total = sum(beta for _, _, beta in experts)
    log_z = 0.5 * ((1 - total) * math.log(2 * math.pi * schedule.start**2) - math.log(total))
    mean, var = 0.0, schedule.start**2 / total
    for step in schedule.transitions:
        (a, s), (a2, s2) = (step.before.alpha, step.before.sigma), (step.after.alpha, step.after.sigma)
        slopes = [(-1 / (a * a * v + s * s), a * m / (a * a * v + s * s), beta) for m, v, beta in experts]
        up, shift = sum(b * p for p, _, b in slopes), sum(b * q for _, q, b in slopes)  # S = up x + shift
        g2 = a * a2 * ((s / a) ** 2 - (s2 / a2) ** 2)
        two = 0.5 * g2 * (up**2 - sum(b * p * p for p, _, b in slopes))
        one = g2 * (up * shift - sum(b * p * q for p, q, b in slopes))
        none = 0.5 * g2 * (shift**2 - sum(b * q * q for _, q, b in slopes)) + (total - 1) * math.log(a / a2)
        tilted = 1 / (1 / var - 2 * two)
        moved = tilted * (mean / var + one)
        log_z += none + 0.5 * (math.log(tilted / var) + moved**2 / tilted - mean**2 / var)
        gain, offset = (1 + s * s * up) / a, s * s * shift / a  # x0hat = gain x + offset
        gain, offset = step.after.alpha * gain - step.c * s * up, step.after.alpha * offset - step.c * s * shift
        mean, var = gain * moved + offset, gain**2 * tilted + step.std**2
    return log_z, mean, var


def gaussian_product(experts):
    """The same for prod_i N(x; m_i, v_i)^beta_i itself."""
    precision = sum(b / v for _, v, b in experts)
    mean = sum(b * m / v for m, v, b in experts) / precision
    at_mean = sum(b * (-0.5 * (mean - m) ** 2 / v - 0.5 * math.log(2 * math.pi * v)) for m, v, b in experts)
    return at_mean + 0.5 * math.log(2 * math.pi / precision), mean, 1 / precision


EVEN = fd.chain(
    [*(fd.NoiseLevel(a, math.sqrt(1 - a * a)) for a in np.geomspace(0.05, 0.97, 24)), fd.NoiseLevel(1.0, 0.0)],
    fd.ancestral,
    1.0,
)
EXPERTS = {
    "annealed": [(1.0, 0.5, 2.0)],
    "heated": [(1.0, 0.5, 0.6)],
    "product": [(-0.5, 0.6, 1.0), (0.8, 1.2, 1.0)],
    "guidance": [(1.0, 0.7, 1.8), (0.0, 1.0, -0.8)],
    "three": [(-0.5, 0.6, 0.5), (0.8, 1.2, 1.0), (0.2, 0.9, -0.2)],
}


def composed(experts):
    return fd.Composition(*((gaussian(m, v), beta) for m, v, beta in experts))


@pytest.mark.parametrize("case", EXPERTS)
@pytest.mark.parametrize("eta", [0.8, 1.0])  # for B = 2 it must be above 0.71
def test_corrected_chains_tend_to_the_product_of_powers(case, eta):
    """Evidence, mean and variance of the discretised scheme converge at first order in the number of steps."""
    goal = np.array(gaussian_product(EXPERTS[case]))
    off = [np.linalg.norm(np.array(gaussian_scheme(EXPERTS[case], fd.ddim(s, eta))) - goal) for s in (250, 500, 1000)]
    assert off[1] < 0.6 * off[0] and off[2] < 0.6 * off[1]


@pytest.mark.parametrize("case", EXPERTS)
def test_correctors_have_the_moments_of_the_scheme(case):
    log_z, mean, _ = gaussian_scheme(EXPERTS[case], EVEN)
    sampler = fd.DiffusionSampler(composed(EXPERTS[case]), EVEN, (1,), dtype=torch.float64)
    expected = (math.exp(log_z), math.exp(log_z) * mean)
    assert_unbiased(
        sampler, fk.reward(lambda x: x[:, 0] * 0.0, every="end", batch=True), 16, expected, f=lambda x: x[:, 0]
    )


MIXTURES = {
    "annealed": fd.anneal(PRIOR, 1.5),
    "product": fd.multiply(PRIOR, fd.GaussianMixture([0.5, 0.5], [[-1.0], [2.0]], 1.0)),
    "guidance": fd.guide(fd.GaussianMixture([0.2, 0.8], [[-2.0], [3.0]], 0.5), PRIOR, 1.5),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_correctors_of_mixtures_with_a_reward_and_a_proposal(case):
    reward, schedule = fk.reward(quadratic, 0.2, batch=True), EVEN
    # A mild move: by a longer one evidences are so skewed that no mean of a few hundred is normal.
    proposal = fd.Guided(reward, strength=0.3, trust=0.1)
    sampler = fd.DiffusionSampler(MIXTURES[case], schedule, (1,), proposal=proposal, dtype=torch.float64)
    expected = truth(MIXTURES[case], schedule, lambda x: 0.2 * quadratic(x[:, None]))
    assert_unbiased(sampler, reward, 16, expected, replicates=400)


class Clamped(fd.Composition):
    """The reference code of Feynman-Kac correctors bounds each increment; here through its rate."""

    def predict(self, x, t, /):
        said = super().predict(x, t)
        return said._replace(rate=said.rate.clamp(-0.5, 0.5))


class Uncorrected(fd.Composition):
    """Classifier-free guidance and annealing as they are used: the score of the target, and no weights."""

    def predict(self, x, t, /):
        return super().predict(x, t)._replace(rate=None)


@pytest.mark.parametrize("mutant", [Clamped, Uncorrected])
def test_clamped_and_missing_correctors_are_found(mutant):
    log_z, mean, _ = gaussian_scheme(EXPERTS["product"], EVEN)
    wrong = mutant(*composed(EXPERTS["product"]).experts)
    sampler = fd.DiffusionSampler(wrong, EVEN, (1,), dtype=torch.float64)
    expected = (math.exp(log_z), math.exp(log_z) * mean)
    with pytest.raises(AssertionError, match="z ="):
        assert_unbiased(sampler, fk.reward(lambda x: x[:, 0] * 0.0, batch=True), 16, expected, f=lambda x: x[:, 0])
