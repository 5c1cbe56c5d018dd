"""Conformers of a small molecule by the sampler of AlphaFold 3 and Boltz, steered by energies; all laws are known.

The denoiser is that of a mixture of eighteen conformers of six atoms: a centre with three neighbours, left- or
right-handed, of which two carry an arm in three positions. They are weighed by chirality, clashes, and a contact that
is to be made. `boltz` is the logic of the code published with Boltz (jwohlwend/boltz), written anew: energies of
x0hat are resampled by at every third step, the weights of the steps between are not kept, x0hat descends along the
gradient at every step, the ratio of kernel and proposal counts only where it is resampled, and one of N particles is
returned. bioemu's SMC has the weights of `reward`, and no gradient.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.published import Published, run
from steered.runs import Drawn, Method, best, even, shares, steered, total_variation
from steered.tables import table

SIZES, STEPS, ATOMS = (4, 16, 64), 24, 6
SIGMAS = fd.karras_sigmas(STEPS, 0.02, 30.0)
SCHEDULE = fd.edm(SIGMAS, [0.8 * (sigma > 0.1) for sigma in [*SIGMAS[1:], 0.0]])
BONDS = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5)]
CORNERS = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=torch.float64) / 3**0.5


def conformers() -> fd.GaussianMixture:
    """Eighteen of them, of 18 coordinates."""
    around = 1.5 * CORNERS
    middle = 1.3 * torch.nn.functional.normalize(around[1] - around[0], dim=0)
    ways = [middle, 1.3 * CORNERS[0], -0.5 * middle + CORNERS[0]]  # towards the other arm, away from the centre, aside
    means = []
    for flip, a, b in itertools.product((1.0, -1.0), range(3), range(3)):
        other = ways[b] - 2 * (ways[b] @ middle) / (middle @ middle) * middle  # seen from the other arm
        atoms = torch.stack([torch.zeros(3, dtype=torch.float64), *around, around[0] + ways[a], around[1] + other])
        means.append((atoms * torch.tensor([1.0, 1.0, flip])).flatten())
    weights = np.random.default_rng(0).uniform(0.3, 1.0, len(means))
    return fd.GaussianMixture(weights, torch.stack(means), 0.02)


def atoms_of(x: Tensor) -> Tensor:
    """(R, 6, 3)."""
    return x.unflatten(-1, (ATOMS, 3))


PRIOR = conformers()
TARGET = (
    fp.chirality([[0, 1, 2, 3]], 1, stiffness=10.0)
    * fp.clashes(0.9, BONDS, stiffness=10.0)
    * fp.distances([[4, 5]], most=2.6, stiffness=2.0)
)


def energy(x: Tensor) -> Tensor:
    """(R,) nats of (R, 18) coordinates."""
    return torch.stack([factor.energy(atoms_of(x)) for factor in TARGET.factors]).sum(0)  # type: ignore[attr-defined]


def sampler(proposal: Any = fd.BASE) -> fd.DiffusionSampler:
    """The conformers along the schedule."""
    return fd.DiffusionSampler(PRIOR, SCHEDULE, (3 * ATOMS,), decode=atoms_of, proposal=proposal, dtype=torch.float64)


def boltz(n: int, runs: int, every: int = 3, descents: int = 20, rate: float = 0.02) -> Drawn:
    """One conformer of each run."""
    generator = torch.Generator().manual_seed(0)
    x = SCHEDULE.start * torch.randn(runs * n, 3 * ATOMS, generator=generator, dtype=torch.float64)
    noise, shift, before, std = torch.zeros_like(x), torch.zeros_like(x), None, 0.0
    for i, step in enumerate(SCHEDULE.transitions):
        x0hat, last = PRIOR.x0hat(x, step.before), i + 1 == STEPS
        led = x0hat
        for _ in range(0 if last else descents):
            led = led.detach().requires_grad_()
            led = led - rate * torch.autograd.grad(energy(led).sum(), led)[0]
        led = led.detach()
        epshat = (x - step.before.alpha * x0hat) / step.before.sigma
        base, moved = step.mean(x0hat, epshat), step.lever * (led - x0hat)
        if (i % every == 0 and (std > 0.0 or i == 0)) or last:
            now = energy(x0hat)
            log_w = -now if before is None else before - now
            if std > 0.0:
                log_w = log_w + fd.log_ratio(noise, shift, std)
            rows = log_w.reshape(runs, n).softmax(1).multinomial(1 if last else n, True, generator=generator)
            rows = (rows + n * torch.arange(runs)[:, None]).flatten()
            base, moved, before = base[rows], moved[rows], now[rows]
        noise, shift, std = torch.randn(base.shape, generator=generator, dtype=torch.float64), moved, step.std
        x = base + shift + std * noise
    return even(x.reshape(runs, -1, 3 * ATOMS))


def methods() -> dict[str, Method]:
    """What is compared; all evaluate the denoiser once for each particle and step."""

    def ours(proposal: Any = fd.BASE, **options: Any) -> Method:
        return lambda n, runs: steered(sampler(proposal), TARGET, n, runs, **options)

    plain = ours(resample=schemes.never)
    blind = ours(fd.Guided(TARGET, trust=None, weighted=False), resample=schemes.never)
    return {
        "best of N": lambda n, runs: best(plain(n, runs), lambda x: -energy(x)),
        "guidance without weights": lambda n, runs: even(blind(n, runs)[1]),
        "published Boltz": boltz,
        "published FK, difference": lambda n, runs: even(
            run(PRIOR, SCHEDULE, (3 * ATOMS,), lambda x: -energy(x), Published(), (runs, n), np.random.default_rng(0))
        ),
        "importance sampling": plain,
        "feynkac, energies": ours(),
        "feynkac, Guided": ours(fd.Guided(TARGET)),
    }


def figures(drawn: Drawn, law: Any) -> tuple[float, float]:
    """Total variation over the conformers that samples are nearest to, and the mean energy."""
    log_w, x = drawn
    w, flat = shares(log_w), x.flatten(0, 1)
    which = torch.cdist(flat, PRIOR.means).argmin(1).numpy()
    mass = np.bincount(which, (w / len(w)).ravel(), len(PRIOR.means))
    return total_variation(mass, law), float((w / len(w)).ravel() @ energy(flat).numpy())


def compare(samples: int, many: int) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each method and N, `many` of the chain for the truth."""
    log_w, x = steered(sampler(), TARGET, many, 1, schemes.never, seed=1)
    nats, share = log_w[0] + np.log(many), shares(log_w)[0]
    log_z, ess = float(np.log(np.exp(nats).mean())), 1.0 / float((share**2).sum())
    law = np.bincount(torch.cdist(x[0], PRIOR.means).argmin(1).numpy(), share, len(PRIOR.means))
    picked = np.random.default_rng(0).choice(many, (1, samples), p=share)
    rows = [_row("exact draws", [figures(even(x[0][torch.as_tensor(picked)]), law)] * len(SIZES))]
    for name, method in methods().items():
        rows.append(_row(name, [figures(method(n, samples // n), law) for n in SIZES]))
    table(rows, f"conformers: log Z {log_z:.3f}; the truth rests on {ess:.0f} effective of {many} samples")
    return rows


def _row(name: str, found: list[tuple[float, float]]) -> dict[str, Any]:
    tv = {f"TV N={n}": each[0] for n, each in zip(SIZES, found, strict=True)}
    return {"method": name, **tv, **{f"energy N={n}": each[1] for n, each in zip(SIZES, found, strict=True)}}
