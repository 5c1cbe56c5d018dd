"""What does a Markov twist buy in variance, at equal work?

Var(log Z_hat) times the tokens forwarded, as a multiple of that with the twist: 3 means that plain SMC needs three
times the tokens for the same error. In brackets the 95 % interval of a bootstrap over the runs. What learning the
chain took, 64 texts once for all runs, is not counted.

    python benchmarks/twists.py                    # some eight minutes on two cores
    python benchmarks/twists.py --runs 100 --only JSON
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import feynkac as fk

BATCH = 8
"""Runs that share each forward pass."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
SPACE = r"( ?|\n {0,4})"
RECORD = SPACE.join(
    [r"\{", '"city"', ":", r'"[^"\\\n]{0,12}"', ",", '"people"', ":", r"(0|[1-9]\d*)", r"\}"]
)  # what mostly meets the schema


class Task(NamedTuple):
    name: str
    model: Any
    constraint: Any
    outlines: list[Any]


class Measured(NamedTuple):
    """The log evidence of each run, and the tokens that went through the model."""

    log_z: NDArray[np.float64]
    tokens: NDArray[np.float64]

    def cost(self, which: NDArray[np.int64] | slice = slice(None)) -> float:
        return float(self.log_z[which].var(ddof=1) * self.tokens[which].mean())


def make_tasks() -> list[Task]:
    from feynkac.models.language.demo import demo_model_path

    lm = fk.CausalLM.from_pretrained(str(demo_model_path()))
    shore = "We walked along the shore, and"
    return [
        Task("JSON", lm.prompt("A city and its people, as JSON: ", max_tokens=26), fk.json_schema(SCHEMA),
             [None, fk.regex(RECORD)]),
        Task("a sentence that ends within 12 tokens", lm.prompt(shore, max_tokens=12, at_limit="end"),
             fk.regex(r"[^\n]*\."), [None]),
        Task("a line of 40 to 50 characters", lm.prompt(shore, max_tokens=12), fk.regex(r"[^\n]{40,50}\."), [None]),
        Task("no letter e, at least 80 characters", lm.prompt("It was a dark and windy night, and", max_tokens=30),
             fk.regex(r"[^eE\n]{80,}"), [None]),
    ]  # fmt: skip


def measure(task: Task, potentials: list[Any], runs: int, particles: int) -> Measured:
    results: list[fk.Result] = []
    while len(results) < runs:
        batch = [task.model] * min(BATCH, runs - len(results))
        results += fk.steer(
            batch, *potentials, particles=particles, seed=len(results), on_death="return", progress=False
        )
    log_z = [result.log_evidence for result in results]
    return Measured(np.array(log_z), np.array([float(result.forwarded_tokens or 0) for result in results]))


def compare(base: Measured, other: Measured, draws: int = 2000) -> tuple[float, float, float]:
    """How many times cheaper than `base` the other is, and a bootstrap interval of 95 %."""
    which = np.random.default_rng(0).integers(len(base.log_z), size=(draws, 2, len(base.log_z)))
    low, high = np.quantile([base.cost(a) / other.cost(b) for a, b in which], [0.025, 0.975])
    return base.cost() / other.cost(), float(low), float(high)


def judge(task: Task, runs: int, particles: int) -> list[dict[str, Any]]:
    """The rows of one task: plain SMC, then the twist by each outline."""
    base = measure(task, [task.constraint], runs, particles)
    rows = [make_row(task, "plain", base, base)]
    for outline in task.outlines:
        twist = fk.markov_twist(task.model, task.constraint, outline=outline, seed=5)
        level = fk.markov_twist(task.model, task.constraint, outline=outline, chain=twist.chain, guide=False)
        by = "" if outline is None else ", outline by hand"
        for method, each in (("twist" + by, twist), ("level" + by, level)):
            rows.append(make_row(task, method, base, measure(task, [task.constraint, each], runs, particles)))
    return rows


def make_row(task: Task, method: str, base: Measured, found: Measured) -> dict[str, Any]:
    gain, low, high = compare(base, found)
    mean = float(np.logaddexp.reduce(found.log_z) - np.log(len(found.log_z)))
    spread = float(found.log_z.var(ddof=1))
    tokens = float(found.tokens.mean())
    return {"task": task.name, "method": method, "log of mean Z": mean, "variance": spread, "tokens": tokens,
            "gain": gain, "low": low, "high": high}  # fmt: skip


def show(row: dict[str, Any]) -> str:
    gain = f"{row['gain']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    numbers = f"{row['log of mean Z']:.2f} | {row['variance']:.3f} | {row['tokens']:.0f}"
    return f"| {row['task']} | {row['method']} | {numbers} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--only", default="", help="a part of a task's name")
    options = parser.parse_args()
    print("| task | method | log of mean Z | Var(log Z) | tokens | cheaper than plain SMC, times |")
    print("|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for task in make_tasks():
        if options.only in task.name:
            for row in judge(task, options.runs, options.particles):
                print(show(row), flush=True)
                rows.append(row)
    print(json.dumps({"runs": options.runs, "particles": options.particles, "rows": rows}))


if __name__ == "__main__":
    main()
