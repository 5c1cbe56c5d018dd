"""What steering costs: time beside the same sampler without it, and memory as particles are added."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import feynkac as fk
from feynkac.models import diffusion as fd
from steered.tables import table, turns

DIGITS = Path(__file__).parents[1] / "train" / "digits"
SIDE, CHANNELS, CHUNK = 192, 64, 8


def network_overhead(repeats: int, particles: int = 64, steps: int = 50) -> dict[str, float]:
    """A pipeline of diffusers by itself, and steered with a reward at every step; processor time."""
    from diffusers import DDIMPipeline

    rows = []
    for name in ("the digits network", "none"):
        pipe = DDIMPipeline.from_pretrained(DIGITS)
        if name == "none":  # what is left is the pipeline's work and ours
            pipe.unet.forward = lambda x, t, **options: SimpleNamespace(sample=0.5 * x)
        alone, ours, paired = _pipelines(pipe, repeats, particles, steps)
        rows.append({"network": name, "pipeline, ms a step": alone, "steered": ours, "ratio in turns": paired})
    own = rows[1]["steered"] - rows[1]["pipeline, ms a step"]
    share = own / rows[0]["pipeline, ms a step"]
    title = (
        f"DDIM pipeline, N={particles}, {steps} steps, one thread: steering adds {own:.2f} ms, {share:.1%} of a step"
    )
    table(rows, title)
    return {"network_ratio": rows[0]["ratio in turns"], "overhead_of_a_step": share}


def _pipelines(pipe: Any, repeats: int, particles: int, steps: int) -> tuple[float, float, float]:
    """Median ms a step alone and steered, and the median of the ratios of neighbours in time."""
    pipe.set_progress_bar_config(disable=True)
    model = fk.Diffusion.from_pipeline(pipe, steps=steps, batch=particles)
    reward = fk.reward(lambda x: x.mean((1, 2, 3)), scale=20.0, batch=True)

    def bare(seed: int) -> float:
        began = time.process_time()
        sources = [torch.Generator().manual_seed(seed * particles + i) for i in range(particles)]
        pipe(batch_size=particles, num_inference_steps=steps, eta=1.0, generator=sources, output_type="pt")
        return 1e3 * (time.process_time() - began) / steps

    def steered(seed: int) -> float:
        began = time.process_time()
        fk.steer(model, reward, particles=particles, seed=seed, progress=False)
        return 1e3 * (time.process_time() - began) / steps

    rounds = turns(repeats, bare, steered)
    ratio = statistics.median(ours / alone for alone, ours in rounds)
    return *(statistics.median(column) for column in zip(*rounds, strict=True)), ratio  # type: ignore[return-value]


def analytic_overhead(repeats: int, particles: int = 4096, steps: int = 50) -> dict[str, float]:
    """A mixture's exact denoiser in a plain loop, and the engine on the same chain; processor time."""
    rows = []
    for size in (2, 16):
        prior = fd.GaussianMixture([0.7, 0.3], [[-2.0] * size, [3.0] * size], 0.25)
        schedule = fd.ddpm(steps)
        sampler = fd.DiffusionSampler(prior, schedule, (size,), dtype=torch.float64)
        reward = fk.reward(lambda x: -0.5 * (x[:, 0] - 1.0) ** 2, batch=True)

        def bare(seed: int, prior: Any = prior, schedule: Any = schedule, size: int = size) -> float:
            began, rng = time.process_time(), np.random.default_rng(seed)
            x = torch.as_tensor(rng.standard_normal((particles, size)))
            for step in schedule.transitions:
                x0hat = prior.x0hat(x, step.before)
                x = step.mean(x0hat, (x - step.before.alpha * x0hat) / step.before.sigma)
                x = x + step.std * torch.as_tensor(rng.standard_normal(x.shape))
            return 1e3 * (time.process_time() - began) / steps

        def steered(seed: int, sampler: Any = sampler, reward: Any = reward) -> float:
            began = time.process_time()
            fk.steer(sampler, reward, particles=particles, seed=seed, progress=False)
            return 1e3 * (time.process_time() - began) / steps

        alone, ours = map(statistics.median, zip(*turns(repeats, bare, steered), strict=True))
        rows.append({"N": particles, "D": size, "plain loop, ms a step": alone, "steered": ours, "more": ours - alone})
    table(rows, f"analytic denoiser, {steps} steps, one thread: wanted, at most 2 ms a step")
    return {f"analytic_ms_{row['D']}": row["steered"] for row in rows}


class Heavy(torch.nn.Module):
    """Latents (R, 4, 16, 16) to images (R, 3, SIDE, SIDE), by way of CHANNELS maps of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.out = torch.nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        big = torch.nn.functional.interpolate(x, size=(SIDE, SIDE))
        return self.out(self.up(big).relu()).sigmoid()


def measure_memory(particles: int, batch: int) -> None:
    """Run in a process of its own: print the peak of its memory above that before the run, and the results', in MB."""
    torch.set_num_threads(1)
    shape = (4, 16, 16)
    prior, decoder = fd.Network(lambda x, t: 0.5 * x, "sample"), Heavy().requires_grad_(False)
    sampler = fd.DiffusionSampler(prior, fd.ddpm(4), shape, decode=decoder, batch=batch)
    reward = fk.reward(lambda x: x.mean((1, 2, 3)), scale=100.0, batch=True)
    fk.steer(sampler, reward, particles=2, seed=0, progress=False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: loading took more than a small run
    before = resident("VmRSS")
    result = fk.steer(sampler, reward, particles=particles, seed=0, progress=False)
    peak = resident("VmHWM") - before
    returned = sum(sample.numel() * sample.element_size() for sample in result.samples) / 2**20
    print(peak, returned, particles * 4 * 16 * 16 * 4 / 2**20)


def resident(name: str) -> float:
    """MB of this process: "VmRSS" now, "VmHWM" at most so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def memory(sizes: tuple[int, ...]) -> dict[str, float]:
    """Decoding in parts and at once, each run in its own process (Linux only)."""
    rows: list[dict[str, Any]] = []
    for particles, batch in [*((n, CHUNK) for n in sizes), *((n, n) for n in sizes[1:3])]:
        code = f"from steered.costs import measure_memory; measure_memory({particles}, {batch})"
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
        peak, returned, latents = map(float, said.split())
        rows.append({
            "decoded": "at once" if batch > CHUNK else f"{batch} at a time", "N": particles, "peak, MB": peak,
            "latents, MB": latents, "samples returned, MB": returned, "rest": peak - returned - latents,
        })  # fmt: skip
    table(rows, f"memory above that of the loaded model; the decoder needs {memory_of_one():.0f} MB for one sample")
    flat = [row["rest"] for row in rows if row["decoded"] != "at once"]
    return {"memory_growth_MB": flat[-1] - flat[0]}


def memory_of_one() -> float:
    """MB that the decoder's two large maps take."""
    return 2 * CHANNELS * SIDE**2 * 4 / 2**20
