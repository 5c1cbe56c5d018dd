"""What does the draw of a checked token cost, the language model aside: with feynkac, and with genlm-control's AWRS?

The language model is a table: next-token laws of SmolLM2, recorded along texts that it wrote under each constraint
(three patterns, and two JSON schemas spelled as patterns). Particles stand in recorded texts, and each draws its next
token once, with its weight. Laws, checks, texts and numbers of particles are the same on both sides; what they cost to
look up, the softmax of genlm-control's included, is not counted.

    make peers                                                       # once
    python benchmarks/draws.py                                       # a minute, and two more to record the laws
    python benchmarks/draws.py --peer OTHER/bin/python --particles 1 16 --checks date words

In turns; processor time a token and calls of the check a token, medians over the draws of a batch. Weights estimate
without bias the share of the law that is accepted, so that their means agree. genlm-control asks for two accepted draws
of a token, as draws=2 does; feynkac's default is four. Each batch has a new constraint, which knows no verdicts.
A line of JSON follows the table.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recorded.laws import find_laws
from recorded.tables import CHECKS, Check, Table
from transformers import AutoTokenizer

import feynkac as fk
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.demo import demo_model_path
from feynkac.models.language.draws.rejection import Checks, Rounds, draw_checked
from feynkac.models.language.proposals.columns import Columns

OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "draws=2": {"draws": 2},
    "draws=2, timeout=None": {"draws": 2, "timeout": None},
}
"""Options of `lazy`. A timeout calls the check on another thread, which on a busy machine waits for its turn."""


class Peer:
    """A process of genlm-control that draws what it is told."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        script, pipe = Path(__file__).parent / "recorded" / "awrs.py", subprocess.PIPE
        command = [interpreter, "-W", "ignore", str(script), str(demo_model_path()), str(folder)]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def draw(self, name: str, particles: int, seed: int) -> list[Any]:
        """Seconds, calls of the check, and the weights; AWRS has a seed of its own."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([name, particles, seed]), file=self._process.stdin, flush=True)
        while line := self._process.stdout.readline():
            if line.startswith("["):
                return json.loads(line)
        raise RuntimeError("the process of genlm-control has ended")


class Ours:
    """The same on feynkac: what a step of a prompt does between the logits and the next states."""

    def __init__(self, vocabulary: Vocabulary, tables: dict[str, Table], **options: Any) -> None:
        self._vocabulary, self._tables, self._options = vocabulary, tables, options

    def draw(self, name: str, particles: int, seed: int) -> list[Any]:
        """See `Peer.draw`."""
        check, table, rng = Check(name), self._tables[name], Uniforms(seed)
        constraint = fk.lazy(check.prefix, accepts=check.complete, **self._options)
        columns, problem = Columns(((constraint,),), self._vocabulary), np.zeros(particles, np.int64)
        chosen = table.choose(particles, seed)
        distinct, context = np.unique(chosen, return_inverse=True)
        states = np.array([walk(columns, table.contexts[i]) for i in distinct])[context]
        logits, scale = torch.from_numpy(table.logits[distinct]), np.ones(len(distinct), np.float32)
        check.calls, began = 0, time.process_time()
        heads = states[np.unique(context, return_index=True)[1]]
        mask = columns.mask(heads, np.full(len(heads), 20), problem[: len(heads)], lazily=True)
        draws, every = columns.count_draws(problem), np.arange(particles)
        checks = Checks(columns, states, problem, draws, Rounds(rng, rng.uniform(particles)), every)
        drawn = draw_checked(logits, mask, scale, context, checks)
        columns.advance(states, drawn.tokens, problem)
        return [time.process_time() - began, check.calls, np.exp(drawn.log_mass).tolist()]


class Uniforms:
    """The random numbers of a batch."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def uniform(self, n: int) -> Any:
        """(N,) in [0, 1)."""
        return self._rng.random(n)


def walk(columns: Columns, tokens: list[int]) -> Any:
    """(1,) the state behind some tokens."""
    states, problem = columns.start, np.zeros(1, np.int64)
    for token in tokens:
        states = columns.advance(states, np.array([token]), problem)
    return states[0]


def measure(sides: dict[str, Any], name: str, particles: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one check and number of particles."""
    batches: dict[str, list[Any]] = {side: [] for side in sides}
    for seed in range(1 + repeats * max(1, 64 // particles)):
        for side, drawer in sides.items():
            batches[side].append(drawer.draw(name, particles, seed))
    rows = []
    for side, some in batches.items():
        seconds, calls, weights = zip(*some[1:], strict=True)  # the first one warms up
        ms, asked = 1e3 * statistics.median(seconds) / particles, statistics.median(calls) / particles
        row = {"ms": ms, "calls": asked, "mean calls": statistics.mean(calls) / particles, "weight": np.mean(weights)}
        told = "{ms:9.3f} ms {calls:8.2f} calls ({mean calls:.2f} in the mean), weight {weight:.3f}".format(**row)
        print(f"{name:8}{particles:4}  {side:24}{told}", flush=True)
        rows.append({"check": name, "particles": particles, "side": side, **row})
    return rows


def main() -> None:
    """Print the table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", default=".venv-peers/language/bin/python", help="the interpreter that has genlm-control"
    )
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--checks", nargs="+", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--sides", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, tokenizer = find_laws(), AutoTokenizer.from_pretrained(str(demo_model_path()))
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=49152, eos=[tokenizer.eos_token_id])
    tables = {name: Table(folder, name) for name in arguments.checks}
    sides: dict[str, Any] = {name: Ours(vocabulary, tables, **OURS[name]) for name in arguments.sides}
    if Path(arguments.peer).exists():
        sides["genlm-control"] = Peer(arguments.peer, folder)
    else:
        print(f"no {arguments.peer}: feynkac runs alone (see the top of this file)")
    table = list[dict[str, Any]]()
    for name in arguments.checks:
        for particles in arguments.particles:
            table += measure(sides, name, particles, arguments.repeats)
    print(json.dumps({"benchmark": "draws", "machine": platform.machine(), **vars(arguments), "table": table}))


if __name__ == "__main__":
    main()
