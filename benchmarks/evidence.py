"""Does a run say when its evidence is wrong, and does its interval hold the truth?

Twenty problems with a known log Z, from easy to hopeless. A run warns rightly if it is more than 2 nats off, and
wrongly if it is within 0.5. The interval should hold the truth in 95 % of the runs. The last column is the error after
what the warning advises. One more problem, the needle, shows what no run can say: its mass lies where no particle is
likely to go.

    python benchmarks/evidence.py               # 200 runs of each, a minute on one core
"""

from __future__ import annotations

import argparse
import json
import statistics

import numpy as np
from known.problems import Known, follow_advice, make_problems, needle

import feynkac as fk

FAR, NEAR = 2.0, 0.5


def repeat(problem: Known, runs: int, seed: int = 0) -> list[fk.Result]:
    options = {"particles": problem.particles, "islands": problem.islands, "on_death": "return", "progress": False}
    return [fk.steer(problem.model, problem.potential, seed=seed + i, **options) for i in range(runs)]


def judge(problem: Known, results: list[fk.Result]) -> dict[str, float | str | None]:
    """One row of the table."""
    error = np.array([result.log_evidence - problem.log_z for result in results])
    warned = np.array([bool(result.warnings) for result in results])
    ends = np.array([result.log_evidence_interval() for result in results])
    holds = (ends[:, 0] <= problem.log_z) & (problem.log_z <= ends[:, 1])
    closed = np.isfinite(ends).all(axis=1)
    return {
        "problem": problem.name, "particles": problem.particles, "islands": problem.islands, "log Z": problem.log_z,
        "median distance": float(np.median(abs(error))), "far": int((abs(error) > FAR).sum()),
        "far, warned": int(warned[abs(error) > FAR].sum()), "near": int((abs(error) < NEAR).sum()),
        "near, warned": int(warned[abs(error) < NEAR].sum()), "interval holds": float(holds.mean()),
        "both ends": float(closed.mean()),
        "width": float(np.median(np.diff(ends[closed])[:, 0])) if closed.any() else None,
    }  # fmt: skip


def measure_error(problem: Known, runs: int, seed: int) -> float:
    """The median distance from the truth, in nats."""
    return statistics.median(abs(result.log_evidence - problem.log_z) for result in repeat(problem, runs, seed))


def rate(rows: list[dict], of: str) -> float:
    return sum(row[f"{of}, warned"] for row in rows) / max(1, sum(row[of] for row in rows))


def show(row: dict) -> str:
    shown = [f"{v:.2f}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()]
    return "| " + " | ".join(shown) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for problem in make_problems():
        rows.append(judge(problem, repeat(problem, options.runs, options.seed)))
        better = problem.advised and measure_error(follow_advice(problem), options.runs, options.seed)
        rows[-1]["distance if advised"] = better
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    hidden = judge(needle(), repeat(needle(), options.runs, options.seed))
    print("\n".join(show(row) for row in [*rows, hidden]))
    far, near = rate(rows, "far"), rate(rows, "near")
    held = statistics.mean(row["interval holds"] for row in rows)
    print(
        f"\nwithout the needle: warned {far:.1%} of the runs that are far off, {near:.1%} of those that are near; ",
        end="",
    )
    print(f"the interval holds the truth in {held:.1%}")
    print(json.dumps({"rows": [*rows, hidden], "far": far, "near": near, "held": held}))


if __name__ == "__main__":
    main()
