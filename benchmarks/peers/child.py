"""One peer at one case, in a process of its own: reads lines of JSON, and writes one for each.

    python child.py '{"peer": ..., "case": {...}, "model": ..., "prompt": ..., "threads": 2}'

The first line that it writes tells that it is ready, after a run that warmed up. Then {"seed": 1} runs once, and
{"end": true} tells the peak of memory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


class Passes:
    """The forward passes of a model of transformers: their seconds, and the token positions that went through."""

    def __init__(self, model: Any) -> None:
        self.seconds, self.positions, self._began = 0.0, 0, 0.0
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end)

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        given = kwargs.get("input_ids")
        given = args[0] if given is None and args else given
        self.positions += kwargs["inputs_embeds"][..., 0].numel() if given is None else given.numel()
        self._began = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began


def read_peak() -> float | None:
    """Megabytes at the peak since the last reset; None where the system does not tell."""
    return read_status("VmHWM")


def read_status(field: str) -> float | None:
    if not STATUS.exists():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    if (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")


def measure(run: Any, passes: Passes, seed: int, tokens: int) -> dict[str, Any]:
    """What one run gave, and took."""
    passes.seconds, passes.positions = 0.0, 0
    began, worked = time.perf_counter(), time.process_time()
    found = run(seed, tokens)
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    return {
        "seed": seed, "seconds": seconds, "processor": processor, "forward": passes.seconds,
        "positions": passes.positions, "tokens": found.tokens, "log_evidence": found.log_evidence,
        "calls": found.calls, "texts": found.texts,
    }  # fmt: skip


def read_versions(package: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in (package, "torch", "transformers")}


def serve(job: dict[str, Any], say: Any) -> None:
    """Load, warm up, and do what the lines of the standard input say."""
    import torch

    from peers.cases import Case, is_ours
    from peers.registry import PEERS

    torch.set_num_threads(job["threads"])
    peer, case = PEERS[job["peer"]], Case(**job["case"])
    began = time.perf_counter()
    adapter = importlib.import_module(f"peers.{peer.adapter}").load(job["model"], **peer.options)
    passes, loaded = Passes(adapter.model), time.perf_counter() - began
    if case.task not in adapter.tasks:
        return say({"absent": True})
    began = time.perf_counter()
    run = adapter.tasks[case.task](case, job["prompt"])
    # Ours takes all tokens: it begins no JSON that has no room, and what it compiles would count otherwise.
    if warm := case.tokens if is_ours(job["peer"]) else min(case.warm, case.tokens):
        measure(run, passes, 0, warm)
    before = read_status("VmRSS")
    reset_peak()
    say({"ready": loaded, "warm": time.perf_counter() - began, "versions": read_versions(peer.package)})
    for line in sys.stdin:
        told = json.loads(line)
        if "end" in told:
            return say({"peak": read_peak(), "before": before})
        say(measure(run, passes, told["seed"], case.tokens))


def main() -> None:
    # What a peer prints must not come between the lines.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    warnings.filterwarnings("ignore")
    sys.path.append(str(Path(__file__).parents[1]))
    try:
        serve(json.loads(sys.argv[1]), say)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
