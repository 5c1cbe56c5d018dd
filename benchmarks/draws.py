"""What does the draw of a checked token cost, the language model aside: with feynkac, and with genlm-control's AWRS?

The language model is a table: next-token laws of SmolLM2, recorded along texts that it wrote under each constraint. The
law behind a text is the recorded one whose text has the longest ending in common with it. Both sides are served from
the same file, and the time that serving takes is subtracted. So are the model's laws, the checks (three patterns and
two JSON schemas, spelled as patterns), and the numbers of particles the same, and only the draws differ.

    python -m venv .venv-genlm && .venv-genlm/bin/pip install genlm-control==0.4.1
    python benchmarks/draws.py                                       # some five minutes, nearly all theirs
    python benchmarks/draws.py --peer OTHER/bin/python --particles 1 16 --checks date words

Whole runs, in turns, medians of processor time. A token is one of a particle: texts are spelled anew, with one more for
the end. Both estimate the same evidence, which is shown. genlm-control asks for two accepted draws of a token, as
draws=2 does; feynkac's default is four. A line of JSON follows the table.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from recorded.model import Recorded, find_laws
from recorded.tables import CHECKS, LIMIT, Check, Table
from transformers import AutoTokenizer

import feynkac as fk
from feynkac.models.language.demo import demo_model_path


class Peer:
    """A process of genlm-control that runs what it is told."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        script, pipe = Path(__file__).parent / "recorded" / "awrs.py", subprocess.PIPE
        command = [interpreter, "-W", "ignore", str(script), str(demo_model_path()), str(folder)]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def run(self, name: str, particles: int, seed: int) -> list[Any]:
        """Seconds, calls of the check, texts, and the log evidence; AWRS has a seed of its own."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([name, particles]), file=self._process.stdin, flush=True)
        while line := self._process.stdout.readline():
            if line.startswith("["):
                return json.loads(line)
        raise RuntimeError("the process of genlm-control has ended")


class Ours:
    """The same on feynkac. Each run has a new constraint, which knows no verdicts."""

    def __init__(self, model: Recorded, folder: Path, **options: Any) -> None:
        self._model, self._options = model, options
        self._tables = {name: Table(folder, name) for name in CHECKS}

    def run(self, name: str, particles: int, seed: int) -> list[Any]:
        """See `Peer.run`."""
        self._model.table = table = self._tables[name]
        check, table.seconds, began = Check(name), 0.0, time.process_time()
        constraint = fk.lazy(check.prefix, accepts=check.complete, **self._options)
        task = self._model.prompt(CHECKS[name][0], max_tokens=LIMIT)
        result = fk.steer(task, constraint, particles=particles, seed=seed, on_death="return")
        seconds = time.process_time() - began - table.seconds
        return [seconds, check.calls, list(result.texts), result.log_evidence]


def measure(model: Recorded, sides: dict[str, Any], name: str, particles: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one check and number of particles."""
    runs: dict[str, list[tuple[float, ...]]] = {side: [] for side in sides}
    for seed in range(1 + repeats * max(1, 16 // particles)):  # of one particle a run is short
        for side, runner in sides.items():
            seconds, calls, texts, log_evidence = runner.run(name, particles, seed)
            tokens = sum(len(model.spell(text)) + 1 for text in texts)
            runs[side].append((1e3 * seconds / tokens, calls / tokens, math.exp(log_evidence)))
    return [_summarise(name, particles, side, some[1:]) for side, some in runs.items()]  # the first run warms up


def _summarise(name: str, particles: int, side: str, runs: list[tuple[float, ...]]) -> dict[str, Any]:
    times, calls, evidence = zip(*runs, strict=True)
    ms, asked = statistics.median(times), statistics.mean(calls)
    log_z = math.log(statistics.mean(evidence) or math.nan)
    print(f"{name:8}{particles:4}  {side:24}{ms:9.3f} ms {asked:8.2f} calls a token, log Z {log_z:8.3f}", flush=True)
    return {"check": name, "particles": particles, "side": side, "ms": ms, "calls": asked, "log Z": log_z}


def main() -> None:
    """Print the table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".venv-genlm/bin/python", help="the interpreter that has genlm-control")
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--checks", nargs="+", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, tokenizer = find_laws(), AutoTokenizer.from_pretrained(str(demo_model_path()))
    model = Recorded(tokenizer, eos=tokenizer.eos_token_id)
    sides: dict[str, Any] = {
        "feynkac": Ours(model, folder),
        "feynkac, draws=2": Ours(model, folder, draws=2),
        "the same, timeout=None": Ours(model, folder, draws=2, timeout=None),
    }
    if Path(arguments.peer).exists():
        sides["genlm-control"] = Peer(arguments.peer, folder)
    else:
        print(f"no {arguments.peer}: feynkac runs alone (see the top of this file)")
    table = list[dict[str, Any]]()
    for name in arguments.checks:
        for particles in arguments.particles:
            table += measure(model, sides, name, particles, arguments.repeats)
    print(json.dumps({"benchmark": "draws", "machine": platform.machine(), **vars(arguments), "table": table}))


if __name__ == "__main__":
    main()
