"""Tractable models in front of samplers: exact where the model is right, and weighed where it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

PRIOR = fd.GaussianMixture([0.6, 0.4], [[-1.0, 0.5, 0.0], [1.5, 0.0, -0.5]], [0.4, 0.7])
WRONG = fd.GaussianMixture([0.5, 0.5], [[-0.6, 0.0, 0.0], [1.0, 0.5, 0.0]], [0.8, 0.8])
MATRIX, Y, NOISE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]), torch.tensor([0.7, -0.2]), 0.6
SEEN = fp.observed(fp.linear(MATRIX), Y, noise=NOISE)
LOG_Z, POSTERIOR = PRIOR.observe(MATRIX, Y, NOISE**2)
SSP = schemes.adaptive(schemes.ssp, 0.5)
LEVELS = [fd.NoiseLevel(1.0, 0.0), fd.NoiseLevel(0.6, 0.4), fd.NoiseLevel(0.0, 1.0)]


def sampler(steps, proposal=fd.BASE, denoiser=PRIOR, shape=(3,)):
    return fd.DiffusionSampler(denoiser, fd.flow(steps), shape, dtype=torch.float64, proposal=proposal)


def run(steps, potential, proposal, runs, particles=16):
    """(runs,) log evidence of independent runs, which share one batch."""
    one = sampler(steps, proposal)
    joint = one.join([one] * (runs - 1))
    *_, last = smc(joint, potential, n=[particles] * runs, resample=SSP, rng=Streams(0))
    return np.array([last.group(g).log_z for g in range(runs)])


@pytest.mark.parametrize("level", LEVELS)
def test_the_guess_of_the_true_model_is_the_evidence_given_the_latent(level):
    """log p(y | x) of a mixture, against the same number by Bayes' rule over its components."""
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = LOG_Z + POSTERIOR.log_prob(x, level) - PRIOR.log_prob(x, level)
    joint = []
    for k in range(2):
        mean, var = PRIOR.means[k], PRIOR.covariances[k][0, 0]
        spread = level.alpha**2 * var + level.sigma**2
        gain = level.alpha * var / spread
        here = mean + gain * (x - level.alpha * mean)
        left = var - gain * level.alpha * var
        cov = MATRIX.double() @ MATRIX.double().T * left + NOISE**2 * torch.eye(2, dtype=torch.float64)
        seen = torch.distributions.MultivariateNormal(here @ MATRIX.double().T, cov).log_prob(Y.double())
        of_x = -0.5 * ((x - level.alpha * mean) ** 2 / spread + torch.log(2 * math.pi * spread)).sum(1)
        joint.append(PRIOR.weights[k].log() + of_x + seen)
    joint = torch.stack(joint).logsumexp(0) - PRIOR.log_prob(x, level)
    assert torch.allclose(found, joint, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS[1:2])
def test_the_move_of_x0hat_is_the_gradient_of_the_guess(level):
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    guess = POSTERIOR.log_prob(x, level) - PRIOR.log_prob(x, level)
    (gradient,) = torch.autograd.grad(guess.sum(), x)
    moved = POSTERIOR.x0hat(x, level) - PRIOR.x0hat(x, level)
    assert torch.allclose(moved, level.sigma**2 / level.alpha * gradient, atol=1e-9)


def test_weights_vanish_as_steps_are_added_where_the_model_is_right():
    """With the exact guess and move only the steps' size is left: the error falls as its root, fourfold here."""
    target = fp.foreseen(SEEN, PRIOR, POSTERIOR, LOG_Z)
    proposal = fd.Blended(POSTERIOR, PRIOR, trust=None)
    spread = [run(steps, target, proposal, runs=24).std() for steps in (5, 80)]
    plain = run(80, SEEN, fd.BASE, runs=24).std()
    assert spread[1] < spread[0] / 2 and spread[1] < plain / 3


@pytest.mark.parametrize("share", [1.0, lambda level: level.sigma])
@pytest.mark.parametrize("prior", [WRONG, None])
def test_a_wrong_model_changes_no_evidence(prior, share):
    """E[Z_hat] against 20,000 plain samples of the same chain, at 4 standard errors."""
    log_z, posterior = WRONG.observe(MATRIX, Y, NOISE**2)
    target = fp.foreseen(SEEN, WRONG, posterior, log_z)
    found = run(6, target, fd.Blended(posterior, prior, share=share, trust=0.5), runs=400)
    plain = fk.steer(sampler(6), SEEN, particles=20_000, seed=0, algorithm="importance")
    w = np.exp(plain.log_weights)
    ratio = np.exp(found) / w.sum()
    off = (ratio.mean() - 1.0) / math.hypot(ratio.std(ddof=1) / 20, (w * len(w)).std() / w.sum() / math.sqrt(len(w)))
    assert abs(off) < 4.0


def test_images_are_moved_as_their_pixels_are():
    flat = fk.steer(sampler(5, fd.Blended(POSTERIOR, PRIOR)), SEEN, particles=8, seed=0)
    image = fk.steer(sampler(5, fd.Blended(POSTERIOR, PRIOR), shape=(1, 3, 1)), SEEN, particles=8, seed=0)
    assert image.log_evidence == pytest.approx(flat.log_evidence, abs=1e-9)
    assert torch.allclose(torch.stack(list(image.samples)).reshape(8, 3), torch.stack(list(flat.samples)))


def test_a_prior_needs_noise_to_move_by():
    blended = fd.Blended(POSTERIOR, PRIOR, trust=None, weighted=False)
    with pytest.raises(ArgumentError, match=r"moves by what noise the kernel draws, here none; leave prior= out"):
        fd.DiffusionSampler(PRIOR, fd.flow(5, eta=0.0), (3,), proposal=blended)


def test_unweighted_blending_is_declared_biased():
    result = fk.steer(sampler(5, fd.Blended(POSTERIOR, weighted=False)), SEEN, particles=4, seed=0)
    assert result.biased


def test_what_is_no_tractable_model_is_refused():
    with pytest.raises(ArgumentError, match=r"has no log_prob\(x, noise_level\); give a GaussianMixture"):
        fp.foreseen(SEEN, fd.Network(lambda x, t: x), POSTERIOR)
    with pytest.raises(ArgumentError, match=r"foreseen\(3\): give a potential"):
        fp.foreseen(3, PRIOR, POSTERIOR)
    with pytest.raises(ArgumentError, match=r"log_evidence is nan; it must be a finite number"):
        fp.foreseen(SEEN, PRIOR, POSTERIOR, math.nan)
    with pytest.raises(ArgumentError, match=r"Blended\(3\): give a denoiser"):
        fd.Blended(3)
    with pytest.raises(ArgumentError, match=r"Blended\(share='all'\): a number, or a function"):
        fd.Blended(POSTERIOR, share="all")
    with pytest.raises(ArgumentError, match=r"Blended: trust is -1; it must be a number of at least 0"):
        fd.Blended(POSTERIOR, trust=-1)


def test_a_share_that_is_no_number_names_the_proposal_and_the_level():
    proposal = fd.Blended(POSTERIOR, share=lambda level: math.nan)
    with pytest.raises(ArgumentError, match=r"the share of Blended\(GaussianMixture\) at NoiseLevel.* is nan"):
        fk.steer(sampler(5, proposal), SEEN, particles=4, seed=0)


def test_a_model_of_other_shapes_is_told_which():
    class Half:
        def x0hat(self, x, t):
            return x[:, :1]

    with pytest.raises(
        ArgumentError, match=r"Half of Blended\(Half\) returned shape \(4, 1\) for latents of shape \(4, 3\)"
    ):
        fk.steer(sampler(5, fd.Blended(Half())), SEEN, particles=4, seed=0)
