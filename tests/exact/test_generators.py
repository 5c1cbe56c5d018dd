"""Posteriors of a generator's latents: evidence and moments in closed form for linear ones, balance for every one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, FeynkacError, PotentialError
from feynkac.models import diffusion as fd
from feynkac.models.diffusion.generators import Point, log_odds
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rejuvenation import Moves, Rejuvenation
from feynkac.smc.rng import Streams

MATRIX = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.1]], dtype=torch.float64)
Y, NOISE = torch.tensor([1.2, -0.4, 0.3], dtype=torch.float64), 0.3
LOG_Z, POSTERIOR = fd.GaussianMixture([1.0], [[0.0, 0.0]], 1.0).observe(MATRIX, Y, NOISE**2)
SEEN = fp.observed(fp.linear(torch.eye(3, dtype=torch.float64)), Y, noise=NOISE)
SSP = schemes.adaptive(schemes.ssp, 0.5)


def decode(z):
    return z @ MATRIX.T


def invert(path, seed, steps=6, particles=64, **move):
    model = fd.generator(decode, (2,), steps, dtype=torch.float64)
    return fk.steer(model, path, particles=particles, seed=seed, moves=fk.rejuvenate(fd.Langevin(path, **move)))


@pytest.mark.parametrize(
    ("path", "move"),
    [
        (fp.tempered(SEEN, lambda t: ((t + 1) / 6) ** 2), {"step": 0.4}),
        (fp.tempered(SEEN, ess=0.5), {"step": 0.4, "repeats": 2}),
        (fp.tempered(SEEN, lambda t: min(1.0, (t + 1) / 3)), {"step": lambda t: 0.6 / (t + 1)}),
    ],
)
def test_the_evidence_of_a_linear_generator_is_unbiased(path, move):
    """E[Z_hat] = Z and E[sum w z] = Z E[z | y], at 4 standard errors over 200 runs in one batch."""
    model, runs = fd.generator(decode, (2,), 6, dtype=torch.float64), 200
    moves = Rejuvenation(Moves((fd.Langevin(path, **move),)))
    joint = model.join([model] * (runs - 1))
    *_, last = smc(joint, path, n=[16] * runs, resample=SSP, rng=Streams(0), moves=moves)
    w = np.exp(last.log_weight - LOG_Z).reshape(runs, 1, 16)
    found = np.concatenate([w.sum(2), (w @ last.state.x.numpy().reshape(runs, 16, 2))[:, 0]], axis=1)
    expected = np.array([1.0, *POSTERIOR.means[0].tolist()])
    off = (np.mean(found, 0) - expected) / (np.std(found, 0, ddof=1) / math.sqrt(len(found)))
    assert np.abs(off).max() < 4.0, off


def test_moves_make_the_posterior_of_copies_that_would_stay_identical():
    """The spread of the particles is the posterior's; without moves but a few latents are left."""
    path = fp.tempered(SEEN, lambda t: min(1.0, ((t + 1) / 10) ** 2))
    moved = invert(path, 0, steps=14, particles=512, step=0.35)
    still = fk.steer(fd.generator(decode, (2,), 14, dtype=torch.float64), path, particles=512, seed=0)
    exact = torch.einsum("ij,jk,ik->i", MATRIX, POSTERIOR.covariances[0], MATRIX).sqrt().numpy()
    samples = torch.stack(list(moved.samples)).numpy()
    spread = np.sqrt(np.average((samples - moved.weights @ samples) ** 2, axis=0, weights=moved.weights))
    assert np.abs(spread / exact - 1).max() < 0.2
    assert len({tuple(x.tolist()) for x in still.samples}) < 120 < len({tuple(x.tolist()) for x in moved.samples})


def test_the_move_is_in_detailed_balance():
    """pi(z) q(z' | z) a(z, z') is symmetric, with densities written out."""

    def point(x):
        leaf = x.clone().requires_grad_()
        nats = -0.5 * ((leaf**3 - 1.0) ** 2).sum(1)
        return Point(x, nats.detach(), torch.autograd.grad(nats.sum(), leaf)[0])

    def density(at, there, step):
        keep = math.sqrt(1 - step**2)
        mean = keep * at.x + (1 - keep) * at.gradient
        target = at.nats - 0.5 * (at.x**2).sum(1)
        return target - 0.5 * (((there.x - mean) / step) ** 2).sum(1)

    one, two = (
        point(x) for x in torch.randn(2, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    for step in (0.1, 0.5, 1.0):
        odds = log_odds(one, two, step)
        assert torch.allclose(odds, density(two, one, step) - density(one, two, step), atol=1e-8)
        flow = density(one, two, step) + odds.clamp(max=0.0)
        back = density(two, one, step) + log_odds(two, one, step).clamp(max=0.0)
        assert torch.allclose(flow, back, atol=1e-8)


def test_without_a_potential_every_proposal_is_taken():
    """The proposal leaves the prior as it is: the odds are 0."""
    x, y = torch.randn(2, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(40, dtype=torch.float64)
    one, two = Point(x, zero, torch.zeros_like(x)), Point(y, zero, torch.zeros_like(y))
    assert torch.allclose(log_odds(one, two, 0.7), zero, atol=1e-9)


def test_parts_of_a_batch_are_moved_as_the_whole_is():
    path = fp.tempered(SEEN, lambda t: (t + 1) / 4)
    move = fk.rejuvenate(fd.Langevin(path, step=0.4))
    whole, parts = (
        fk.steer(fd.generator(decode, (2,), 4, dtype=torch.float64, batch=batch), path, particles=7, seed=0, moves=move)
        for batch in (None, 3)
    )
    assert parts.log_evidence == pytest.approx(whole.log_evidence, abs=1e-9)


def test_a_move_that_foresees_less_than_the_run_weighs_is_refused():
    other = fk.reward(lambda x: x[:, 0], every=1, batch=True)
    model = fd.generator(decode, (2,), 4, dtype=torch.float64)
    move = fk.rejuvenate(fd.Langevin(SEEN))
    with pytest.raises(ArgumentError, match="give it all potentials that steer is given, as one product"):
        fk.steer(model, SEEN * other, particles=4, seed=0, moves=move)


def test_a_generator_without_gradients_is_named():
    model = fd.generator(lambda z: decode(z).detach(), (2,), 4, dtype=torch.float64)
    with pytest.raises(PotentialError, match="has no gradient with respect to the latents; compute"):
        fk.steer(model, SEEN, particles=4, seed=0, moves=fk.rejuvenate(fd.Langevin(SEEN)))


def test_latents_of_a_sampler_are_not_moved():
    prior = fd.GaussianMixture([1.0], [[0.0, 0.0]], 1.0)
    model = fd.DiffusionSampler(prior, fd.flow(4), (2,), dtype=torch.float64, decode=decode)
    with pytest.raises(ArgumentError, match=r"moves the latents of generator\(...\); those of a sampler"):
        fk.steer(model, SEEN, particles=4, seed=0, moves=fk.rejuvenate(fd.Langevin(SEEN)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fd.Langevin(SEEN, step=0.0), "step is 0.0; a standard deviation above 0 and at most 1"),
        (lambda: fd.Langevin(SEEN, step=2.0), "step is 2.0; a standard deviation above 0 and at most 1"),
        (lambda: fd.Langevin(SEEN, repeats=0), "repeats is 0"),
        (lambda: fd.Langevin(3), "give the potential that steer is given"),
        (lambda: fd.generator(decode, (2,), 0), "steps is 0"),
        (lambda: fd.generator(decode, (2,), 4, proposal=fd.Guided(SEEN)), "its latents are drawn once"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, said):
    with pytest.raises(FeynkacError, match=said):
        make()
