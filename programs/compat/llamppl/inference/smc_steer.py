"""SMC without replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feynkac.base.contract import LogW, Rng
from feynkac.base.numbers import read_count
from feynkac.programs.compat.llamppl.inference.driving import (
    Particles,
    check_model,
    collect,
    open_streams,
    read_source,
    run_engine,
)
from feynkac.programs.compat.llamppl.modeling import Model
from feynkac.programs.compat.llamppl.running import Population, bridge
from feynkac.smc.engine import RandomSource
from feynkac.smc.resample import optimal
from feynkac.smc.schemes import Draw


async def smc_steer(
    model: Model, n_particles: int, n_beam: int, *, seed: int | RandomSource | None = None
) -> Particles:
    """SMC without replacement: each particle takes every step in `n_beam` ways, and `n_particles` of them are kept.

    They are chosen with the least squared error of the weights (Fearnhead and Clifford 2003; Lew et al. 2023). Raises
    ArgumentError for what is no model, and for numbers that are not whole and positive.
    """

    check_model("smc_steer", model)
    n_particles = read_count("smc_steer: n_particles", n_particles)
    n_beam = read_count("smc_steer: n_beam", n_beam)
    read_count("smc_steer: n_particles times n_beam", n_particles * n_beam)
    source = read_source("smc_steer: seed", seed)

    def run(wait: Callable[[Any], Any]) -> Particles:
        population = Population(model, wait)
        choose = optimal(n_particles)

        def branch(log_weight: LogW, rng: Rng) -> Draw:
            rows, chosen = choose(log_weight, rng)
            rows = np.arange(len(chosen)) if rows is None else rows
            counts = np.where(population.done(population)[rows], 1, n_beam)
            return np.repeat(rows, counts), np.repeat(chosen - np.log(counts), counts)

        streams = open_streams(source)
        step = run_engine(population, n_particles * n_beam, branch, streams, None)
        rows, log_weight = choose(step.log_weight, streams.at("output", 0))
        if rows is not None:
            population.rows = [population.rows[i] for i in rows.tolist()]
        return collect(population, log_weight)

    return await bridge(run)
