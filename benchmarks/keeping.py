"""What does it cost to watch, record, save and print a run?

    python benchmarks/keeping.py              # five minutes on 2 cores
    python benchmarks/keeping.py --quick      # small sizes, to see that it works

SmolLM2-135M-Instruct, a regex on, 32 particles, 60 tokens. Times are of the calls themselves, summed over a run, as a
share of that run: what is 1 % of a run is lost in the noise of two runs.

- "history": what `steer` records of each step, and the Result made of it.
- "bar": the progress bar, and "observers": two functions of the user, one of which keeps texts (what they do counts).
- "checkpoint": saving after every k steps, and the size of the largest file.
- "page": `to_html` of a run with 256 particles and 200 steps of a model without a network, and its size.

Medians of runs with different seeds. One line of JSON follows the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from steps import Mock

import feynkac as fk
from feynkac.smc.progress import Progress
from feynkac.steering.checkpoints.saving import Saver
from feynkac.steering.recorder import Recorder

PATTERN = r"[^eE]*"
PROMPT = "The weather today is"


class Timed:
    """Seconds spent within functions, each replaced by one that adds up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return run


def share(run: Callable[[], Any], *parts: tuple[Any, str]) -> float:
    """The share of a run, 0 to 1, that goes into the methods named, a class and a name each."""
    timed = Timed()
    with tempfile.TemporaryFile("w") as terminal, mock.patch.object(sys, "stderr", terminal):
        patches = [mock.patch.object(owner, name, timed.wrap(getattr(owner, name))) for owner, name in parts]
        for patch in patches:
            patch.start()
        try:
            began = time.perf_counter()
            run()
            total = time.perf_counter() - began
        finally:
            for patch in patches:
                patch.stop()
    return timed.seconds / total


def measure(lm: Any, particles: int, tokens: int, repeats: int) -> dict[str, float]:
    """The shares of a run of each thing that is kept of it, and the size of a checkpoint in MB."""
    task, pattern = lm.prompt(PROMPT, max_tokens=tokens), fk.regex(PATTERN)

    def run(seed: int, **options: Any) -> None:
        fk.steer(task, pattern, particles=particles, seed=seed, **{"progress": False} | options)

    def observed(seed: int) -> float:
        watch, kept = Timed(), []
        began = time.perf_counter()
        observers = [watch.wrap(lambda step: kept.append(step.ess)), watch.wrap(lambda step: kept.append(step.log_z))]
        run(seed, observers=observers)
        return watch.seconds / (time.perf_counter() - began)

    def saved(seed: int, every: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "run")
            return share(lambda: run(seed, checkpoint=fk.Checkpoint(path, every=every)), (Saver, "save"))

    kept = (Recorder, "__call__"), (Recorder, "make_result")
    sides = {
        "history": lambda seed: share(lambda: run(seed), *kept),
        "bar": lambda seed: share(lambda: run(seed, progress=True), (Progress, "__call__")),
        "observers": observed,
        **{f"checkpoint, every={every}": lambda seed, every=every: saved(seed, every) for every in (1, 5, 10, 30)},
    }
    run(0)
    rounds = [{name: side(seed) for name, side in sides.items()} for seed in range(1, repeats + 1)]
    return {name: statistics.median(each[name] for each in rounds) for name in sides}


def size_checkpoint(lm: Any, particles: int, tokens: int) -> float:
    """MB of the file of a run that was cut short in its last step but one."""
    with tempfile.TemporaryDirectory() as folder:
        path, task = Path(folder, "run"), lm.prompt(PROMPT, max_tokens=tokens)
        sizes: list[int] = []
        fk.steer(
            task, fk.regex(PATTERN), particles=particles, seed=1, progress=False,
            checkpoint=fk.Checkpoint(path, every=1),
            observers=[lambda step: sizes.append(path.stat().st_size if path.exists() else 0)],
        )  # fmt: skip
        return max(sizes) / 1e6


def write_page(particles: int, tokens: int, repeats: int) -> tuple[float, float]:
    """Seconds that `to_html` takes, and MB of what it writes, of a run of a model without a network."""
    result = fk.steer(Mock().prompt(PROMPT, max_tokens=tokens), fk.regex(PATTERN), particles=particles, seed=1)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            began = time.perf_counter()
            result.to_html(path := Path(folder, "run.html"))
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds), path.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, whose figures mean little")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    particles, tokens, repeats = (4, 8, 1) if options.quick else (32, 60, options.repeats)
    lm = fk.CausalLM.demo()
    found = measure(lm, particles, tokens, repeats)
    print(f"SmolLM2, N={particles}, T={tokens}: share of a run")
    for name, value in found.items():
        print(f"  {name:<24}{value:8.2%}", flush=True)
    found["checkpoint, MB"] = size_checkpoint(lm, particles, tokens)
    print(f"  {'largest checkpoint':<24}{found['checkpoint, MB']:8.1f} MB")
    found["page, seconds"], found["page, MB"] = write_page(*((8, 8) if options.quick else (256, 200)), repeats)
    print(f"  {'page':<24}{found['page, seconds']:8.2f} s, {found['page, MB']:.2f} MB")
    machine = {"torch": torch.__version__, "cores": os.cpu_count(), "cpu": platform.machine()}
    print("\n" + json.dumps({"benchmark": "keeping", "quick": options.quick, "environment": machine, **found}))


if __name__ == "__main__":
    main()
