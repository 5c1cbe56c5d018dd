"""What does a method buy in variance, at equal work?

Var(log Z_hat) times the tokens forwarded, of plain SMC, as a multiple of each method's: 3 means that plain SMC needs
three times the tokens for the same error. In brackets the 95 % interval of a bootstrap over the runs. The chains are
bigrams of letters, with a known log Z, which a column of biases is held against; the texts are by SmolLM2.

    python benchmarks/variance.py                    # some ten minutes on two cores
    python benchmarks/variance.py --runs 200 --only chain
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from known.bigrams import Bigrams
from numpy.typing import NDArray

import feynkac as fk

METHODS: dict[str, dict[str, Any]] = {
    "smc": {},
    "beam": {"algorithm": "beam"},
    "optimal": {"algorithm": "optimal"},
    "moves, 4 tokens": {"moves": fk.redraw(4)},
    "moves, 2 of 6 tokens": {"moves": fk.redraw(2, every=6)},
    "moves, 4 before a tail of 2": {"moves": fk.redraw(4, tail=2)},
    "moves, 2 before a tail of 4": {"moves": fk.redraw(2, tail=4)},
    "waste-free, 4 tokens": {"moves": fk.redraw(4, chains=4)},
}
"""The options of `steer` that each method takes; plain SMC comes first."""
BATCH = 8
"""Runs that share each forward pass."""


@dataclass(frozen=True)
class Task:
    """What is estimated, by how many particles; `log_z` where it is known."""

    name: str
    model: Any
    potentials: list[Any] = field(default_factory=list)
    particles: int = 8
    log_z: float | None = None


@dataclass(frozen=True)
class Measured:
    """The log evidence of each run, and the tokens that went through the model."""

    log_z: NDArray[np.float64]
    tokens: NDArray[np.float64]

    def cost(self, which: NDArray[np.int64] | slice = slice(None)) -> float:
        """The variance of the log evidence times the mean number of tokens."""
        return float(self.log_z[which].var(ddof=1) * self.tokens[which].mean())


def make_chains() -> list[Task]:
    lm = Bigrams()
    reward = dict.fromkeys("bcd", 0.8) | dict.fromkeys("efg", -0.8)

    def count(text: str) -> float:
        return sum(reward.get(letter, 0.0) for letter in text)

    task, short = lm.prompt("a", max_tokens=50), lm.prompt("a", max_tokens=14)
    masked = lm.sum_texts("a", 14, {}, "cdeg", 10)
    rewarded = lm.sum_texts("a", 50, reward)
    return [
        Task("chain, a mask and a least length", short, [fk.regex("[^cdeg]{10,}")], 16, masked),
        Task("chain, a mask", task, [fk.regex("[^cdeg]*")], 16, lm.sum_texts("a", 50, {}, "cdeg")),
        Task("chain, a reward of each letter", task, [fk.reward(count)], 16, rewarded),
        Task("chain, the reward at the end only", task, [fk.reward(count, every="end")], 16, rewarded),
    ]


def make_texts() -> list[Task]:
    from feynkac.models.language.demo import demo_model_path

    lm = fk.CausalLM.from_pretrained(str(demo_model_path()))
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "minimum": 0}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    night = lm.prompt("It was a dark and windy night, and", max_tokens=30)
    record = lm.prompt("A city and its people, as JSON: ", max_tokens=26)
    sea = lm.prompt("We walked along the shore, and", max_tokens=20)
    return [
        Task("no letter e, at least 80 characters", night, [fk.regex(r"[^eE\n]{80,}")]),
        Task("JSON", record, [fk.json_schema(schema)]),
        Task("a reward of each word with s", sea, [fk.reward(lambda text: 1.0 * text.count(" s"))]),
    ]


def choose_methods(names: str | None) -> dict[str, dict[str, Any]]:
    """Plain SMC, and the methods whose names begin with one of `names`; None: all."""
    if names is None:
        return METHODS
    return {name: of for name, of in METHODS.items() if name == "smc" or name.startswith(tuple(names.split(",")))}


def measure(task: Task, options: dict[str, Any], runs: int) -> Measured:
    results: list[fk.Result] = []
    while len(results) < runs:
        batch = [task.model] * min(BATCH, runs - len(results))
        results += fk.steer(
            batch, *task.potentials, particles=task.particles, seed=len(results), on_death="return", progress=False,
            **options,
        )  # fmt: skip
    log_z = [result.log_evidence for result in results]
    return Measured(np.array(log_z), np.array([float(result.forwarded_tokens or 0) for result in results]))


def compare(base: Measured, other: Measured, draws: int = 2000) -> tuple[float, float, float]:
    """How many times cheaper than `base` the other is, and a bootstrap interval of 95 %."""
    random = np.random.default_rng(0)
    which = random.integers(len(base.log_z), size=(draws, 2, len(base.log_z)))
    low, high = np.quantile([base.cost(a) / other.cost(b) for a, b in which], [0.025, 0.975])
    return base.cost() / other.cost(), float(low), float(high)


def judge(task: Task, runs: int, methods: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one task."""
    rows: list[dict[str, Any]] = []
    base = None
    for method, options in methods.items():
        found = measure(task, options, runs)
        base = base or found
        gain, low, high = compare(base, found)
        share = None if task.log_z is None else np.exp(found.log_z - task.log_z)
        rows.append({
            "task": task.name, "method": method, "variance": float(found.log_z.var(ddof=1)),
            "tokens": float(found.tokens.mean()), "gain": gain, "low": low, "high": high,
            "mean of Z over Z": None if share is None else float(share.mean()),
            "its error": None if share is None else float(share.std(ddof=1) / np.sqrt(len(share))),
        })  # fmt: skip
    return rows


def show(row: dict[str, Any]) -> str:
    bias = "" if row["its error"] is None else f"{row['mean of Z over Z']:.3f} ± {row['its error']:.3f}"
    gain = f"{row['gain']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return f"| {row['task']} | {row['method']} | {row['variance']:.4f} | {row['tokens']:.0f} | {gain} | {bias} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--only", choices=["chain", "text"])
    parser.add_argument("--methods", help="how the names of methods begin, apart by commas; plain SMC is always one")
    options = parser.parse_args()
    tasks = [] if options.only == "text" else make_chains()
    tasks += [] if options.only == "chain" else make_texts()
    print(
        "| task | method | Var(log Z) | tokens | cheaper than SMC, times | mean of Z / Z |\n|---|---|---|---|---|---|"
    )
    rows = []
    for task in tasks:
        for row in judge(task, options.runs, choose_methods(options.methods)):
            print(show(row), flush=True)
            rows.append(row)
    print(json.dumps({"runs": options.runs, "rows": rows}))


if __name__ == "__main__":
    main()
