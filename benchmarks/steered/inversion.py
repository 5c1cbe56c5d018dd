"""Inverting a generator: the posterior of its latents by tempered SMC with Langevin moves, beside plain optimisation.

The generator is the decoder of a small variational autoencoder of digits, trained here in seconds. A digit that it has
not seen is shown by half. The truth is importance sampling from 100,000 latents of the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc.engine import smc
from feynkac.smc.rejuvenation import Moves, Rejuvenation
from feynkac.smc.rng import Streams
from steered.runs import SSP, Numbers, shares
from steered.tables import table

SIZE, NOISE, STEPS, MANY = 6, 0.5, 24, 100_000
SPREAD = 0.2
"""Standard deviation of a pixel about what the decoder makes, in training."""
SEEN = (torch.arange(64) % 8 < 4).reshape(64)
"""(64,) the left half of the pixels."""


def images() -> tuple[Tensor, Tensor]:
    """Digits (M, 64) from 0 to 1 to train on, and held-out ones."""
    from sklearn.datasets import load_digits

    data = torch.as_tensor(load_digits().data / 16).float()
    return data[:1500], data[1500:]


def trained(data: Tensor, steps: int = 3000, batch: int = 64) -> nn.Module:
    """The decoder of a variational autoencoder (Kingma, Welling 2014): latents (R, SIZE) to images (R, 64)."""
    torch.manual_seed(0)
    encode = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 2 * SIZE))
    decode = nn.Sequential(nn.Linear(SIZE, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())
    adam = torch.optim.Adam([*encode.parameters(), *decode.parameters()], 2e-3)
    for _ in range(steps):
        x = data[torch.randint(len(data), (batch,))]
        mean, log_var = encode(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        fit = (decode(z) - x).square().sum(1) / (2 * SPREAD**2)
        loss = (fit + 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(1)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return decode.requires_grad_(False)


class Truth:
    """The posterior of the images of one observation, by importance sampling."""

    def __init__(self, decode: Callable[[Tensor], Tensor], y: Tensor) -> None:
        x = decode(torch.randn(MANY, SIZE, generator=torch.Generator().manual_seed(0)))
        nats = (-0.5 * ((x[:, SEEN] - y) / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi))).double().sum(1).numpy()
        w = np.exp(nats - nats.max())
        self.log_evidence = nats.max() + np.log(w.mean())
        self.ess = w.sum() ** 2 / (w**2).sum()
        self.mean, self.sd = moments(x.double().numpy(), w / w.sum())


def moments(x: Numbers, w: Numbers) -> tuple[Numbers, Numbers]:
    """(64,) means and standard deviations of weighted images (R, 64)."""
    mean = w @ x
    return mean, np.sqrt(w @ (x - mean) ** 2)


def optimised(
    decode: Callable[[Tensor], Tensor], y: Tensor, starts: int, passes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """(starts, SIZE) latents after `passes` steps of Adam on their log posterior, and what that is, (starts,) nats."""
    z = torch.randn(starts, SIZE, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    adam, nats = torch.optim.Adam([z], 0.1), torch.zeros(starts)
    for _ in range(passes):
        nats = -0.5 * (((decode(z)[:, SEEN] - y) / NOISE) ** 2).sum(1) - 0.5 * (z**2).sum(1)
        adam.zero_grad()
        (-nats.sum()).backward()
        adam.step()
    return z.detach(), nats.detach()


def compare(n: int, runs: int, digits: int) -> list[dict[str, Any]]:
    """Print the table: every method makes N latents, with as many passes of the generator."""
    data, held_out = images()
    decode = trained(data)
    found: dict[str, list[list[float]]] = {}
    passes, ess = STEPS + 2 * (STEPS - 1), []
    for image in held_out[:digits]:
        y, truth = image[SEEN], Truth(decode, image[SEEN])
        ess.append(truth.ess)

        def note(
            name: str, x: Tensor, log_w: Numbers | None = None, truth: Truth = truth, image: Tensor = image
        ) -> None:
            x_, w = (
                x.reshape(runs, -1, 64).double().numpy(),
                shares(np.zeros((runs, len(x) // runs)) if log_w is None else log_w),
            )
            each = [moments(one, of) for one, of in zip(x_, w, strict=True)]
            off = np.nan if log_w is None else np.logaddexp.reduce(log_w, axis=1) - truth.log_evidence
            means, sds = (np.array(part)[:, ~SEEN.numpy()] for part in zip(*each, strict=True))
            hidden = ~SEEN.numpy()
            found.setdefault(name, []).append([
                np.sqrt(np.mean((means - truth.mean[hidden]) ** 2)), np.mean(sds) / np.mean(truth.sd[hidden]),
                np.sqrt(np.mean((means - image.numpy()[hidden]) ** 2)), np.sqrt(np.mean(np.square(off))),
            ])  # fmt: skip

        seen = fp.observed(fp.inpainting(SEEN), y, NOISE)
        path = fp.tempered(seen, ess=0.5)
        sampler = fd.generator(decode, (SIZE,), STEPS)
        for name, moves in {"tempered SMC": (), "tempered SMC, Langevin moves": (fd.Langevin(path, step=0.3),)}.items():
            joint = sampler.join([sampler] * (runs - 1))
            move = Rejuvenation(Moves(moves))
            *_, last = smc(joint, path, n=[n] * runs, resample=SSP, rng=Streams(0), moves=move)
            note(name, decode(last.state.x), last.log_weight.reshape(runs, n))
        # As many passes as the others make.
        many = torch.randn(runs * n * passes, SIZE, generator=torch.Generator().manual_seed(1))
        nats = -0.5 * (
            ((decode(many)[:, SEEN] - y) / NOISE) ** 2 + 2 * np.log(NOISE * np.sqrt(2 * np.pi))
        ).double().sum(1)
        note("importance sampling", decode(many), nats.numpy().reshape(runs, -1) - np.log(n * passes))
        made = [optimised(decode, y, n, passes, seed) for seed in range(runs)]
        note("Adam, all starts", decode(torch.cat([z for z, _ in made])))
        note("Adam, the best start", decode(torch.stack([z[nats.argmax()] for z, nats in made])))
    heads = ("off the posterior mean", "spread / true", "off the digit", "log Z, RMSE")
    rows = [
        {"method": name, **dict(zip(heads, np.mean(each, 0).tolist(), strict=True))} for name, each in found.items()
    ]
    for row in rows:
        row["log Z, RMSE"] = None if np.isnan(row["log Z, RMSE"]) else row["log Z, RMSE"]
    about = f"{digits} digits seen by half, {n} latents of {SIZE}, {passes} passes each, {runs} runs: the unseen half"
    table(rows, f"{about}; the truth rests on at least {min(ess):.0f} effective of {MANY} samples")
    return rows
