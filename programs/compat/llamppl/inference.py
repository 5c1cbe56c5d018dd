"""Inference: `await smc_standard(model, n_particles)` and `await smc_steer(model, n_particles, n_beam)`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from feynkac.base.contract import LogW, Resample, Rng
from feynkac.potentials import product
from feynkac.programs.compat.llamppl.modeling import Model
from feynkac.programs.compat.llamppl.running import Population, bridge
from feynkac.smc.engine import RandomSource, Step, smc
from feynkac.smc.resample import adaptive, by_name, never, optimal
from feynkac.smc.rng import Streams
from feynkac.smc.schemes import Draw


class Particles(list[Any]):
    """The models of a run, with their `weight`; `log_evidence` is the log of the normalising constant in nats."""

    log_evidence: float


async def smc_standard(
    model: Model,
    n_particles: int,
    ess_threshold: float = 0.5,
    visualization_dir: str | None = None,
    json_file: str | None = None,
    resampling_method: str = "multinomial",
    *,
    seed: int | RandomSource | None = None,
) -> Particles:
    """Sequential Monte Carlo; resamples when the effective sample size is below `ess_threshold` of the particles.

    `resampling_method` names a scheme of `feynkac.smc.resample`. `json_file`, below `visualization_dir` where that is
    given, receives LLaMPPL's record of the run. `seed` None takes one from numpy's global generator.
    """
    scheme = by_name(resampling_method)
    if ess_threshold <= 1.0:
        scheme = adaptive(scheme, ess_threshold) if ess_threshold > 0.0 else never
    records: list[dict[str, Any]] = []
    keeps = visualization_dir is not None or json_file is not None

    def run(wait: Callable[[Any], Any]) -> Particles:
        population = Population(model, wait)
        step = _run(population, n_particles, scheme, seed, records if keeps else None)
        return _collect(population, step.log_weight)

    particles = await bridge(run)
    if keeps:
        name = json_file or f"{type(model).__name__}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path = Path(visualization_dir or ".", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records), encoding="utf-8")
        print(f"Saved record to {path}")
    return particles


async def smc_steer(
    model: Model, n_particles: int, n_beam: int, *, seed: int | RandomSource | None = None
) -> Particles:
    """SMC without replacement: each particle takes every step in `n_beam` ways, and `n_particles` of them are kept.

    They are chosen with the least squared error of the weights (Fearnhead and Clifford 2003; Lew et al. 2023).
    """

    def run(wait: Callable[[Any], Any]) -> Particles:
        population = Population(model, wait)
        choose = optimal(n_particles)

        def branch(log_weight: LogW, rng: Rng) -> Draw:
            rows, chosen = choose(log_weight, rng)
            rows = np.arange(len(chosen)) if rows is None else rows
            counts = np.where(population.done(population)[rows], 1, n_beam)
            return np.repeat(rows, counts), np.repeat(chosen - np.log(counts), counts)

        streams = _open_streams(seed)
        step = _run(population, n_particles * n_beam, branch, streams, None)
        rows, log_weight = choose(step.log_weight, streams.at("output", 0))
        if rows is not None:
            population.rows = [population.rows[i] for i in rows.tolist()]
        return _collect(population, log_weight)

    return await bridge(run)


def _run(population: Population, n: int, resample: Resample, seed: Any, records: list[dict[str, Any]] | None) -> Step:
    step = None
    for step in smc(population, product(), n=n, resample=resample, rng=_open_streams(seed)):
        weighed = step.log_weight + math.log(len(population))
        for row, weight in zip(population.rows, weighed.tolist(), strict=True):
            row.model.weight = weight
        if records is not None:
            records.append(_describe(step, population, weighed, records))
    assert step is not None
    return step


def _collect(population: Population, log_weight: LogW) -> Particles:
    particles = Particles(row.model for row in population.rows)
    for particle, weight in zip(particles, (log_weight + math.log(len(log_weight))).tolist(), strict=True):
        particle.weight = weight
    particles.log_evidence = float(np.logaddexp.reduce(log_weight))
    return particles


def _open_streams(seed: Any) -> Any:
    if seed is None:
        return Streams(int(np.random.randint(2**31 - 1)))  # noqa: NPY002
    return Streams(seed) if isinstance(seed, int) else seed


def _describe(step: Step, population: Population, weight: LogW, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """One step as LLaMPPL's viewer reads it."""
    last = [float(particle["logweight"]) for particle in earlier[-1]["particles"]] if earlier else [0.0] * len(weight)
    before = [last[parent] for parent in step.rows.tolist()]
    particles = []
    for row, now, was in zip(population.rows, weight.tolist(), before, strict=True):
        text = row.model.string_for_serialization()
        shown = text if "<<<" in text or ">>>" in text else f"<<<>>>{text}"
        gain = now - was if was > -math.inf else 0.0
        particles.append({"contents": shown, "logweight": _format(now), "weight_incr": str(gain)})
    resampled = any(step.resampled)
    mode = "init" if step.t == 0 else "resample" if resampled else "smc_step"
    ancestors = {"ancestors": step.rows.tolist()} if resampled else {}
    return {"step": step.t + 1, "mode": mode, **ancestors, "particles": particles}


def _format(x: float) -> str:
    return "-Infinity" if x == -math.inf else str(x)
