"""Semantic guidance: the published edit, as a law and as a proposal, with a momentum copied with its particle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_pipeline import SIZE, clip, clip_tokenizer, text_unet, vae

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.denoisers import Prediction
from feynkac.models.diffusion.schedulers import schedule_of
from feynkac.models.diffusion.state import DENOISER_CARRY, PROPOSAL_CARRY
from feynkac.smc import resample as schemes
from feynkac.smc.conditional import csmc
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

PLAIN = fd.GaussianMixture([1.0], [[0.5, -0.5]], 0.8)
LEFT, UP = fd.GaussianMixture([1.0], [[-1.0, 0.0]], 0.5), fd.GaussianMixture([1.0], [[0.0, 2.0]], 0.6)
SCHEDULE = fd.ddim(6)
NOTHING = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)


def edit(momentum=0.6, threshold=0.0, **options):
    return fd.SemanticGuidance(
        fd.Concept(LEFT, 0.7, threshold), fd.Concept(UP, -0.4, threshold, **options), momentum=momentum, decay=0.3
    )


def sampler_of(denoiser=PLAIN, **options):
    return fd.DiffusionSampler(denoiser, SCHEDULE, (2,), dtype=torch.float64, **options)


KINDS = {
    "law": lambda guidance, **options: sampler_of(fd.EditedDenoiser(PLAIN, guidance), **options),
    "proposal": lambda guidance, **options: sampler_of(proposal=fd.EditedProposal(guidance), **options),
}


def walk(sampler, state, levels, seed=0, order=None):
    """The state after some levels, and the sum of its increments; the noise of row `order[i]` goes to row i."""
    total = np.zeros(len(state))
    for t in levels:
        noise = torch.as_tensor(Streams(seed).at("propose", t, [len(state)]).normal((len(state), 2)))
        given = noise if order is None else noise[order]
        state, inc = sampler.step(t, state, Fixed(given.numpy()))
        total += inc
    return state, total


class Fixed:
    def __init__(self, noise):
        self._noise = noise

    def normal(self, shape):
        assert self._noise.shape == shape
        return self._noise


def begun(sampler, n):
    return sampler.init(n, Streams(0).at("init", 0, [n]))


# --- the edit --------------------------------------------------------------------------------------------------------


class Says:
    """Expects given noise, level after level."""

    def __init__(self, *epshats):
        self.epshats = [torch.tensor(each, dtype=torch.float64) for each in epshats]

    def predict(self, x, t):
        eps = self.epshats[int(t.time)].expand(x.shape)
        return Prediction((x - t.sigma * eps) / t.alpha, eps)


def test_an_edit_is_the_published_formula_term_by_term():
    levels = [fd.NoiseLevel(0.6, 0.8, 0), fd.NoiseLevel(0.8, 0.6, 1), fd.NoiseLevel(0.96, 0.28, 2)]
    first = Says([[[3.0, -1.0, 0.5, 2.0]]], [[[1.0, 1.5, -4.0, 0.0]]], [[[2.0, 0.0, 0.0, 1.0]]])
    second = Says([[[0.0, 2.0, 0.0, 0.0]]], [[[0.0, 0.0, 3.0, 0.0]]], [[[9.0, 9.0, 9.0, 9.0]]])
    plain = Says(*[[[[0.0, 0.0, 0.0, 0.0]]]] * 3)
    guidance = fd.SemanticGuidance(
        fd.Concept(first, 2.0, threshold=0.5),
        fd.Concept(second, -1.0, threshold=0.7, start=0.7, stop=0.3),
        momentum=0.5,
        decay=0.25,
    )
    denoiser, x, carry, nu = fd.EditedDenoiser(plain, guidance), torch.ones(2, 1, 1, 4, dtype=torch.float64), None, 0.0
    masked = [  # scale * psi where |psi| is in the upper half, or the upper 30 % (the largest of four), of the channel
        np.array([6.0, 0.0, 0.0, 4.0]) + np.array([0.0, -2.0, 0.0, 0.0]),
        np.array([0.0, 3.0, -8.0, 0.0]) + np.array([0.0, 0.0, -3.0, 0.0]),
        np.array([4.0, 0.0, 0.0, 2.0]),  # the second has cooled down
    ]
    alone = np.array([6.0, 0.0, 0.0, 4.0])  # while the second is warming up it only counts for the momentum
    for level, whole in zip(levels, masked, strict=True):
        said = denoiser.predict_next(x, level, carry)
        moved = whole + 0.5 * nu
        expected = alone if level.time == 0 else moved
        nu, carry = 0.25 * nu + 0.75 * moved, said.carry
        assert torch.allclose(said.epshat, torch.as_tensor(expected).expand(x.shape), atol=1e-12)
        assert torch.allclose(carry, torch.as_tensor(nu).expand(x.shape), atol=1e-12)
        assert torch.allclose(level.alpha * said.x0hat + level.sigma * said.epshat, x, atol=1e-12)


def test_the_threshold_is_taken_in_each_channel():
    psi = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[40.0, 30.0], [20.0, 10.0]]]], dtype=torch.float64)
    plain, told = Says(torch.zeros_like(psi).tolist()), Says(psi.tolist())
    level = fd.NoiseLevel(0.6, 0.8, 0)
    said = Prediction(torch.zeros_like(psi), torch.zeros_like(psi))
    for dtype in (torch.float64, torch.float16):
        term = fd.Concept(told, 1.0, threshold=0.9).find_term(torch.zeros_like(psi).to(dtype), level, said)
        assert torch.equal(term, torch.tensor([[[[0.0, 0.0], [0.0, 4.0]], [[40.0, 0.0], [0.0, 0.0]]]]).to(term))
    assert plain.predict(psi, level).epshat.eq(0).all()


def test_a_concept_that_rests_is_not_asked():
    asked = []

    class Counts:
        def x0hat(self, x, t):
            asked.append(t.sigma)
            return LEFT.x0hat(x, t)

    def run(**options):
        asked.clear()
        guidance = fd.SemanticGuidance(fd.Concept(Counts(), 1.0, 0.0, start=0.9, stop=0.3), **options)
        sampler = sampler_of(fd.EditedDenoiser(PLAIN, guidance))
        walk(sampler, begun(sampler, 2), range(6))
        return list(asked)

    every = [step.before.sigma for step in SCHEDULE.transitions]
    assert run() == [sigma for sigma in every if 0.3 <= sigma <= 0.9]
    assert run(momentum=0.5) == [sigma for sigma in every if sigma >= 0.3]  # which is built up while it warms up


@pytest.mark.parametrize("kind", KINDS)
def test_pure_noise_is_not_edited(kind):
    sampler = KINDS[kind](edit())
    sampler = fd.DiffusionSampler(sampler.denoiser, fd.flow(4), (2,), dtype=torch.float64, proposal=sampler.proposal)
    last = smc_last(sampler, NOTHING, 8)
    assert sampler.schedule.transitions[0].before.alpha == 0.0 and torch.isfinite(last.state.x).all()


def smc_last(sampler, potential, n, resample=schemes.never, seed=0):
    *_, last = smc(sampler, potential, n=n, resample=resample, rng=Streams(seed))
    return last


# --- the momentum belongs to a particle ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_momentum_is_copied_with_its_particle(kind):
    sampler, order = KINDS[kind](edit()), np.array([3, 0, 0, 2, 4, 3])
    halfway, _ = walk(sampler, begun(sampler, 6), range(3))
    copied = halfway.fork(order)
    name = {"law": DENOISER_CARRY, "proposal": PROPOSAL_CARRY}[kind]
    assert torch.equal(copied.carry[name], halfway.carry[name][torch.as_tensor(order)])
    straight, after = walk(sampler, halfway, range(3, 6))
    forked, again = walk(sampler, copied, range(3, 6), order=order)
    assert torch.equal(forked.x, straight.x[torch.as_tensor(order)]) and np.array_equal(again, after[order])
    still = KINDS[kind](edit(0.0))
    bare, _ = walk(still, begun(still, 6), range(6))
    assert not torch.allclose(bare.x, straight.x)  # the momentum was at work
    assert copied.fork(np.arange(6)).carry.keys() == copied.carry.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_momentum_goes_with_latents_that_were_looked_at_before_they_were_copied(kind):
    sampler, order = KINDS[kind](edit()), np.array([1, 1, 3, 0])
    halfway, _ = walk(sampler, begun(sampler, 4), range(2))
    straight, _ = walk(sampler, halfway, range(2, 6))
    looked = halfway.fork(np.arange(4))
    looked.look()
    forked, _ = walk(sampler, looked.fork(order), range(2, 6), order=order)
    assert torch.equal(forked.x, straight.x[torch.as_tensor(order)])


@pytest.mark.parametrize("kind", KINDS)
def test_momentum_is_the_same_in_batches_and_where_memory_runs_out(kind):
    class Short:
        """A network that has room for four rows."""

        def x0hat(self, x, t):
            if len(x) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return LEFT.x0hat(x, t)

    guidance = fd.SemanticGuidance(fd.Concept(Short(), 0.7, 0.0), fd.Concept(UP, -0.4, 0.0), momentum=0.6, decay=0.3)
    sampler = KINDS[kind](edit())
    whole, _ = walk(sampler, begun(sampler, 7), range(6))
    for sampler in (KINDS[kind](edit(), batch=3), KINDS[kind](guidance)):
        state = begun(sampler, 7)
        parts, _ = walk(sampler, state, range(6))
        assert torch.allclose(parts.x, whole.x, rtol=0, atol=1e-12)
    assert any("memory ran out" in said for said in state.memory.count_notes(np.arange(7)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_with_momentum_is_walked_again(kind):
    sampler = KINDS[kind](edit())

    def walked(seed, path=None):
        state = begun(sampler, 3)
        state.record()
        total = np.zeros(3)
        for t in range(6):
            rng = Streams(seed).at("propose", t, [3])
            state, inc = sampler.step(t, state, rng) if path is None else sampler.replay(t, state, rng, path)
            total += inc
        return state, total

    state, weights = walked(0)
    again, others = walked(1, sampler.trace(state, 2))
    assert torch.equal(again.x[0], state.x[2]) and others[0] == pytest.approx(weights[2], abs=1e-12)
    *_, last = csmc(sampler, fk.reward(lambda x: x[:, 0], batch=True), sampler.trace(state, 2), n=4, rng=Streams(0))
    assert torch.equal(last.state.x[0], state.x[2])


def test_momentum_is_saved_with_a_run(tmp_path):
    potential, file = fk.reward(lambda x: 3.0 * x[:, 0], batch=True), tmp_path / "run.checkpoint"
    sampler = fd.DiffusionSampler(
        fd.EditedDenoiser(PLAIN, edit()), SCHEDULE, (2,), proposal=fd.EditedProposal(edit(0.3))
    )
    whole = fk.steer(sampler, potential, particles=8, seed=0)
    for k, _ in enumerate(fk.stream(sampler, potential, particles=8, seed=0, checkpoint=file)):
        if k == 2:
            break
    result = fk.resume(file, sampler, potential)
    assert result.log_evidence == whole.log_evidence
    assert all(torch.equal(a, b) for a, b in zip(result.samples, whole.samples, strict=True))


def test_edited_and_plain_denoisers_share_a_batch():
    edited = KINDS["law"](edit())
    both = sampler_of().join([edited, KINDS["law"](edit(0.0))])
    rng = Streams(0)
    state = both.init(6, rng.at("init", 0, [6]))
    noise = state.x.clone()
    for t in range(6):
        state, _ = both.step(t, state, Fixed(np.zeros((6, 2))))
    for g, alone in enumerate((sampler_of(), edited, KINDS["law"](edit(0.0)))):
        one = alone.init(2, rng.at("init", 0, [2]))
        one.x = noise[2 * g : 2 * g + 2]
        for t in range(6):
            one, _ = alone.step(t, one, Fixed(np.zeros((2, 2))))
        assert torch.allclose(one.x, state.x[2 * g : 2 * g + 2], rtol=0, atol=1e-12)


# --- the laws, against closed forms ----------------------------------------------------------------------------------


def linear(denoiser, t):
    """(2, 2) and (2,): epshat = A x + b of a Gaussian, by asking about the axes."""
    points = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    eps = (points - t.alpha * denoiser.x0hat(points, t)) / t.sigma
    return (eps[1:] - eps[0]).T.numpy(), eps[0].numpy()


def law_of(momentum, scales=(0.7, -0.4), decay=0.3):
    """Mean (2,) and covariance (2, 2) of the sample of the edited chain: latents and momentum are jointly Gaussian."""
    mean, cov = np.zeros(4), np.zeros((4, 4))
    cov[:2, :2] = SCHEDULE.start**2 * np.eye(2)
    for step in SCHEDULE.transitions:
        t, s = step.before, step.after
        a, b = linear(PLAIN, t)
        terms = [linear(each, t) for each in (LEFT, UP)]
        whole_a = sum(k * (slope - a) for k, (slope, _) in zip(scales, terms, strict=True))
        whole_b = sum(k * (shift - b) for k, (_, shift) in zip(scales, terms, strict=True))
        # x_s = alpha_s (x - sigma eps) / alpha + c eps + std z, with eps = (a + whole) x + b + whole + momentum nu
        gain = step.c - s.alpha * t.sigma / t.alpha
        map_ = np.block(
            [
                [s.alpha / t.alpha * np.eye(2) + gain * (a + whole_a), gain * momentum * np.eye(2)],
                [(1 - decay) * whole_a, (decay + (1 - decay) * momentum) * np.eye(2)],
            ]
        )
        mean = map_ @ mean + np.concatenate([gain * (b + whole_b), (1 - decay) * whole_b])
        cov = map_ @ cov @ map_.T
        cov[:2, :2] += step.std**2 * np.eye(2)
    return mean[:2], cov[:2, :2]


def moments(x):
    return torch.stack([x[..., 0], x[..., 1], x[..., 0] ** 2, x[..., 1] ** 2, x[..., 0] * x[..., 1]], -1).numpy()


def true_moments(mean, cov):
    second = cov + np.outer(mean, mean)
    return np.array([*mean, second[0, 0], second[1, 1], second[0, 1]])


def by_lot(log_weight, rng):
    """Multinomial resampling at every step, whatever the weights."""
    top = log_weight.max()
    share = np.exp(log_weight - top)
    rows = np.searchsorted(share.cumsum() / share.sum(), rng.uniform(len(share)), side="right").clip(max=len(share) - 1)
    return rows, np.full(len(share), top + math.log(share.mean()))


def estimates(sampler, n=16, runs=500):
    """(runs, 5) estimates of the moments times the evidence, and (runs,) of the evidence, under forced resampling."""
    joint = sampler.join([sampler] * (runs - 1))
    *_, last = smc(joint, NOTHING, n=[n] * runs, resample=by_lot, rng=Streams(7))
    w = np.exp(last.log_weight.reshape(runs, n))  # whose sum is the evidence
    return (w[..., None] * moments(last.state.x.reshape(runs, n, 2))).sum(1), w.sum(1)


def z_scores(found, true):
    return (found.mean(0) - true) / (found.std(0, ddof=1) / math.sqrt(len(found)))


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_law_of_an_edited_chain_is_the_closed_form_under_resampling(momentum):
    found, z = estimates(KINDS["law"](edit(momentum)))
    assert np.allclose(z, 1.0, rtol=0, atol=1e-12)
    assert np.abs(z_scores(found, true_moments(*law_of(momentum)))).max() < 4.0  # 5 of them: false once in 3,000


@pytest.mark.parametrize(("momentum", "threshold", "trust"), [(0.6, 0.0, None), (0.6, 0.5, 0.2), (0.0, 0.5, 1.0)])
def test_as_a_proposal_an_edit_leaves_law_and_evidence_of_the_model(momentum, threshold, trust):
    sampler = sampler_of(proposal=fd.EditedProposal(edit(momentum, threshold, start=0.9), trust))
    found, z = estimates(sampler)
    assert abs(z_scores(z, 1.0)) < 4.0 and z.std() > 0.01
    assert np.abs(z_scores(found, true_moments(*law_of(0.0, (0.0, 0.0))))).max() < 4.0


def test_a_concept_that_is_the_posterior_makes_the_weights_even():
    """Towards E[x0 | x, concept] the proposal is that of the tilted law; the potential is the odds of the concept."""
    weights, means = [0.2, 0.8], torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
    both = fd.GaussianMixture(weights, means, 0.3)
    one = fd.GaussianMixture([1.0], means[:1], 0.3)
    inside = fk.reward(lambda x: math.log(0.2) + one.log_prob(x) - both.log_prob(x), every="end", batch=True)
    told = fd.SemanticGuidance(fd.Concept(one, 1.0, 0.0))
    spread, z = {}, {}
    for steps in (20, 320):
        sampler = fd.DiffusionSampler(
            both, fd.ddim(steps), (2,), dtype=torch.float64, proposal=fd.EditedProposal(told, None)
        )
        w = 512 * np.exp(smc_last(sampler, inside, 512).log_weight)
        spread[steps] = w.std() / w.mean()
        z[steps] = (w.mean() - 0.2) / (w.std() / math.sqrt(512))
    # The weights of the model's own samples are nearly 0 or 1, of spread 2; here only the steps' length is left.
    assert spread[320] < 0.5 * spread[20] and spread[320] < 0.25
    assert abs(z[320]) < 4.0


# --- diffusers' own edit ---------------------------------------------------------------------------------------------


CALL = {"prompt": "a cat", "editing_prompt": ["x", "yz"], "edit_guidance_scale": [4.0, 3.0], "edit_threshold": 0.8,
        "reverse_editing_direction": [False, True], "edit_warmup_steps": [1, 1], **SIZE}  # fmt: skip


def semantic_pipeline():
    torch.manual_seed(0)
    pipe = diffusers.SemanticStableDiffusionPipeline(
        vae(), clip(), clip_tokenizer(), text_unet(16),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_an_edit_of_stable_diffusion_is_that_of_diffusers():
    pipe = semantic_pipeline()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipe(**CALL | {"prompt": ["a cat"] * 2}, num_inference_steps=4, eta=0.0, latents=x, output_type="latent",
                  edit_momentum_scale=0.5, edit_mom_beta=0.6).images  # fmt: skip

    def network(text):
        ids = pipe.tokenizer([text], padding="max_length", max_length=8, return_tensors="pt").input_ids
        said = pipe.text_encoder(ids)[0]
        return fd.Network(lambda x, time: pipe.unet(x, time, encoder_hidden_states=said.expand(len(x), -1, -1)).sample)

    pipe.scheduler.set_timesteps(4)
    noisy = schedule_of(pipe.scheduler, eta=1.0)
    quiet = tuple(fd.ancestral(step.before, step.after, 0.0) for step in noisy.transitions)
    schedule = fd.NoiseSchedule(quiet, noisy.start)
    empty, start = network(""), schedule.transitions[1].before.sigma
    guidance = fd.SemanticGuidance(
        fd.Concept(network("x"), 4.0, 0.8, start=start), fd.Concept(network("yz"), -3.0, 0.8, start=start),
        momentum=0.5, decay=0.6, plain=empty,
    )  # fmt: skip
    base = fd.guide(network("a cat"), empty, 7.5)
    sampler = fd.DiffusionSampler(fd.EditedDenoiser(Forgets(base), guidance), schedule, (4, 8, 8))
    state = sampler.init(2, Streams(0).at("init", 0, [2]))
    state.x = x
    with torch.no_grad():
        for t in range(4):
            state, _ = sampler.step(t, state, Streams(0).at("propose", t, [2]))
    assert torch.allclose(state.x, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


class Forgets:
    """Classifier-free guidance as pipelines do it: a denoiser like any other, without a corrector of its weights."""

    def __init__(self, composition):
        self._composition = composition

    def predict(self, x, t):
        return self._composition.predict(x, t)._replace(rate=None)


def test_a_semantic_pipeline_is_steered_without_its_momentum_and_refused_with_it():
    pipe = semantic_pipeline()
    bright = fk.reward(lambda image: image.mean((1, 2, 3)), 2000.0, batch=True)
    model = fk.Diffusion.from_pipeline(pipe, 4, 1.0)
    pipe.unet.register_forward_pre_hook(lambda *_: pipe.unet.__dict__.update(ran=True))
    with pytest.raises(
        ModelError, match=r"SemanticStable.*momentum.*edit_momentum_scale=0\.0.*EditedDenoiser.*best_of"
    ):
        fk.steer(model.prompt(**CALL), bright, particles=8, seed=0)
    assert "ran" not in pipe.unet.__dict__
    assert np.isfinite(fk.steer(model.prompt(**CALL), bright, particles=2, algorithm="best_of_n").log_evidence)
    for call in (CALL | {"edit_momentum_scale": 0.0}, {"prompt": "a cat", **SIZE}):  # without an edit there is none
        result = fk.steer(model.prompt(**call), bright, particles=8, seed=0, ess_threshold=0.99)
        assert np.isfinite(result.log_evidence) and result.history.resampled


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_what_an_edit_cannot_be_is_said_where_it_is_made():
    for options, said in (
        ({"scale": math.nan}, r"scale is nan.*below 0"),
        ({"threshold": 1.0}, r"threshold is 1.*share"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"start": 0.2, "stop": 0.5}, r"start=0\.2, stop=0\.5.*larger first"),
    ):
        with pytest.raises(ArgumentError, match=said):
            fd.Concept(LEFT, **options)
    with pytest.raises(ArgumentError, match=r"one or more Concept\(denoiser"):
        fd.SemanticGuidance()
    with pytest.raises(ArgumentError, match=r"one or more Concept\(denoiser"):
        fd.SemanticGuidance(LEFT)
    with pytest.raises(ArgumentError, match="momentum is -1"):
        fd.SemanticGuidance(fd.Concept(LEFT), momentum=-1)
    with pytest.raises(ArgumentError, match=r"decay is 1\.5.*from 0 to 1"):
        fd.SemanticGuidance(fd.Concept(LEFT), decay=1.5)
    with pytest.raises(ArgumentError, match=r"EditedProposal: trust is -1"):
        fd.EditedProposal(edit(), trust=-1)
    with pytest.raises(ArgumentError, match=r"Composition cannot be edited.*EditedProposal"):
        fd.EditedDenoiser(fd.anneal(PLAIN, 2.0), edit())
    with pytest.raises(ArgumentError, match="draws no noise"):
        fd.DiffusionSampler(PLAIN, fd.ddim(4, 0.0), (2,), proposal=fd.EditedProposal(edit()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda edited: fd.multiply(edited, PLAIN),
        lambda edited: fd.EditedDenoiser(edited, edit()),
        lambda edited: fd.EditedDenoiser(PLAIN, fd.SemanticGuidance(fd.Concept(edited, 1.0))),
    ],
    ids=["an expert", "an edited one", "a concept"],
)
def test_a_denoiser_that_remembers_is_no_part_of_another(wrap):
    with pytest.raises(ArgumentError, match=r"EditedDenoiser remembers.*to the sampler itself"):
        begun(sampler_of(wrap(fd.EditedDenoiser(PLAIN, edit()))), 2).look()


def test_a_denoiser_with_a_rate_of_weight_is_not_edited():
    class Weighed:
        def predict(self, x, t):
            return fd.anneal(PLAIN, 2.0).predict(x, t)

    with pytest.raises(ArgumentError, match=r"Weighed, which has a rate of weight, cannot be edited.*EditedProposal"):
        begun(sampler_of(fd.EditedDenoiser(Weighed(), edit())), 2).look()


def test_a_carry_without_a_row_for_each_latent_is_refused():
    class Pooled:
        def predict_next(self, x, t, carry):
            said = PLAIN.x0hat(x, t)
            return Prediction(said, said, carry=said.mean(0, keepdim=True))

    with pytest.raises(ArgumentError, match=r"Pooled returned a carry of shape \(1, 2\) for 3 latents"):
        begun(sampler_of(Pooled()), 3).look()


def test_carries_of_different_shapes_do_not_share_a_batch():
    class Wide:
        def predict_next(self, x, t, carry):
            said = PLAIN.x0hat(x, t)
            return Prediction(said, said, carry=x.repeat(1, 2))

    both = sampler_of(Wide()).join([KINDS["law"](edit())])
    with pytest.raises(ArgumentError, match=r"carry \(2,\) and \(4,\).*one after the other"):
        begun(both, 4).look()
