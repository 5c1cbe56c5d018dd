"""One run of the engine over the particles of a LLaMPPL model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from feynkac.base.capabilities import offers
from feynkac.base.contract import LogW, Resample
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole, read_seed
from feynkac.potentials import product
from feynkac.programs.compat.llamppl.inference.smc_record import SMCRecord
from feynkac.programs.compat.llamppl.modeling import Model
from feynkac.programs.compat.llamppl.running import Population
from feynkac.smc.engine import RandomSource, Step, smc
from feynkac.smc.rng import Streams


class Particles(list[Any]):
    """The models of a run, with their `weight`; `log_evidence` is the log of the normalising constant in nats."""

    log_evidence: float


def check_model(call: str, model: Any) -> None:
    """Raises ArgumentError if what an inference `call` was given is no model."""
    if not isinstance(model, Model):
        meant = f"an instance, {model.__name__}(...)" if isinstance(model, type) else "an instance of a Model"
        raise ArgumentError(f"{call}: {quote(model)} is no model; give {meant}")


def run_engine(population: Population, n: int, resample: Resample, seed: Any, record: SMCRecord | None) -> Step:
    step = None
    for step in smc(population, product(), n=n, resample=resample, rng=open_streams(seed)):
        weighed = step.log_weight + math.log(len(population))
        for row, weight in zip(population.rows, weighed.tolist(), strict=True):
            row.model.weight = weight
        if record is not None:
            record.add(step, population, weighed)
    assert step is not None
    return step


def collect(population: Population, log_weight: LogW) -> Particles:
    particles = Particles(row.model for row in population.rows)
    for particle, weight in zip(particles, (log_weight + math.log(len(log_weight))).tolist(), strict=True):
        particle.weight = weight
    particles.log_evidence = float(np.logaddexp.reduce(log_weight))
    return particles


def read_source(name: str, seed: Any) -> Any:
    """A seed, or another source of random numbers. Raises ArgumentError by the `name` of the argument for neither."""
    return seed if offers(seed, RandomSource) else read_seed(name, seed)


def open_streams(seed: Any) -> Any:
    """The random numbers of a seed; those of numpy's global generator without one."""
    if seed is None:
        return Streams(int(np.random.randint(2**31 - 1)))  # noqa: NPY002
    return Streams(seed) if as_whole(seed) is not None else seed
