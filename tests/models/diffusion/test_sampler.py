"""The particles of a sampler: one tree, one network call a step, nothing that depends on batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.capabilities import Bounded
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.calibration import posterior_variance
from feynkac.models.diffusion.kernel import clean_of, noise_of
from feynkac.models.diffusion.state import Latents, find_first
from feynkac.models.diffusion.tree import SHARED, Tree, gather
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

PRIOR = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], 0.2)
SSP = schemes.adaptive(schemes.ssp, 0.5)


def bowl(x):
    return -((x - 0.5) ** 2).sum(1)


BOWL = fk.reward(bowl, batch=True)


def sampler_of(denoiser=PRIOR, schedule=None, **options):
    return fd.DiffusionSampler(denoiser, schedule or fd.ddpm(6), (2,), dtype=torch.float64, **options)


def last_of(sampler, potential, n=8, resample=SSP, seed=0):
    *_, last = smc(sampler, potential, n=n, resample=resample, rng=Streams(seed))
    return last


class Counting:
    """The denoiser of PRIOR, which counts the rows that it sees."""

    def __init__(self):
        self.rows, self.calls = 0, 0

    def x0hat(self, x, t):
        self.rows, self.calls = self.rows + len(x), self.calls + 1
        return PRIOR.x0hat(x, t)


def test_the_first_of_equal_rows_is_that_of_a_dict():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 7, 7, 50, 50):
        keys = rng.integers(0, 2, n), rng.choice([0.0, -0.0, 1.0, np.nan, np.inf], n)
        first = dict[tuple[int, float], int]()
        wanted = [first.setdefault(key, i) for i, key in enumerate(zip(*(key.tolist() for key in keys), strict=True))]
        assert find_first(*keys).tolist() == wanted


# --- the tree --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_a_fork_gathers_every_leaf_and_commutes_with_stepping(through):
    potential = fp.tempered(fk.reward(bowl, 2.0, "max", batch=True), ess=0.7)
    sampler = sampler_of(proposal=fd.Guided(potential, through=through))
    state, rng = sampler.init(6, Streams(0).at("init", 0)), Streams(0)
    for t in range(2):
        state, _ = sampler.step(t, state, rng.at("propose", t))
        potential.level(t, state, np.arange(6))
    rows = np.array([0, 3, 2, 3, 3, 5])
    fork = state.fork(rows)
    for field in dataclasses.fields(Latents):
        if not field.metadata.get("shared") and field.name not in ("memory", "since"):
            assert_equal(getattr(fork, field.name), gather(getattr(state, field.name), rows))
    assert {"x0hat", "epshat", "toward"} <= set(fork.leaves)
    assert (fork.since == 0).all()
    # Siblings have the same past, so that equal noise keeps them equal and other noise drives them apart.
    mean, _ = sampler.step(2, fork, Zero())
    assert torch.equal(mean.x[1], mean.x[3]) and torch.equal(mean.x[1], sampler.step(2, state, Zero())[0].x[3])
    apart, _ = sampler.step(2, fork, rng.at("propose", 2))
    assert not torch.equal(apart.x[1], apart.x[3])


class Zero:
    """No noise."""

    def normal(self, shape):
        return np.zeros(shape)


def assert_equal(one, two):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_a_leaf_that_cannot_be_gathered_is_refused():
    @dataclasses.dataclass
    class Careless(Tree):
        shared: object = dataclasses.field(metadata=SHARED)
        momentum: list

    with pytest.raises(TypeError, match="list"):
        Careless(object(), [1.0, 2.0]).fork(np.array([0, 0]))


# --- one call of the network for each row and step -------------------------------------------------------------------


@pytest.mark.parametrize("through", [None, "denoiser", "x0hat"])
def test_the_network_sees_each_row_once_a_step(through):
    denoiser, potential = Counting(), fk.reward(bowl, 5.0, batch=True)
    proposal = fd.Guided(potential, through=through) if through else fd.BASE
    last_of(sampler_of(denoiser, proposal=proposal), potential, resample=schemes.multinomial)
    assert denoiser.rows == 6 * 8 + 2 and denoiser.calls == 6 + 1, "and once two rows again (`remembering.py`)"


def test_only_looking_calls_the_network():
    denoiser = Counting()
    state = sampler_of(denoiser).init(4, Streams(0).at("init", 0))
    with pytest.raises(ModelError, match="look"):
        _ = state.prediction
    with pytest.raises(ModelError, match="look"):
        state.estimate_variance()
    assert len(state.samples(np.arange(4))) == 4 and denoiser.calls == 0
    assert torch.equal(state.look().x0hat, PRIOR.x0hat(state.x, state.noise_level)) and denoiser.calls == 1
    assert state.look().x0hat is state.prediction.x0hat and denoiser.calls == 1
    state, _ = state.sampler.step(0, state, Streams(0).at("propose", 0))
    assert torch.equal(torch.stack(state.samples(np.arange(4))), state.denoised) and denoiser.calls == 1


def test_a_sampler_knows_how_long_its_runs_last():
    sampler = sampler_of()
    assert isinstance(sampler, Bounded) and sampler.max_steps == len(sampler.schedule)


def test_a_composition_and_a_denoiser_in_one_batch_are_those_run_alone():
    guided = fd.guide(fd.GaussianMixture([1.0], [[1.0, 0.0]], 0.5), PRIOR, 1.1)
    samplers = [sampler_of(PRIOR), sampler_of(guided)]
    for first, second in (samplers, samplers[::-1]):
        *_, both = smc(first.join([second]), BOWL, n=[4, 4], resample=schemes.never, rng=Streams(0))
        for g, each in enumerate((first, second)):
            *_, alone = smc(each, BOWL, n=4, resample=schemes.never, rng=Streams(0, group=g))
            assert np.allclose(both.group(g).log_weight, alone.log_weight, rtol=0.0, atol=1e-10)
    with pytest.raises(ArgumentError, match="one sum"):
        sampler_of(PRIOR).join([sampler_of(fd.anneal(PRIOR, 2.0))])


def test_dead_rows_cost_nothing():
    denoiser = Counting()
    alive = fk.constraint(lambda x: x[:, 0] > 0.0, every=2, batch=True)
    last = last_of(sampler_of(denoiser), alive, n=64, resample=schemes.never)
    assert 0 < (last.log_weight == -np.inf).sum() < 64
    assert denoiser.rows < 6 * 64


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_results_do_not_depend_on_the_size_of_batches(through):
    potential = fk.reward(bowl, 2.0, batch=True)
    proposal = fd.Guided(potential, through=through, trust=1.0)
    one = last_of(sampler_of(proposal=proposal), potential)
    parts = last_of(sampler_of(proposal=proposal, batch=3), potential)
    assert torch.allclose(one.state.x, parts.state.x, atol=1e-12)
    assert np.allclose(one.log_weight, parts.log_weight, atol=1e-12)


def test_problems_in_one_batch_are_those_run_alone():
    other = fd.GaussianMixture([1.0], [[2.0, 0.0]], 0.5)
    potential = fp.tempered(fp.observed(fp.inpainting(torch.tensor([True, False])), torch.tensor([0.3]), 0.4), ess=0.8)
    proposal = fd.Guided(potential, trust=1.0)
    two = [sampler_of(d, proposal=proposal) for d in (PRIOR, other)]
    *_, both = smc(two[0].join(two[1:]), potential, n=[8, 8], resample=SSP, rng=Streams(5))
    for g, sampler in enumerate(two):
        *_, alone = smc(sampler, potential, n=8, resample=SSP, rng=Streams(5, group=g))
        assert np.allclose(both.group(g).log_weight, alone.log_weight, atol=1e-10)
        assert torch.allclose(both.state.x[both.groups[g]], alone.state.x, atol=1e-10)


def test_a_resampler_does_not_change_the_noise():
    flat = fk.reward(lambda x: 0.0 * x[:, 0], batch=True)
    one, two = (last_of(sampler_of(), flat, resample=r) for r in (schemes.never, schemes.systematic))
    assert torch.equal(one.state.x, two.state.x)


def test_samples_are_decoded_and_guesses_previewed():
    shapes = []

    def decode(x):
        shapes.append(("decode", len(x)))
        return x.repeat(1, 2)

    def preview(x):
        shapes.append(("preview", len(x)))
        return x

    sampler = sampler_of(decode=decode, preview=preview, batch=3)
    last = last_of(sampler, fk.reward(lambda x: x[:, 0] * 0.1, batch=True))
    assert ("decode", 3) in shapes and ("preview", 2) in shapes and all(size <= 3 for _, size in shapes)
    assert [tuple(s.shape) for s in last.state.samples(np.array([2, 5]))] == [(4,), (4,)]


# --- guesses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [fd.ddpm(6), fd.flow(6), fd.euler_ancestral([9.0, 3.0, 1.0, 0.3])], ids=len)
def test_the_variance_of_gaussian_data_is_found_whatever_selected_the_particles(schedule):
    generator = torch.Generator().manual_seed(0)
    data = fd.GaussianMixture([1.0], [[0.5, 1.0]], 3.0)
    for step in schedule.transitions:
        level = step.before
        if level.alpha == 0.0:
            continue
        x = level.alpha * data.sample(4, generator) + level.sigma * torch.randn(4, 2, generator=generator).double()
        found = posterior_variance(x, data.x0hat(x, level), level, np.array([0, 0, 1, 1]), np.ones(4, dtype=bool))
        assert np.allclose(found, level.variance(3.0), rtol=1e-9)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (fp.inpainting(torch.arange(16).reshape(1, 4, 4) % 3 == 0), (1, 4, 4)),
        (fp.superresolution(2), (2, 4, 4)),
        (fp.deblurring(torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.5, 0.1]]), 4, 4), (2, 4, 4)),
        (fp.linear(torch.randn(3, 16, generator=torch.Generator().manual_seed(1))), (16,)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_operators_know_their_spectrum(operator, shape):
    """The density of an observation, with the variance of an estimate, against a dense multivariate normal."""
    size = int(np.prod(shape))
    columns = operator.apply(torch.eye(size).double().reshape(size, *shape))
    matrix = columns.reshape(size, -1).T
    y = torch.randn(columns.shape[1:], generator=torch.Generator().manual_seed(2)).double()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(3)).double()
    found = fp.observed(operator, y, 0.3)._log_density(x, torch.full((3,), 0.7).double())
    cov = 0.09 * torch.eye(len(matrix)) + torch.tensor(0.7).double() * matrix @ matrix.T
    normal = torch.distributions.MultivariateNormal(x.flatten(1) @ matrix.T, cov)
    assert torch.allclose(found, normal.log_prob(y.flatten()), rtol=1e-6)


def test_a_trust_region_bounds_the_entropy_of_each_particle():
    potential = fk.reward(lambda x: 100.0 * x[:, 0], batch=True)
    sampler = sampler_of(proposal=fd.Guided(potential, trust=0.2))
    state = sampler.init(5, Streams(0).at("init", 0))
    step = sampler.schedule.transitions[0]
    mean = step.mean(*state.look()[:2])
    x, ratio = sampler.proposal.move(state, step, mean, torch.zeros(5, 2).double())
    assert torch.allclose(((x - mean) ** 2).sum(1) / (2 * step.std**2), torch.tensor(0.2).double())
    assert torch.allclose(ratio, torch.tensor(-0.2).double())


def test_the_log_ratio_survives_large_latents_in_float32():
    noise = torch.randn(2, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    shift = 1e-4 * torch.randn(2, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    e, d = noise.double(), shift.double() / 0.7
    exact = 0.5 * (e**2).flatten(1).sum(1) - 0.5 * ((e + d) ** 2).flatten(1).sum(1)
    assert torch.allclose(fd.log_ratio(noise, shift, 0.7), exact, rtol=1e-9, atol=1e-10)


def test_a_schedule_is_asked_about_steps_that_there_are():
    asked, reward = [], BOWL
    potential = fp.tempered(reward, lambda t: asked.append(t) or 0.1 * t)
    last_of(sampler_of(proposal=fd.Guided(potential)), potential)
    assert set(asked) == set(range(5)), "the last of 6 steps has no guess"


def test_the_default_of_guided_stakes_at_most_one_nat_of_a_step_whatever_the_reward():
    for scale, bounded in ((1e-3, False), (1e4, True), (1e8, True)):
        proposal = fd.Guided(fk.reward(bowl, scale, batch=True))
        sampler = sampler_of(proposal=proposal)
        state = sampler.init(64, Streams(0).at("init", 0))
        state.look()
        transition = sampler.schedule.transitions[0]
        free = transition.lever * state.leaves["toward"]
        shift = proposal._bound(free, transition)
        entropy = (shift**2).sum(1) / (2.0 * transition.std**2)
        assert float(entropy.max()) < 1.0 + 1e-6
        assert torch.equal(shift, free) != bounded
        cosine = torch.nn.functional.cosine_similarity(shift, free)
        assert torch.allclose(cosine, torch.ones_like(cosine)), "the direction stays"


def test_a_strong_reward_on_a_mixture_does_not_lose_its_evidence_to_the_defaults_of_guided():
    prior = fd.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.3)
    reward = fk.reward(lambda x: -((x[:, 0] - 0.4) ** 2), scale=30.0, batch=True)

    def runs(proposal):
        sampler = fd.DiffusionSampler(prior, fd.ddpm(20), (1,), dtype=torch.float64, proposal=proposal)
        return fk.steer([sampler] * 24, reward, particles=32, seed=0)

    def errors(results):
        return [abs(result.log_evidence - truth) for result in results]

    plain = fd.DiffusionSampler(prior, fd.ddpm(20), (1,), dtype=torch.float64)
    truth = fk.steer(plain, reward, particles=8192, seed=0, algorithm="importance").log_evidence
    guided, lost = runs(fd.Guided(reward)), runs(fd.Guided(reward, trust=None))
    found, free, base = (np.median(errors(each)) for each in (guided, lost, runs(fd.BASE)))
    assert found < base + 1.5 < free / 2, "no worse than the kernel itself, give or take a nat; without a bound lost"
    for result in (*guided, *lost):
        assert any("the evidence may be far off" in warning for warning in result.warnings), "and each run says so"


def test_unweighted_guidance_says_that_it_is_biased(capsys):
    sampler = sampler_of(proposal=fd.Guided(BOWL, weighted=False))
    assert sampler.biased and "biased" in repr(sampler.proposal) and not sampler_of().biased
    biased, exact = (fk.steer(each, BOWL, particles=8, seed=0) for each in (sampler, sampler_of()))
    assert [warning for warning in biased.warnings if "no declared target" in warning] == [biased.warnings[0]]
    assert not any("no declared target" in warning for warning in exact.warnings)
    biased.show()
    assert "warning: biased: the proposal leaves its weights out" in capsys.readouterr().out
    several = fk.steer([sampler, sampler], BOWL, particles=4, seed=0)
    assert all("no declared target" in each.warnings[0] for each in several)


def test_guidance_without_weights_moves_the_steps_of_an_ode():
    """FlowChef as published: every Euler step of the flow starts from latents moved along the gradient at x0hat."""
    seen = fp.observed(fp.linear(torch.tensor([[1.0, 0.0]])), torch.tensor([2.0]), noise=0.5, prior=0.7)
    led = fd.Guided(seen, trust=None, weighted=False)
    sampler = fd.DiffusionSampler(PRIOR, fd.flow(5, eta=0.0), (2,), dtype=torch.float64, proposal=led)
    x = seeded(sampler, 6)
    result = fk.steer(sampler, particles=6, seed=0, algorithm="importance")
    assert result.biased
    for step in sampler.schedule.transitions:
        s, t, clean = step.before.sigma, step.after.sigma, PRIOR.x0hat(x, step.before)
        variance = step.before.variance(0.7)
        pull = torch.zeros_like(clean)
        pull[:, 0] = (2.0 - clean[:, 0]) / (0.25 + variance)
        spread = torch.as_tensor(posterior_variance(x, clean, step.before, np.zeros(6, int), np.ones(6, bool)))[:, None]
        moved = (s - t) / s * spread * pull if s < 1.0 else 0.0  # pure noise tells nothing of x0
        x = x + (t - s) * (x - clean) / s + moved
    assert torch.allclose(torch.stack(list(result.samples)), x, atol=1e-10)


def seeded(sampler, n):
    """The first latents of a run with seed 0."""
    return sampler.init(n, Streams(0).at("init", 0, [n])).x


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weighted": False}, "no distance in nats; give it weighted=False, trust=None"),
        ({"trust": None}, "has nothing to shift, as this schedule draws no noise; set eta > 0"),
    ],
)
def test_an_ode_refuses_proposals_that_it_could_not_weigh(options, said):
    with pytest.raises(ArgumentError, match=said):
        fd.DiffusionSampler(PRIOR, fd.flow(5, eta=0.0), (2,), proposal=fd.Guided(BOWL, **options))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_of_networks_are_understood(kind):
    level, x0, eps = fd.NoiseLevel(0.8, 0.6), torch.tensor([[1.0]]), torch.tensor([[-2.0]])
    output = {"epsilon": eps, "v_prediction": 0.8 * eps - 0.6 * x0, "sample": x0}[kind]
    assert torch.allclose(clean_of(output, 0.8 * x0 + 0.6 * eps, level, kind), x0)


# --- bad input -------------------------------------------------------------------------------------------------------

BAD = {
    "no noise": (lambda: last_of(sampler_of(schedule=fd.ddim(5, eta=0.0)), BOWL, resample=schemes.ssp), "eta=1"),
    "no noise to steer with": (lambda: fk.steer(sampler_of(schedule=fd.flow(5, eta=0.0)), BOWL), "eta=1.*best_of_n"),
    "no noise to shift": (lambda: sampler_of(schedule=fd.ddim(5, 0.0), proposal=fd.Guided(BOWL)), "eta > 0"),
    "too much noise": (lambda: fd.ddim(5, eta=30.0), "eta"),
    "no rows in a batch": (lambda: sampler_of(batch=0), "at least 1"),
    "particles that do not divide": (lambda: last_of(sampler_of().join([sampler_of()]), BOWL, 7), "same"),
    "other schedule": (lambda: sampler_of().join([sampler_of(schedule=fd.ddpm(7))]), "denoiser alone"),
    "network's shape": (lambda: last_of(sampler_of(fd.Network(lambda x, t: x[:, :1])), BOWL), "shape"),
    "kind": (lambda: fk.reward(bowl, kind="mean", batch=True), "'difference'"),
    "scale": (lambda: fk.reward(bowl, scale=float("nan"), batch=True), "finite"),
    "every": (lambda: fk.reward(bowl, every=0, batch=True), "at least 1"),
    "no potential to follow": (lambda: fd.Guided(), "at least one"),
    "constraint to follow": (
        lambda: last_of(sampler_of(proposal=fd.Guided(fk.constraint(lambda x: x[:, 0] > 0, batch=True))), BOWL),
        "gradient",
    ),
    "neither schedule nor bisection": (lambda: fp.tempered(BOWL), "takes a schedule"),
    "name of a schedule": (lambda: fp.tempered(BOWL, "snr"), "'snr'.*or 'signal'"),
    "noise of an observation": (lambda: fp.observed(fp.superresolution(2), torch.zeros(2, 2), 0.0), "above 0"),
    "shape of an observation": (
        lambda: last_of(sampler_of(), fp.observed(fp.inpainting(torch.tensor([True, True])), torch.zeros(3), 1.0)),
        "y has",
    ),
    "powers": (lambda: fd.Composition((PRIOR, 1.0), (PRIOR, -1.0)), "sum above 0"),
    "powers of pure noise": (
        lambda: last_of(sampler_of(fd.anneal(PRIOR, 2.0), fd.flow(5)), BOWL),
        "alpha",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, message = BAD[case]
    with pytest.raises(ArgumentError, match=message):
        make()


REWARDS = {
    "wrong shape": (lambda x: x, "shape"),
    "scalar": (lambda x: x.sum(), "shape"),
    "nan": (lambda x: x[:, 0] * float("nan"), r"row 0, a sample of shape \(2,\), returned nan"),
    "raises": (lambda x: x[:, 7], "IndexError"),
    "nothing": (lambda x: None, "shape"),
}


@pytest.mark.parametrize("case", REWARDS)
@pytest.mark.parametrize("every", [1, "end"])
def test_rewards_at_fault_are_named(case, every):
    f, message = REWARDS[case]
    with pytest.raises(PotentialError, match=message) as caught:
        last_of(sampler_of(), fk.reward(f, every=every, batch=True))
    assert "reward(<lambda>)" in str(caught.value)


def test_a_reward_without_gradient_cannot_guide():
    reward = fk.reward(lambda x: x.detach().numpy()[:, 0], batch=True)
    with pytest.raises(PotentialError, match="no gradient"):
        last_of(sampler_of(proposal=fd.Guided(reward)), reward)
    assert last_of(sampler_of(), reward).ended


def test_a_gradient_that_is_not_finite_names_its_row():
    reward = fk.reward(lambda x: torch.sqrt(x[:, 0] * 0.0), batch=True)
    with pytest.raises(PotentialError, match="not finite for row 0"):
        last_of(sampler_of(proposal=fd.Guided(reward)), reward)


@pytest.mark.parametrize("f", [lambda x: x[:, 0], lambda x: [None] * len(x), lambda x: x > 0])
def test_a_constraint_returns_truth_values(f):
    with pytest.raises(PotentialError, match="returns True or False"):
        last_of(sampler_of(), fk.constraint(f, batch=True))


def test_minus_infinity_kills_whatever_the_scale():
    f = fk.reward(lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf), scale=-1.0, every="end", batch=True)
    last = last_of(sampler_of(), f, resample=schemes.never)
    assert ((last.log_weight == -np.inf) == (last.state.x[:, 0] <= 0).numpy()).all()


def test_steer_takes_a_sampler():
    result = fk.steer(sampler_of(), fk.reward(bowl, 3.0, batch=True), particles=32, seed=0, progress=False)
    assert len(result.samples) == 32 and np.isfinite(result.log_evidence)
    assert result.expectation(lambda x: float(bowl(x[None]))) > float(bowl(PRIOR.sample(1000)).mean())
    both = fk.steer([sampler_of(), sampler_of()], BOWL, particles=4, seed=0, progress=False)
    assert len(both) == 2


def test_a_twist_has_no_part_in_the_target():
    last = last_of(sampler_of(), fp.twist(lambda x, level: 7.0 * x[:, 0]), resample=schemes.never)
    assert np.allclose(last.log_weight, -np.log(8), atol=1e-12)


@pytest.mark.parametrize("schedule", [fd.ddim(5, 0.6), fd.flow(5), fd.lcm(5)], ids=["ddim", "flow", "lcm"])
def test_a_shift_of_the_mean_is_that_of_the_clean_latent(schedule):
    """What twisted diffusion does: x0hat moves, epshat follows, and the kernel is as it was."""
    x, x0hat, moved = (torch.randn(3, 2, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    for step in schedule.transitions:
        one, two = (step.mean(x0, noise_of(x, x0, step.before)) for x0 in (x0hat, x0hat + moved))
        assert torch.allclose(two - one, step.lever * moved)


def test_the_variance_from_the_particles_is_worth_that_of_the_data():
    """25 modes in 8 dimensions, one coordinate observed: variance 1 makes a far worse guess than that of the data."""
    modes = [[8.0 * i, 8.0 * j] * 4 for i in range(-2, 3) for j in range(-2, 3)]
    data = fd.GaussianMixture([1 / 25] * 25, modes, 1.0)
    observation = (fp.inpainting(torch.arange(8) == 0), torch.tensor([7.0]), 1.0)

    def spread(prior):
        potential = fp.observed(*observation, prior=prior)
        sampler = fd.DiffusionSampler(
            data, fd.ddpm(25), (8,), proposal=fd.Guided(potential, through="denoiser"), dtype=torch.float64
        )
        joint = sampler.join([sampler] * 29)
        *_, last = smc(joint, potential, n=[32] * 30, resample=SSP, rng=Streams(0))
        return np.std([last.group(g).log_z for g in range(30)])

    online, oracle, unit = spread("online"), spread(129.0), spread(1.0)
    assert online < 1.5 * oracle and online < 0.5 * unit


# --- the variance of observations ------------------------------------------------------------------------------------


def test_the_variance_is_in_the_units_of_what_is_shown():
    """Affine previews, pixel by pixel or all in one: the variance of the sample, not that of its latents."""
    data = fd.GaussianMixture([1.0], [[0.0, 0.0]], 4.0)
    for preview, wanted in (
        (lambda x: 3.0 * x + 1.0, 9.0),
        (lambda x: (3.0 * x).repeat(1, 2), 9.0),
        (lambda x: x, 1.0),
    ):
        sampler = fd.DiffusionSampler(data, fd.ddpm(6), (2,), preview=preview, dtype=torch.float64)
        state = sampler.init(8, Streams(0).at("init", 0))
        (view,) = state.views(np.arange(8))
        variance = view.estimate_variance()
        assert variance.shape == (8,)
        assert torch.allclose(variance, torch.tensor(wanted * state.noise_level.variance(4.0)).double())
