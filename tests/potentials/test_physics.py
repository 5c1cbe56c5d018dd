"""Energies of molecules: by hand, whatever way a molecule is turned, with gradients, and as the target of a run."""

from __future__ import annotations

import math

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

CORNERS = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=torch.float64) / 3**0.5
MOLECULE = torch.cat([torch.zeros(1, 3, dtype=torch.float64), CORNERS])
VOLUME = float(torch.linalg.det(CORNERS))
MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
ENERGIES = {
    "distances": fp.distances([[0, 1], [1, 2]], [1.2, 0.0], [2.0, 1.0], stiffness=3.0),
    "clashes": fp.clashes([0.6, 0.6, 0.9, 0.9], [[0, 1], [3, 0]], stiffness=2.0),
    "chirality": fp.chirality([[0, 1, 2, 3]], -1 if VOLUME > 0 else 1, least=0.5, stiffness=4.0),
}
BY_HAND = {
    "distances": 1.5 * (0.2**2 + (math.sqrt(8 / 3) - 1.0) ** 2),
    "clashes": 0.5**2 + (1.8 - math.sqrt(8 / 3)) ** 2,
    "chirality": 2.0 * (0.5 + abs(VOLUME)) ** 2,
}


def crooked(count=5):
    return MOLECULE + 0.3 * torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_energy_of_a_molecule_by_hand(name):
    assert ENERGIES[name].energy(MOLECULE[None]).tolist() == pytest.approx([BY_HAND[name]])


@pytest.mark.parametrize("name", ENERGIES)
def test_an_energy_does_not_depend_on_where_a_molecule_lies_nor_on_the_other_rows(name):
    x, energy = crooked(), ENERGIES[name].energy
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    assert torch.allclose(energy(x @ turn.T + 5.0), energy(x))
    assert torch.allclose(torch.cat([energy(row[None]) for row in x]), energy(x))


def test_only_chirality_sees_a_mirror():
    x = crooked()
    for name, potential in ENERGIES.items():
        assert torch.allclose(potential.energy(x), potential.energy(x * MIRROR)) == (name != "chirality")
    right, left = (fp.chirality([[0, 1, 2, 3]], hand) for hand in (1, -1))
    assert torch.allclose(right.energy(x), left.energy(x * MIRROR))


@pytest.mark.parametrize("name", ENERGIES)
def test_gradients_of_an_energy(name):
    assert torch.autograd.gradcheck(ENERGIES[name].energy, crooked(2).requires_grad_())


@pytest.mark.parametrize("name", ENERGIES)
def test_atoms_in_one_place_have_a_finite_gradient(name):
    x = torch.zeros(1, 4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ENERGIES[name].energy(x).sum(), x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: fp.distances([0, 1]), "pairs"),
        (lambda: fp.distances([[0.0, 1.0]]), "pairs"),
        (lambda: fp.distances([[-1, 1]]), "pairs"),
        (lambda: fp.distances([[1, 1]]), "different"),
        (lambda: fp.distances([[0, 1]], least=2.0, most=1.0), "no distance"),
        (lambda: fp.distances([[0, 1]], least=[1.0, 2.0]), "one number for all"),
        (lambda: fp.distances([[0, 1]], stiffness=-1.0), "stiffness"),
        (lambda: fp.distances([[0, 1]], every=0), "every"),
        (lambda: fp.clashes(-1.0), "radii"),
        (lambda: fp.clashes([[1.0]]), "radii"),
        (lambda: fp.clashes(1.0, [[0, 1, 2]]), "bonded"),
        (lambda: fp.chirality([[0, 1, 2]], 1), "centres"),
        (lambda: fp.chirality([[0, 1, 2, 3]], 0), "hands"),
        (lambda: fp.chirality([[0, 1, 2, 3]], [1, -1]), "one number for all"),
    ],
)
def test_energies_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ArgumentError, match=said):
        wrong()


@pytest.mark.parametrize(
    ("potential", "shape", "said"),
    [
        (fp.distances([[0, 4]]), (3, 4, 3), "atom 4"),
        (fp.clashes(1.0, [[0, 4]]), (3, 4, 3), "atom 4"),
        (fp.clashes([1.0, 1.0]), (3, 4, 3), "radii for 2 atoms"),
        (fp.chirality([[0, 1, 2, 3]], 1), (3, 12), "decode="),
    ],
)
def test_samples_of_other_atoms_are_refused(potential, shape, said):
    with pytest.raises(ArgumentError, match=said):
        potential.energy(torch.zeros(shape))


def test_coordinates_that_are_not_decoded_are_refused_in_a_run():
    flat = fd.DiffusionSampler(fd.GaussianMixture([1.0], torch.zeros(1, 12), 1.0), fd.edm([3.0, 1.0]), (12,))
    with pytest.raises(PotentialError, match=r"chirality.*decode="):
        fk.steer(flat, fp.chirality([[0, 1, 2, 3]], 1), particles=4, seed=0)


# --- as the target of a run ------------------------------------------------------------------------------------------

HANDS = fd.GaussianMixture([0.3, 0.7], torch.stack([MOLECULE.flatten(), (MOLECULE * MIRROR).flatten()]), 0.02)
SIGMAS = fd.karras_sigmas(10, 0.05, 10.0)
EDM = fd.edm(SIGMAS, [0.8 * (sigma > 0.1) for sigma in [*SIGMAS[1:], 0.0]], 1.003, 1.1)


def as_atoms(x):
    return x.unflatten(-1, (4, 3))


def run(potential, n, replicates, proposal=fd.BASE, seed=0):
    """(replicates,) means of w and of w 1{right-handed}."""
    sampler = fd.DiffusionSampler(HANDS, EDM, (12,), decode=as_atoms, dtype=torch.float64, proposal=proposal)
    ssp = schemes.adaptive(schemes.ssp, 0.5)
    joint = sampler.join([sampler] * (replicates - 1))
    *_, last = smc(joint, potential, n=[n] * replicates, resample=ssp, rng=Streams(seed))
    w = np.exp(last.log_weight.reshape(replicates, n))
    x = as_atoms(last.state.x)
    right = (torch.linalg.det(x[:, 1:] - x[:, :1]) > 0).numpy().reshape(replicates, n)
    return np.stack([w.sum(1), (w * right).sum(1)])


@pytest.mark.parametrize("guided", [False, True])
def test_energies_along_an_edm_chain_have_the_posterior_of_many_samples(guided):
    """Evidence and share of the right-handed ones, against 60,000 unguided samples: z at 3 standard errors."""
    target = fp.chirality([[0, 1, 2, 3]], 1, stiffness=6.0) * fp.clashes(0.6, stiffness=8.0)
    whole = run(fk.reward(lambda x: -sum(each.energy(x) for each in target.factors), every="end", batch=True), 300, 200)
    found = run(target, 16, 300, fd.Guided(target) if guided else fd.BASE, seed=1)
    off = found.mean(1) - whole.mean(1)
    error = np.sqrt(found.var(1, ddof=1) / found.shape[1] + whole.var(1, ddof=1) / whole.shape[1])
    assert np.abs(off / error).max() < 3.0
