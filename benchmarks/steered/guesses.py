"""Strong rewards: how fast guesses should come in, where a network errs in the samples that it first expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.digits import FOLDER, SHAPE, Network, pixels
from steered.runs import SSP, Drawn, Numbers, shares, steered
from steered.tables import table

SIZE, STEPS, N, ISLANDS, ERROR = 16, 20, 32, 4, 0.045
SCHEDULE = fd.ddpm(STEPS)
LAW = fd.GaussianMixture([0.5, 0.5], [[-0.7], [0.7]], 0.06)
FEW = ("reward", 'tempered, "signal", ess=0.9')
NATS, SCALES = (1.0, 5.0, 10.0), (15.0, 60.0, 100.0)


class Coordinates:
    """The denoiser of independent coordinates of `LAW`, clipped, whose noise is off by `error` times a wave."""

    def __init__(self, error: float) -> None:
        self.error = error

    def x0hat(self, x: Tensor, t: fd.NoiseLevel, /) -> Tensor:
        expected = LAW.x0hat(x.reshape(-1, 1), t).reshape(x.shape)
        return (expected - self.error * t.sigma / t.alpha * torch.sin(3.0 * x + 1.0)).clamp(-1.0, 1.0)

    def tell_log_mean(self, scale: float, points: int = 1601) -> float:
        """log E[exp(scale * height)] in nats, each coordinate integrated backwards on a grid."""
        grid = np.linspace(-8.0, 8.0, points)
        worth, x = np.exp(scale / math.sqrt(SIZE) * grid.clip(-1.0, 1.0)), torch.as_tensor(grid)[:, None]
        for step in reversed(SCHEDULE.transitions):
            x0hat = self.x0hat(x, step.before)
            mean = step.mean(x0hat, (x - step.before.alpha * x0hat) / step.before.sigma)[:, 0].numpy()
            if step.std == 0.0:
                worth = np.interp(mean, grid, worth)
                continue
            law = np.exp(-0.5 * ((grid - mean[:, None]) / step.std) ** 2)
            worth = law @ worth / law.sum(1)
        start = np.exp(-0.5 * (grid / SCHEDULE.start) ** 2)
        return SIZE * math.log(start @ worth / start.sum())


def height(x: Tensor) -> Tensor:
    """(R,) the sum of the coordinates, clipped, over the root of their number."""
    return x.clamp(-1.0, 1.0).sum(1) / math.sqrt(SIZE)


def brightness(x: Tensor) -> Tensor:
    """(R,) from 0 to 1."""
    return pixels(x).mean(1)


def foresee(f: Callable[[Tensor], Tensor], scale: float) -> dict[str, Any]:
    """What is compared: the same target each time, by guesses that come in at another pace."""
    reward = fk.reward(f, scale, batch=True)
    return {
        "reward": reward,
        'reward, every="end"': fk.reward(f, scale, every="end", batch=True),
        "tempered, (t + 1) / steps": fp.tempered(reward, lambda t: (t + 1) / STEPS),
        "tempered, ess=0.7": fp.tempered(reward, ess=0.7),
        'tempered, "signal"': fp.tempered(reward, "signal"),
        'tempered, "signal", ess=0.9': fp.tempered(reward, "signal", ess=0.9),
    }


def measure(f: Callable[[Tensor], Tensor], true: tuple[float, float], drawn: list[Drawn]) -> str:
    """RMSE of the log evidence in nats, of one population and of islands; and by how much the mean of f is off."""
    rmse, off = [], 0.0
    for log_w, x in drawn:
        values = f(x.flatten(0, 1)).double().numpy().reshape(log_w.shape)
        off = float((shares(log_w) * values).sum(1).mean()) - true[1] if not rmse else off
        rmse.append(math.sqrt(((np.logaddexp.reduce(log_w, axis=1) - true[0]) ** 2).mean()))
    return f"{rmse[0]:.2f}; {rmse[1]:.2f}; {off:+.2g}"


def compare(runs: int, base: int) -> list[dict[str, Any]]:
    """Print the tables, of `runs` runs each; of digits half as many, whose truth rests on `base` of their samples."""
    return [*_compare_coordinates(0.0, runs), *_compare_coordinates(ERROR, runs), *_compare_digits(runs // 2, base)]


def _compare_coordinates(error: float, runs: int) -> list[dict[str, Any]]:
    denoiser = Coordinates(error)
    sampler = fd.DiffusionSampler(denoiser, SCHEDULE, (SIZE,), dtype=torch.float64)
    bend = denoiser.tell_log_mean(0.1) + denoiser.tell_log_mean(-0.1)
    scales = {f"{nats:g} nats": nats / math.sqrt(bend / 0.01) for nats in NATS}
    truths = {}
    for name, scale in scales.items():
        more, less = denoiser.tell_log_mean(scale + 1e-3), denoiser.tell_log_mean(scale - 1e-3)
        truths[name] = denoiser.tell_log_mean(scale), (more - less) / 2e-3
    what = "errs" if error else "does not err"
    return _compare(f"coordinates, a network that {what}", height, scales, truths, lambda _: sampler, runs)


def _compare_digits(runs: int, base: int) -> list[dict[str, Any]]:
    from diffusers import DDIMPipeline

    network = Network(DDIMPipeline.from_pretrained(FOLDER), STEPS)
    model = fd.DiffusionSampler(network, network.schedule, SHAPE)
    nothing = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)
    parts = [brightness(steered(model, nothing, 256, 1, seed=k + 1)[1][0]).double().numpy() for k in range(base // 256)]
    values = np.concatenate(parts)
    scales = {f"{scale:g} x {values.std():.4f} nats": scale for scale in SCALES}
    truths = {name: _weigh(scale * values, values) for name, scale in scales.items()}
    ess = [1.0 / (shares(scale * values[None]) ** 2).sum() for scale in SCALES]
    title = f"digits, brightness; the truth rests on {', '.join(f'{each:.0f}' for each in ess)} effective samples"
    rows = _compare(title, brightness, scales, truths, lambda _: model, runs)

    def guided(potential: Any) -> fd.DiffusionSampler:
        return fd.DiffusionSampler(network, network.schedule, SHAPE, proposal=fd.Guided(potential))

    return rows + _compare("the same, Guided", brightness, scales, truths, guided, runs, FEW)


def _weigh(log_w: Numbers, values: Numbers) -> tuple[float, float]:
    """The log of the mean weight, and the weighted mean."""
    return float(np.logaddexp.reduce(log_w)) - math.log(len(log_w)), float(shares(log_w[None])[0] @ values)


def _compare(
    title: str,
    f: Callable[[Tensor], Tensor],
    scales: dict[str, float],
    truths: dict[str, tuple[float, float]],
    sampler_of: Callable[[Any], fd.DiffusionSampler],
    runs: int,
    only: Sequence[str] = (),
) -> list[dict[str, Any]]:
    rows = dict[str, dict[str, Any]]()
    for strength, scale in scales.items():
        for name, potential in foresee(f, scale).items():
            if only and name not in only:
                continue
            sampler = sampler_of(potential)
            drawn = [steered(sampler, potential, N, runs, each) for each in (SSP, schemes.islands(SSP, ISLANDS))]
            rows.setdefault(name, {"guesses": name})[strength] = measure(f, truths[strength], drawn)
    table(list(rows.values()), f"{title} (RMSE of log Z, N={N}; on {ISLANDS} islands; error of the mean)")
    return [{"model": title, **row} for row in rows.values()]
