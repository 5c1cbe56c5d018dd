"""Guesses that come in by the noise of the latents: where a network errs, and where it does not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import PotentialError
from feynkac.base.sampling import NoiseLevel
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.potentials.base import log_psi
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, never, ssp
from feynkac.smc.rng import Streams

SIZE, N, SCALE = 8, 32, 5.0
SCHEDULE = fd.ddpm(20)


class Erring:
    """The denoiser of independent coordinates of variance 1, whose noise is off by `error` times a wave.

    A network that predicts the noise errs so: in the sample the error is sigma / alpha times as large.
    """

    def __init__(self, error):
        self.error = error

    def x0hat(self, x, t):
        off = torch.sin(3.0 * x + 1.0)
        return (t.alpha * x - self.error * t.sigma / t.alpha * off).clamp(-3.0, 3.0)


def height(x):
    return x.sum(1) / math.sqrt(SIZE)


def sampler_of(error, **options):
    return fd.DiffusionSampler(Erring(error), SCHEDULE, (SIZE,), dtype=torch.float64, **options)


def evidences(potential, error, runs):
    """(runs,) log evidences in nats of independent populations."""
    joint = sampler_of(error).join([sampler_of(error)] * (runs - 1))
    *_, last = smc(joint, potential, n=[N] * runs, resample=adaptive(ssp, 0.5), rng=Streams(0))
    return np.logaddexp.reduce(last.log_weight.reshape(runs, N), axis=1)


def foresee(**options):
    return fk.reward(height, SCALE, batch=True, **options)


def test_what_a_network_errs_in_its_first_guesses_does_not_choose_particles():
    true = _integrate(0.05)
    tempered = {
        "not at all": foresee(),
        "to the end": foresee(every="end"),
        "signal": fp.tempered(foresee(), "signal"),
        "more where it is quiet": fp.tempered(foresee(), "signal", ess=0.9),
    }
    off = {name: ((evidences(each, 0.05, 24) - true) ** 2).mean() for name, each in tempered.items()}
    best = max(off["signal"], off["more where it is quiet"])
    assert best < off["to the end"] < off["not at all"], off


def test_a_result_that_doubts_its_evidence_says_what_to_do_of_latents():
    strong = fk.reward(height, 30.0, batch=True)
    doubts = fk.steer(sampler_of(0.05), strong, particles=8, seed=0).warnings
    assert any('tempered(reward, "signal", ess=0.9)' in each for each in doubts)


def test_guesses_that_tell_particles_little_apart_at_first_come_in_at_once():
    plain, gradual = (evidences(each, 0.0, 4) for each in (foresee(), fp.tempered(foresee(), "signal", ess=0.9)))
    np.testing.assert_array_equal(gradual, plain)


def test_lambda_is_the_correlation_of_latent_and_sample():
    assert [NoiseLevel(0.0, 1.0).signal, NoiseLevel(1.0, 0.0).signal] == [0.0, 1.0]
    x0, eps = np.random.default_rng(0).normal(size=(2, 10_000))
    x0, eps = x0 / x0.std(), eps - x0 * (x0 @ eps) / (x0 @ x0)
    level = NoiseLevel(0.3, 1.7)
    found = np.corrcoef(x0, level.alpha * x0 + level.sigma * eps / eps.std())[0, 1]
    assert found == pytest.approx(level.signal, abs=1e-3)


@pytest.mark.parametrize("ess", [None, 0.9])
def test_levels_and_gradients_are_lambda_times_those_of_the_reward(ess):
    reward = foresee()
    potential, everyone, last = fp.tempered(reward, "signal", ess=ess), np.arange(N), 0.0
    for step in smc(sampler_of(0.05), potential, n=N, resample=never, rng=Streams(0)):
        if step.done.all():
            break
        state, signal = step.state, step.state.noise_level.signal
        view = next(state.views(everyone))
        told, plain = potential.level(step.t, state, everyone), reward.level(step.t, state, everyone)
        lam = told @ plain / (plain @ plain)
        np.testing.assert_allclose(told, lam * plain)
        np.testing.assert_allclose(log_psi(potential, view), lam * log_psi(reward, view))
        assert (lam == pytest.approx(signal)) if ess is None else signal - 1e-12 <= lam <= 1.0
        assert lam >= last, "lambda never falls"
        last = lam


@pytest.mark.parametrize(("least", "found"), [(1.5, 1.5), (0.25, 0.25)])
def test_the_larger_of_schedule_and_bisection_is_taken(least, found):
    potential = fp.tempered(foresee(), lambda t: least, ess=0.999 if least < 1 else 0.01)
    first = next(iter(smc(sampler_of(0.5), potential, n=N, resample=never, rng=Streams(0))))
    state, rows = first.state, np.arange(N)
    np.testing.assert_allclose(potential.level(0, state, rows), found * foresee().level(0, state, rows))


def test_what_has_no_noise_level_is_refused_by_name():
    state = SimpleNamespace(memory=None, group=np.zeros(1), since=np.zeros(1))
    with pytest.raises(PotentialError, match="noise of latents, and SimpleNamespace has none; give a function"):
        fp.tempered(foresee(), "signal").level(0, state, np.arange(1))


def _integrate(error, points=801):
    """log E[exp(reward)] in nats: coordinates are independent, and each is integrated backwards on a grid."""
    grid = np.linspace(-8.0, 8.0, points)
    worth = np.exp(SCALE / math.sqrt(SIZE) * grid)
    for step in reversed(SCHEDULE.transitions):
        x0hat = Erring(error).x0hat(torch.as_tensor(grid), step.before)
        mean = step.mean(x0hat, (torch.as_tensor(grid) - step.before.alpha * x0hat) / step.before.sigma).numpy()
        if step.std == 0.0:
            worth = np.interp(mean, grid, worth)
            continue
        law = np.exp(-0.5 * ((grid - mean[:, None]) / step.std) ** 2)
        worth = law @ worth / law.sum(1)
    start = np.exp(-0.5 * (grid / SCHEDULE.start) ** 2)
    return SIZE * math.log(start @ worth / start.sum())
