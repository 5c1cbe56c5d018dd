"""How fast is resampling? Ratios to `particles`, to plain numpy, and to one copy of the weights, from one run.

    python benchmarks/resample.py [--max-exponent 7] [--repeats 9]

The job is the whole one, from normalised weights to ancestors, random numbers included. Ours takes log-weights and
returns log-weights too: the column "ours" includes the exponentials and the new weights, "core" starts from the
weights, as the others do. All methods take turns on the same, freshly drawn weights; each figure is a median over
turns, of the second of two calls. Every job has one thread, and seconds are those of its thread, so that other work on
the machine hardly counts. The first call of each, compilation or a load from numba's cache, is reported apart.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Resample
from feynkac.smc import kernels, schemes
from feynkac.smc.rng import Streams

Jobs = dict[str, Callable[[], Any]]


class Plain:
    """The generator that the others would use: no keys, so that the schemes alone are compared."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def uniform(self, n: int) -> NDArray[np.float64]:
        return self._generator.random(n)


PLAIN: Any = Plain()


def load_particles() -> ModuleType | None:
    """The module `particles.resampling`, alone: it needs none of the rest of its package, nor what that requires."""
    package = importlib.util.find_spec("particles")
    if package is None or not package.submodule_search_locations:
        return None
    path = os.path.join(next(iter(package.submodule_search_locations)), "resampling.py")
    spec = importlib.util.spec_from_file_location("particles_resampling", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numpy_systematic(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """The usual recipe."""
    n = len(weight)
    points = (np.arange(n) + PLAIN.uniform(1)) / n
    return np.minimum(np.searchsorted(np.cumsum(weight), points), n - 1)


def core_systematic(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    return schemes.stratified_rows(weight, len(weight), PLAIN.uniform(1))


def core_ssp(weight: NDArray[np.float64]) -> NDArray[np.int64]:
    n = len(weight)
    counts = kernels.ssp_counts(weight, n / weight.sum(), n, PLAIN.uniform(n), np.empty(n, dtype=np.int64))
    return kernels.rows_of(counts, np.empty(n, dtype=np.int64))


def fresh_weights(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-normal weights, normalised, and their logs."""
    weight = np.exp(1.5 * rng.standard_normal(n))
    weight /= weight.sum()
    return weight, np.log(weight)


def jobs_on(weight: NDArray[np.float64], log_weight: NDArray[np.float64], rival: ModuleType | None) -> Jobs:
    """What is timed, by name."""
    out = np.empty_like(weight)
    jobs: Jobs = {
        "copy": lambda: np.copyto(out, weight),
        "numpy systematic": lambda: numpy_systematic(weight),
        "ours systematic": lambda: schemes.systematic(log_weight, PLAIN),
        "core systematic": lambda: core_systematic(weight),
        "ours ssp": lambda: schemes.ssp(log_weight, PLAIN),
        "core ssp": lambda: core_ssp(weight),
    }
    if rival is not None:
        jobs["particles systematic"] = lambda: rival.systematic(weight)
        jobs["particles ssp"] = lambda: rival.ssp(weight, len(weight))
    return jobs


def seconds(job: Callable[[], Any]) -> float:
    start = time.thread_time()
    job()
    return time.thread_time() - start


def settle_allocator() -> None:
    """Free one large array, after which the C library keeps such memory, as in any process that has done some work.

    Otherwise all methods spend most of their time on page faults from 10^5 to 10^6 rows.
    """
    large = np.ones(3_900_000)
    del large


def medians(n: int, repeats: int, rival: ModuleType | None) -> dict[str, float]:
    """Median seconds of each job at N = n."""
    rng, times = np.random.default_rng(n), {}
    for _ in range(repeats):
        for name, job in jobs_on(*fresh_weights(n, rng), rival).items():
            job()  # in this call the system may have to find fresh memory, which takes longer than most jobs
            times.setdefault(name, []).append(seconds(job))
    return {name: statistics.median(values) for name, values in times.items()}


def keyed(scheme: Resample, log_weight: NDArray[np.float64], streams: Streams, t: int) -> Any:
    """One resampling as the engine makes it."""
    return scheme(log_weight, streams.at("resample", t))


def small(n: int, calls: int = 300) -> dict[str, float]:
    """Median microseconds of whole calls at small N, with the keyed random numbers of a real run."""
    _, log_weight = fresh_weights(n, np.random.default_rng(n))
    streams, result = Streams(0), {}
    for scheme in (schemes.systematic, schemes.ssp, schemes.stratified, schemes.residual, schemes.multinomial):
        times = [seconds(functools.partial(keyed, scheme, log_weight, streams, t)) for t in range(calls)]
        result[scheme.__name__] = 1e6 * statistics.median(times)
    return result


def table(rows: list[dict[str, Any]], title: str) -> None:
    """Print one row a line; numbers with three digits."""
    print(f"\n{title}")
    heads = list(rows[0])
    cells = [[f"{row[head]:.3g}" if isinstance(row[head], float) else str(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[c]) for line in [heads, *cells]) for c in range(len(heads))]
    for line in [heads, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def compare(n: int, took: dict[str, float]) -> dict[str, Any]:
    """One row of the table of ratios: how many times faster than each."""
    row: dict[str, Any] = {"N": n}
    for scheme in ("systematic", "ssp"):
        ours, core = took[f"ours {scheme}"], took[f"core {scheme}"]
        row[f"{scheme} ns/row"] = 1e9 * ours / n
        if f"particles {scheme}" in took:
            row["vs particles" + " " * (scheme == "ssp")] = took[f"particles {scheme}"] / ours
            row["core vs particles" + " " * (scheme == "ssp")] = took[f"particles {scheme}"] / core
        if scheme == "systematic":
            row["vs numpy"] = took["numpy systematic"] / ours
        row["copies" + " " * (scheme == "ssp")] = ours / took["copy"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-exponent", type=float, default=7.0, help="largest N is ten to this power")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rival = load_particles()
    if rival is None:
        print("`particles` is not installed: its columns are missing (pip install particles --no-deps)")
    settle_allocator()
    first = {name: seconds(job) for name, job in jobs_on(*fresh_weights(5000, np.random.default_rng(0)), rival).items()}
    table([{k: v for k, v in first.items() if k != "copy"}], "seconds of the first call (compiling, or from the cache)")
    tiny = {n: small(n) for n in (16, 64, 128, 256, 1024)}
    table([{"N": n, **row} for n, row in tiny.items()], "microseconds of a whole call, keyed random numbers included")
    sizes = [int(10 ** (e / 2)) for e in range(8, math.floor(2 * options.max_exponent) + 1)]
    took = {n: medians(n, options.repeats, rival) for n in sizes}
    table([compare(n, row) for n, row in took.items()], "times faster; copies: how many copies of the weights it takes")
    environment = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "particles": rival is not None,
    }
    line = {"benchmark": "resample", "environment": environment, "first_call_s": first, "small_us": tiny, "s": took}
    print("\n" + json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
