"""Schedules made of one Gaussian kernel: the churn of EDM, and levels that are visited again."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd

PRIOR = fd.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.5, 0.5]], 0.3)
SIGMAS = fd.karras_sigmas(8, 0.05, 12.0)
ALPHAFOLD = [0.8 * (sigma > 0.3) for sigma in [*SIGMAS[1:], 0.0]]


def chain_by_the_paper(noises, churn, noise_scale, step_scale):
    """Algorithm 2 of Karras et al. without its second order, as AlphaFold 3 (Algorithm 18) scales it."""
    x = SIGMAS[0] * noises[0]
    for (t, s), rise, z in zip(itertools.pairwise([*SIGMAS, 0.0]), churn, noises[1:], strict=True):
        raised = t * (1.0 + rise)
        x = x + noise_scale * math.sqrt(raised**2 - t**2) * z
        slope = (x - PRIOR.x0hat(x, fd.NoiseLevel(1.0, raised))) / raised
        x = x + step_scale * (s - raised) * slope
    return x


@pytest.mark.parametrize(
    ("churn", "noise_scale", "step_scale"), [([0.8] * 8, 1.0, 1.0), (ALPHAFOLD, 1.003, 1.5), ([0.0] * 8, 1.0, 1.0)]
)
def test_the_chain_of_edm_is_the_papers_cut_where_the_network_is_asked(churn, noise_scale, step_scale):
    noises = torch.randn(9, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = fd.edm(SIGMAS, churn, noise_scale, step_scale)
    first = noise_scale * SIGMAS[0] * math.sqrt((1.0 + churn[0]) ** 2 - 1.0)
    x = SIGMAS[0] * noises[0] + first * noises[1]
    assert schedule.start == pytest.approx(math.hypot(SIGMAS[0], first))
    for step, z in zip(schedule.transitions, [*noises[2:], torch.zeros(5, 2)], strict=True):
        assert step.before.time == step.before.sigma
        x0hat = PRIOR.x0hat(x, step.before)
        x = step.mean(x0hat, (x - x0hat) / step.before.sigma) + step.std * z
    assert torch.allclose(x, chain_by_the_paper(noises, churn, noise_scale, step_scale), atol=1e-12)


def test_one_churn_is_that_of_every_step():
    assert fd.edm(SIGMAS, 0.5) == fd.edm([*SIGMAS, 0.0], np.full(8, 0.5))


def test_the_sigmas_of_karras():
    found = fd.karras_sigmas(3, 1.0, 128.0)
    assert found == pytest.approx([128.0, 1.5**7, 1.0])
    assert fd.karras_sigmas(1, 1.0, 128.0) == pytest.approx([128.0])


def test_a_churn_of_zero_draws_no_noise_and_is_not_copied():
    ode = fd.DiffusionSampler(PRIOR, fd.edm(SIGMAS, 0.0), (2,))
    reward = fk.reward(lambda x: x[:, 0], batch=True)
    with pytest.raises(ArgumentError, match="best_of_n"):
        fk.steer(ode, reward, particles=4, seed=0)
    assert len(fk.steer(ode, reward, algorithm="best_of_n", particles=4, seed=0).samples) >= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: fd.edm([1.0, 2.0]), "must fall"),
        (lambda: fd.edm([]), "must fall"),
        (lambda: fd.edm([math.nan]), "holds NaN"),
        (lambda: fd.edm(SIGMAS, -0.1), "churn"),
        (lambda: fd.edm(SIGMAS, [0.1, 0.2]), "each of the 8 steps"),
        (lambda: fd.edm(SIGMAS, noise_scale=-1.0), "noise_scale"),
        (lambda: fd.edm(SIGMAS, step_scale=math.nan), "step_scale"),
        (lambda: fd.edm(SIGMAS, 1e308), "finite"),
        (lambda: fd.edm([1e200, 1.0]), "squares are numbers"),
        (lambda: fd.ddim(4, 1e308), "more noise than there is"),
        (lambda: fd.karras_sigmas(0), "steps"),
        (lambda: fd.karras_sigmas(5, 0.0, 1.0), "lowest"),
        (lambda: fd.karras_sigmas(5, 2.0, 1.0), "lowest"),
        (lambda: fd.karras_sigmas(5, rho=0.5), "rho"),
        (lambda: fd.revisit(fd.ddpm(4), 0), "times"),
        (lambda: fd.there_and_back(fd.renoise(fd.NoiseLevel(1.0, 0.2), fd.NoiseLevel(1.0, 0.5))), "no way back"),
    ],
)
def test_schedules_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ArgumentError, match=said):
        wrong()


@pytest.mark.parametrize(
    "step",
    [
        *fd.ddpm(4).transitions[1:],
        *fd.ddim(4, 0.0).transitions,
        *fd.edm([3.0, 1.0]).transitions,
        *fd.flow(3).transitions[1:],
    ],
)
def test_there_and_back_is_the_step_and_then_the_forward_noise(step):
    back = fd.there_and_back(step)
    ratio = step.before.alpha / step.after.alpha
    added = step.before.sigma**2 - (ratio * step.after.sigma) ** 2
    x0hat, epshat = torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.7])
    assert back.before == back.after == step.before
    assert torch.allclose(back.mean(x0hat, epshat), ratio * step.mean(x0hat, epshat))
    assert back.std**2 == pytest.approx((ratio * step.std) ** 2 + added)
    assert back.lever == pytest.approx(ratio * step.lever)


def test_a_level_that_is_visited_again_keeps_its_law_in_the_limit_of_small_steps():
    """Of Gaussian data, to second order in the step."""
    variance, off = 2.0, []
    for cut in (0.1, 0.05, 0.025):
        t, s = (fd.NoiseLevel(math.cos(a), math.sin(a)) for a in (0.8, 0.8 - cut))
        back, whole = fd.there_and_back(fd.ancestral(t, s)), t.alpha**2 * variance + t.sigma**2
        gain = t.alpha * variance / whole
        slope = t.alpha * gain + back.c * (1.0 - t.alpha * gain) / t.sigma
        off.append(abs(slope**2 * whole + back.std**2 - whole))
    assert off[0] / off[1] == pytest.approx(4.0, rel=0.2) and off[1] / off[2] == pytest.approx(4.0, rel=0.1)


def test_revisiting_asks_the_network_as_often_as_it_says_and_leaves_pure_noise_alone():
    assert fd.revisit(fd.ddpm(4), 1) == fd.ddpm(4)
    assert len(fd.revisit(fd.ddpm(4), 3)) == 12
    assert len(fd.revisit(fd.flow(4), 3)) == 10  # the first level has alpha = 0
    assert fd.revisit(fd.ddim(4, 0.0), 2).stochastic


def test_levels_of_unknown_times_are_equal_in_every_python_and_process():
    level, schedule = fd.NoiseLevel(0.6, 0.8), fd.flow(3)
    again = pickle.loads(pickle.dumps((level, schedule)))
    assert again == (level, schedule) and {level, again[0]} == {level} and hash(schedule) == hash(again[1])
    assert level != fd.NoiseLevel(0.6, 0.8, 3.0) and level != fd.NoiseLevel(0.8, 0.6)
