"""What do two Ray workers give, beside one process that has as many threads in all?

32 prompts, a regex, the same seed: the texts are the same but where rounding, which is another in batches of another
size, moves a token. Ray gives its workers a niceness of 15, which leaves them nothing on a busy machine; here it is 0,
as that of the one process. Workers are started, and their models loaded, before
anything is timed; runs are interleaved, and medians taken. One line of JSON follows the table.

    python benchmarks/workers.py                                # some minutes on 2 cores
    python benchmarks/workers.py --problems 8 --tokens 10       # a look
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import feynkac as fk


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed: pip install 'feynkac[ray]'")
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # before Ray starts
    found = measure(options)
    alone, spread = statistics.median(found["process"]), statistics.median(found["workers"])
    print(f"{options.problems} problems, {options.particles} particles, {options.tokens} tokens")
    print(f"one process, {options.workers * options.threads} threads   {alone:8.2f} s")
    print(
        f"{options.workers} workers, {options.threads} threads each   {spread:8.2f} s   {alone / spread:.2f} of linear"
    )
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({**vars(options), **found, "of_linear": alone / spread, **machine}))


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each way, for each repetition."""
    import torch

    from feynkac.models.language.demo import demo_model_path

    torch.set_num_threads(options.workers * options.threads)
    lm = fk.CausalLM.from_pretrained(str(demo_model_path()))
    tasks = [
        lm.prompt(f"The number {n} is special, because", max_tokens=options.tokens) for n in range(options.problems)
    ]
    shape = fk.regex(r"[^eE]*")
    settings: dict[str, Any] = {"particles": options.particles, "seed": 0, "progress": False}
    found: dict[str, list[float]] = {"process": [], "workers": []}
    with fk.RayExecutor(options.workers, threads=options.threads) as executor:
        ways: dict[str, Callable[[], Any]] = {
            "process": lambda: fk.steer(tasks, shape, **settings),
            "workers": lambda: fk.steer(tasks, shape, executor=executor, **settings),
        }
        texts = {name: [result.texts for result in way()] for name, way in ways.items()}  # and warm up
        pairs = [pair for both in zip(*texts.values(), strict=True) for pair in zip(*both, strict=True)]
        print(f"{sum(one == other for one, other in pairs)} of {len(pairs)} texts are the same")
        for _ in range(options.repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                found[name].append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
