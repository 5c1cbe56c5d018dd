"""Energies of molecules: distances, clashes and chirality, as Boltz, bioemu and their like steer by.

A sample is (atoms, 3) coordinates, in the units of the model; an energy is in nats, so that kT = 1. All are flat where
nothing is wrong and quadratic beyond, so that they have a gradient, and none depends on where a molecule lies and how
it is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_real
from feynkac.potentials.rewards.boundaries import read_every
from feynkac.potentials.rewards.decoded import DecodedReward, Steps, count_steps
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.tensors import read_tensor


class Energy(DecodedReward):
    """exp(-energy) of the sample, and of the sample expected on the way."""

    def __init__(self, energy: Callable[[Tensor], Tensor], name: str, every: Steps) -> None:
        super().__init__(
            Scorer(energy, name, batch=True), -1.0, "difference", count_steps(read_every(every, name), name)
        )
        self.energy = energy
        """(R, atoms, 3) samples to (R,) energies in nats."""


def distances(pairs: Any, least: Any = 0.0, most: Any = math.inf, stiffness: float = 1.0, every: Steps = 1) -> Energy:
    """Keep the distance of each pair of atoms between two bounds: bonds, contacts, chains that must not break.

    The energy is stiffness / 2 times the square of what a distance is outside, added over the `pairs` (m, 2). `least`
    and `most` are one number for all, or (m,). `every`: guess on the way after every so many steps, or "end".

    Raises ArgumentError for pairs and bounds that do not fit; PotentialError, when used, for samples of other atoms.
    """
    rows, stiffness = _read_atoms("distances", "pairs", pairs, 2), read_real("distances: stiffness", stiffness, 0.0)
    low, high = (
        _read_bounds(f"distances: {name}", value, len(rows)) for name, value in (("least", least), ("most", most))
    )
    if not bool((low <= high).all()):
        raise ArgumentError(f"distances(least={quote(least)}, most={quote(most)}): no distance is between these")

    def energy(x: Tensor) -> Tensor:
        one, two = _take(x, rows, "distances").unbind(2)
        apart = torch.linalg.vector_norm(one - two, dim=-1)
        outside = (low.to(apart) - apart).clamp(min=0.0) + (apart - high.to(apart)).clamp(min=0.0)
        return 0.5 * stiffness * outside.square().sum(1)

    return Energy(energy, "distances", every)


def clashes(radii: Any, bonded: Any = (), stiffness: float = 1.0, every: Steps = 1) -> Energy:
    """Keep all pairs of atoms but the `bonded` ones (m, 2) at least as far apart as their two radii together.

    `radii`: one number for all atoms, or (atoms,). The energy is stiffness / 2 times the square of each overlap.
    `every`: as in `distances`.

    Raises ArgumentError for radii below 0 and for wrong pairs; PotentialError, when used, for another number of atoms.
    """
    size = read_tensor("clashes: radii", radii, torch.float64).detach()
    if size.ndim > 1 or not size.numel() or not bool((size >= 0.0).all()):
        raise ArgumentError(f"clashes(radii={quote(radii)}): give one number of at least 0, or one for each atom")
    stiffness = read_real("clashes: stiffness", stiffness, 0.0)
    free = _read_atoms("clashes", "bonded", bonded, 2, least=0)

    def energy(x: Tensor) -> Tensor:
        _take(x, free, "clashes")
        atoms = x.shape[1]
        if size.ndim and len(size) != atoms:
            raise ArgumentError(f"clashes has radii for {len(size)} atoms, and a sample has {atoms}")
        own = size.expand(atoms)
        contact = (own[:, None] + own).triu(1)  # each pair once
        contact[free.min(1).values, free.max(1).values] = 0.0
        apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")  # the other mode loses digits
        return 0.5 * stiffness * (contact.to(apart) - apart).clamp(min=0.0).square().sum((1, 2))

    return Energy(energy, "clashes", every)


def chirality(centres: Any, hands: Any, least: float = 0.4, stiffness: float = 100.0, every: Steps = 1) -> Energy:
    """Keep atoms with four neighbours the right way round.

    `centres` (m, 4): an atom and three of its neighbours. `hands`: 1 or -1, one for all or (m,), the sign of the volume
    a . (b x c) of the unit vectors to these three, in their order; in a tetrahedron its size is 0.77. The energy is
    stiffness / 2 times the square of what is lacking to `least`. `every`: as in `distances`.

    Raises ArgumentError for wrong centres or hands; PotentialError, when used, for samples of other atoms.
    """
    rows = _read_atoms("chirality", "centres", centres, 4)
    sign = _read_bounds("chirality: hands", hands, len(rows))
    if not bool((sign.abs() == 1.0).all()):
        raise ArgumentError(f"chirality(hands={quote(hands)}): 1 or -1, one for all centres or one for each")
    least, stiffness = read_real("chirality: least", least, 0.0), read_real("chirality: stiffness", stiffness, 0.0)

    def energy(x: Tensor) -> Tensor:
        centre, *around = _take(x, rows, "chirality").unbind(2)
        a, b, c = (torch.nn.functional.normalize(each - centre, dim=-1) for each in around)
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        return 0.5 * stiffness * (least - sign.to(volume) * volume).clamp(min=0.0).square().sum(1)

    return Energy(energy, "chirality", every)


def _read_atoms(name: str, what: str, given: Any, width: int, least: int = 1) -> Tensor:
    """(m, width) indices of atoms, of `least` rows at least."""
    rows = read_tensor(f"{name}: {what}", given, advice=f"give (m, {width}) numbers of atoms, counted from 0").detach()
    if not rows.numel() and not least:
        return torch.zeros(0, width, dtype=torch.long, device="cpu")
    whole = not rows.is_floating_point() and rows.dtype != torch.bool and rows.numel() > 0
    if rows.ndim != 2 or rows.shape[1] != width or not whole or not bool((rows >= 0).all()):
        raise ArgumentError(f"{name}({what}={quote(given)}): give (m, {width}) numbers of atoms, counted from 0")
    if any(len(set(row)) < width for row in rows.tolist()):
        raise ArgumentError(f"{name}({what}={quote(given)}): the atoms of one row are different ones")
    return rows.long()


def _read_bounds(name: str, given: Any, count: int) -> Tensor:
    """(count,) float64 numbers."""
    advice = "give one number for all, or one for each row of atoms"
    bounds = read_tensor(name, given, torch.float64, advice, infinite=True).detach()
    if bounds.shape not in ((), (count,)):
        raise ArgumentError(f"{name} is {quote(given)} for {count} rows of atoms; {advice}")
    return bounds.expand(count)


def _take(x: Tensor, rows: Tensor, name: str) -> Tensor:
    """(R, m, width, 3) coordinates of the atoms in `rows` (m, width)."""
    if x.ndim != 3 or x.shape[-1] != 3:
        raise ArgumentError(
            f"{name} is about (atoms, 3) coordinates, and a sample has the shape {tuple(x.shape[1:])}; give the "
            "sampler a decode= that makes such, as lambda x: x.unflatten(1, (-1, 3))"
        )
    if len(rows) and int(rows.max()) >= x.shape[1]:
        raise ArgumentError(f"{name} names atom {int(rows.max())}, and a sample has {x.shape[1]}, counted from 0")
    return x[:, rows.to(x.device)]
