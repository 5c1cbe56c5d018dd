"""One `fk.reward` for all models: functions of decoded samples, given as they are given for texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

SHAPE = (3, 4, 5)
PRIOR = fd.GaussianMixture([0.5, 0.5], np.stack([np.full(60, -1.0), np.full(60, 1.0)]), 0.3)


class Flat:
    """PRIOR over pictures."""

    def x0hat(self, x, t):
        return PRIOR.x0hat(x.flatten(1), t).reshape(x.shape)


def pixels(x):
    return (x / 2 + 0.5).clamp(0, 1)


def sampler_of(**options):
    return fd.DiffusionSampler(Flat(), fd.ddpm(6), SHAPE, dtype=torch.float64, decode=pixels, **options)


def run(potential, seed=0, **options):
    return fk.steer(sampler_of(**options), potential, particles=8, seed=seed, progress=False)


def same(one, two):
    return one.log_evidence == two.log_evidence and np.array_equal(one.log_weights, two.log_weights)


def red(image):
    return image[0].mean()


def reds(images):
    return images[:, 0].mean((1, 2))


@pytest.mark.parametrize("kind", ["difference", "max", "sum"])
@pytest.mark.parametrize("every", ["token", 2, "end"])
def test_a_function_of_one_sample_weighs_like_one_of_batches(kind, every):
    wanted = run(fk.reward(reds, 5.0, kind, 1 if every == "token" else every, batch=True))
    assert same(run(fk.reward(reds, 5.0, kind, every, batch=True)), wanted)
    found = run(fk.reward(lambda image: float(red(image)), 5.0, kind, every))
    assert np.allclose(found.log_weights, wanted.log_weights, rtol=1e-12)
    assert np.isfinite(wanted.log_evidence) and np.ptp(wanted.log_weights) > 0


def test_what_the_function_sees():
    seen = []
    run(fk.reward(lambda image: seen.append(image) or 0.0, every=4))
    assert len(seen) == 8 + 8, "after step 4 of 6, and at the end"
    assert {tuple(image.shape) for image in seen} == {SHAPE}
    assert all(image.min() >= 0.0 and image.max() <= 1.0 for image in seen)
    shapes = []
    run(fk.reward(lambda images: shapes.append(tuple(images.shape)) or [0.0] * len(images), every="end", batch=True))
    assert shapes == [(8, *SHAPE)]


def test_plain_functions_are_rewards_in_nats_or_constraints():
    assert np.allclose(
        run(lambda image: 3.0 * red(image)).log_weights, run(fk.reward(reds, 3.0, batch=True)).log_weights
    )
    dark = run(lambda image: image.mean() < 0.5)
    assert all(image.mean() < 0.5 for image, w in zip(dark.samples, dark.weights, strict=True) if w > 0)
    assert same(dark, run(fk.constraint(lambda images: images.mean((1, 2, 3)) < 0.5, batch=True)))


def test_constraints_at_the_end_and_on_the_way():
    asked = []

    def dark(image):
        asked.append(1)
        return bool(image.mean() < 0.5)

    result = run(fk.constraint(dark))
    assert len(asked) == 8 and 0 < (result.weights > 0).sum() < 8
    early = run(fk.constraint(dark, every=2))
    assert len(asked) > 16 and np.isfinite(early.log_evidence)


@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_guided_proposals_follow_functions_of_one_sample(through):
    one, many = fk.reward(red, 20.0), fk.reward(reds, 20.0, batch=True)
    found = run(one, proposal=fd.Guided(one, through=through))
    wanted = run(many, proposal=fd.Guided(many, through=through))
    assert np.allclose(found.log_weights, wanted.log_weights, rtol=1e-9)
    powers = (one**0.5) * fk.constraint(lambda image: True)
    assert np.isfinite(run(powers, proposal=fd.Guided(powers, through=through)).log_evidence)


def test_a_guess_is_shared_between_weight_and_gradient():
    asked = []

    def counted(image):
        asked.append(image.requires_grad)
        return red(image)

    reward = fk.reward(counted)
    run(reward, proposal=fd.Guided(reward), seed=1)
    # A gradient before each of 6 steps, each of which is the level of the step before, too; and the samples at the end.
    assert asked == [True] * 6 * 8 + [False] * 8


def test_samples_are_decoded_once_for_all_rewards_and_the_result():
    rows = []

    def counted(x):
        rows.append(len(x))
        return pixels(x)

    sampler = fd.DiffusionSampler(Flat(), fd.ddpm(6), SHAPE, dtype=torch.float64, decode=counted, batch=3)
    most = fk.constraint(lambda image: bool(image.mean() < 0.5))
    result = fk.steer(sampler, fk.reward(red, every="end"), most, particles=8, seed=0)
    assert rows == [3, 3, 2] and (result.weights == 0).any()
    assert all(0.0 <= float(image.mean()) < 0.5 for image, w in zip(result.samples, result.weights, strict=True) if w)


def test_pil_images_one_by_one_and_in_batches():
    seen = []

    def brightness(image):
        seen.append((image.size, image.mode))
        return np.asarray(image).mean() / 255.0

    one = run(fk.reward(fd.on_pil(brightness), every="end"))
    assert set(seen) == {((5, 4), "RGB")}
    many = run(fk.reward(fd.on_pil(lambda images: [brightness(image) for image in images]), every="end", batch=True))
    assert same(one, many)


def test_problems_in_one_batch():
    samplers = [sampler_of(), fd.DiffusionSampler(Flat(), fd.ddpm(6), SHAPE, dtype=torch.float64, decode=pixels)]
    results = fk.steer(samplers, fk.reward(red, 5.0), particles=4, seed=0)
    assert len(results) == 2 and all(np.isfinite(result.log_evidence) for result in results)


def test_one_reward_for_a_text_and_for_an_image(smollm2):
    def size(sample):
        return len(sample)  # of a text its characters, of an image its channels

    reward = fk.reward(size, every="end")
    lm = fk.CausalLM.from_pretrained(str(smollm2))
    text = fk.steer(lm.prompt("Hello", max_tokens=2), reward, particles=2, seed=0, algorithm="importance")
    assert np.allclose(text.log_weights + np.log(2), [len(t) for t in text.samples])
    image = fk.steer(sampler_of(), reward, particles=2, seed=0, algorithm="importance")
    assert np.allclose(image.log_weights + np.log(2), 3.0)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", ["word", "sentence"])
def test_images_have_no_words(every):
    for potential in (fk.reward(red, every=every), fk.constraint(lambda image: True, every=every)):
        with pytest.raises(ArgumentError, match=rf"an image has no {every}s; use every='token'"):
            run(potential)


WRONG = {
    "nan": (lambda image: float("nan"), r"row 0, given one sample of shape \(3, 4, 5\), returned nan"),
    "infinite": (lambda image: torch.tensor(torch.inf), "returned inf; return a finite number"),
    "one of many": (lambda image: image[0], r"returned Tensor of shape \(4, 5\); return a number"),
    "nothing": (lambda image: None, "returned None; return a number"),
    "raises": (lambda image: image[7], "raised IndexError"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("every", ["token", "end"])
def test_what_is_no_score_is_refused_by_name(case, every):
    f, message = WRONG[case]
    when = "at step 0" if every == "token" else "at the end"
    with pytest.raises(PotentialError, match=rf"'reward\(<lambda>\)' {when}, .*{message}"):
        run(fk.reward(f, every=every))


def test_constraints_return_truth_values():
    for f in (lambda image: 0.5, lambda image: image > 0):
        with pytest.raises(PotentialError, match="a constraint returns True or False"):
            run(fk.constraint(f))


def test_batches_return_one_number_a_sample():
    with pytest.raises(PotentialError, match=r"given 8 samples as a batch of shape \(8, 3, 4, 5\).*of shape \(8,\)"):
        run(fk.reward(lambda images: images.mean(), batch=True))
    with pytest.raises(PotentialError, match=r"row 2, a sample of .* returned nan"):
        run(fk.reward(lambda images: [0.0, 0.0, np.nan] + [0.0] * 5, batch=True))


def test_models_with_neither_texts_nor_decoded_samples():
    class Coin:
        def init(self, n, rng):
            return Faces(rng.uniform(n) < 0.5)

        def step(self, t, state, rng):
            return state, np.zeros(len(state))

        def done(self, state):
            return np.ones(len(state), dtype=bool)

    class Faces:
        def __init__(self, up):
            self.up = up

        def __len__(self):
            return len(self.up)

        def fork(self, rows):
            return Faces(self.up[rows])

    with pytest.raises(
        PotentialError, match=r"'reward\(len\)' is a function of texts or of decoded.*Faces has neither"
    ):
        list(smc(Coin(), fk.reward(len), n=2, resample=schemes.never, rng=Streams(0)))


# --- when the function is asked, and how often ------------------------------------------------------------------------


def test_the_schedule_of_fk_steering_asks_and_resamples_at_its_steps():
    asked = []
    schedule = range(2, 6, 2)
    reward = fk.reward(lambda images: asked.append(len(images)) or reds(images), 50.0, "max", schedule, batch=True)
    found = run(reward)
    assert len(asked) == 3  # after two steps and after four, and of the samples
    options = {"particles": 8, "seed": 0, "progress": False}
    always = fk.steer(sampler_of(), reward, resampler="multinomial", ess_threshold=1.0, **options)
    window = fk.steer(sampler_of(), reward, resampler=schemes.during(schemes.multinomial, schedule), **options)
    assert always.history.resampled == window.history.resampled == [2, 4] and same(always, window)
    assert not same(found, always)
    guided = sampler_of(proposal=fd.Guided(reward))
    often = fk.steer(guided, reward, resampler="multinomial", ess_threshold=1.0, **options)
    seldom = fk.steer(guided, reward, resampler=schemes.during(schemes.multinomial, schedule), islands=2, **options)
    assert often.history.resampled == [1, 2, 3, 4, 5] and seldom.history.resampled == [2, 4]


@pytest.mark.parametrize("every", [[0], [], [1.5], range(0), [True], np.array([-1])])
def test_what_are_no_numbers_of_steps_is_refused(every):
    for make in (fk.reward, fk.constraint, lambda f, every: fp.twist(f, every)):
        with pytest.raises(ArgumentError, match=r"every is .*give numbers of steps, from 1 on"):
            make(reds, every=every)


@pytest.mark.parametrize("every", [[4, 2, 4], np.array([2, 4]), (n for n in (2, 4)), {2, 4}])
def test_numbers_of_steps_are_any_iterable(every):
    assert same(
        run(fk.reward(reds, 5.0, every=every, batch=True)), run(fk.reward(reds, 5.0, every=range(2, 5, 2), batch=True))
    )


@pytest.mark.parametrize("batch", [False, True])
def test_copies_are_decoded_scored_and_made_pil_images_once(batch):
    pytest.importorskip("PIL")
    seen, decoded = [], []

    def decode(x):
        decoded.append(len(x))
        return pixels(x)

    def mean(image):
        images = image if batch else [image]
        seen.extend(each.tobytes() for each in images)
        values = [np.asarray(each).mean() / 255 for each in images]
        return values if batch else values[0]

    sampler = dataclasses.replace(sampler_of(preview=pixels), decode=decode)
    reward = fk.reward(fd.on_pil(mean), 50.0, batch=batch)
    result = fk.steer(sampler, reward, particles=8, seed=0, resampler=schemes.during(schemes.systematic, [5]))
    samples = {each.numpy().tobytes() for each in result.samples}  # the last step draws no noise
    assert len(samples) < 8 and sum(decoded) == len(samples)
    assert len(seen) == 8 * 5 + len(samples)
    weights = {}
    for sample, weight in zip(result.samples, result.log_weights, strict=True):
        weights.setdefault(sample.numpy().tobytes(), set()).add(round(weight, 9))
    assert all(len(each) == 1 for each in weights.values())
