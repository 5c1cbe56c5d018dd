"""Sequential Monte Carlo."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count, take_only, to_float
from feynkac.base.paths import read_path
from feynkac.base.writing import write_atomically
from feynkac.programs.compat.llamppl.inference.driving import Particles, check_model, collect, read_source, run_engine
from feynkac.programs.compat.llamppl.inference.smc_record import SMCRecord
from feynkac.programs.compat.llamppl.modeling import Model
from feynkac.programs.compat.llamppl.running import Population, bridge
from feynkac.smc.engine import RandomSource
from feynkac.smc.resample import adaptive, by_name, never


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
    given, receives LLaMPPL's record of the run. `seed` None takes one from numpy's global generator. Raises
    ArgumentError for what is no model, no number of particles, no threshold.
    """
    n_particles = read_count("smc_standard: n_particles", n_particles)
    check_model("smc_standard", model)
    threshold = to_float(take_only(ess_threshold))
    if math.isnan(threshold):
        raise ArgumentError(
            f"smc_standard: ess_threshold is {quote(ess_threshold)}; give a share of the particles, such as 0.5"
        )
    seed = read_source("smc_standard: seed", seed)
    path = None
    if visualization_dir is not None or json_file is not None:
        name = f"{type(model).__name__}-{time.strftime('%Y%m%d-%H%M%S')}.json" if json_file is None else json_file
        folder = "." if visualization_dir is None else visualization_dir
        path = read_path("smc_standard: visualization_dir", folder) / read_path("smc_standard: json_file", name)
    scheme = by_name(resampling_method)
    if threshold <= 1.0:
        scheme = adaptive(scheme, threshold) if threshold > 0.0 else never
    record = None if path is None else SMCRecord()

    def run(wait: Callable[[Any], Any]) -> Particles:
        population = Population(model, wait)
        step = run_engine(population, n_particles, scheme, seed, record)
        return collect(population, step.log_weight)

    particles = await bridge(run)
    if record is not None and path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise ArgumentError(f"smc_standard: there can be no folder {path.parent}: {cause.strerror}") from None
        write_atomically(path, record.to_json().encode("utf-8", "surrogatepass"))
        print(f"Saved record to {path}")
    return particles
