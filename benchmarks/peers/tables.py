"""Tables in markdown of what was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peers.cases import is_ours
from peers.laws import LAWS
from peers.registry import PEERS

Rows = dict[str, list[dict[str, Any]]]
"""The rows of each case, ours first."""


def group(told: dict[str, Any]) -> Rows:
    """The saved rows by case, in the order of the cases, feynkac before the others."""
    order = list(PEERS)
    found: Rows = {name: [] for name in told["cases"]}
    for row in sorted(told["rows"], key=lambda row: order.index(row["peer"])):
        found[row["case"]].append(row)
    return {name: rows for name, rows in found.items() if rows}


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown: a head and its lines, or nothing where there are no lines."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]) if body else ""


def number(value: float | None, digits: int = 3) -> str:
    """Three digits that count; a dash where there is nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def describe(case: dict[str, Any]) -> str:
    """A case in a few words."""
    option = {"power": "alpha ", "lazy": ""}.get(case["task"], "") + case["option"]
    size = f"N={case['particles']}, T={case['tokens']}"
    prompt = f", prompt {case['prompt']}" if case["prompt"] != 5 else ""
    return f"{case['task']}{' ' if option else ''}{option}, {size}{prompt}"


def measure_gain(rows: list[dict[str, Any]], row: dict[str, Any], name: str, more: bool) -> float | None:
    """How many times better ours is than a row in `name`, of which `more` or less is better."""
    ours = rows[0].get(name) if rows and is_ours(rows[0]["peer"]) else None
    theirs = row.get(name)
    if not ours or not theirs:
        return None
    return ours / theirs if more else theirs / ours


def write_speed(told: dict[str, Any], of: Callable[[dict[str, Any]], bool] = lambda case: True) -> str:
    """Time, positions, memory and validity of each peer."""
    lines = []
    for name, rows in group(told).items():
        case = told["cases"][name]
        if case["task"] == "lazy" or not of(case):
            continue
        for row in rows:
            lines.append([describe(case) if row is rows[0] else "", PEERS[row["peer"]].title, *_speed(rows, row)])
    head = (
        "case",
        "",
        "seconds",
        "tokens/s",
        "feynkac is faster",
        "positions forwarded",
        "MB above the model",
        "valid",
    )
    return table(head, lines)


def _speed(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    if "seconds" not in row:
        return [f"failed: {row['error'].splitlines()[0][:80]}" if "error" in row else "not run", *[""] * 5]
    gain = measure_gain(rows, row, "tokens/s", more=True)
    above = None if row.get("peak") is None else row["peak"] - row["before"]
    valid = "–" if row["valid"] is None else f"{row['valid']:.0%}"
    times = "" if row is rows[0] else f"{number(gain)} times"
    return [number(row["seconds"]), number(row["tokens/s"]), times, number(row["positions"]), number(above), valid]


def write_evidence(told: dict[str, Any]) -> str:
    """Log evidence over seeds, where there are enough of them."""
    lines = []
    for name, rows in group(told).items():
        case = told["cases"][name]
        if case["rounds"] < 10:
            continue
        for row in rows:
            if row.get("variance") is None:
                continue
            gains = [measure_gain(rows, row, f"variance x {unit}", more=False) for unit in ("positions", "seconds")]
            lines.append([
                describe(case) if row is rows[0] else "", PEERS[row["peer"]].title, str(row["runs"]),
                f"{row['log_evidence']:.2f}", f"{row['log_mean_evidence']:.2f}", number(row["variance"]),
                *("" if row is rows[0] else f"{number(gain)} times" for gain in gains),
            ])  # fmt: skip
    head = ("case", "", "runs", "mean log Z", "log mean Z", "Var(log Z)", "at equal positions", "at equal seconds")
    return table(head, lines)


def write_lazy(told: dict[str, Any]) -> str:
    """What a checked token costs: processor time, that outside of the model's passes, and calls."""
    lines = []
    for name, rows in group(told).items():
        if told["cases"][name]["task"] != "lazy":
            continue
        for row in rows:
            if "seconds" not in row:
                continue
            whole, outside = row["seconds"], row["seconds"] - row["forward"]
            per_token = [1e3 * whole / row["tokens"], 1e3 * outside / row["tokens"], row["calls"] / row["tokens"]]
            first = describe(told["cases"][name]) if row is rows[0] else ""
            lines.append([first, PEERS[row["peer"]].title, *map(number, per_token)])
    return table(("case", "", "ms a token", "ms outside of the model", "calls a token"), lines)


def write_laws(told: dict[str, Any]) -> str:
    """What each task asks for."""
    tasks = dict.fromkeys(case["task"] for case in told["cases"].values())
    return table(("task", "its law"), [[task, LAWS[task]] for task in tasks])


FIGURES = (
    ("no letter e, N=32, T=100", "no_e-N32-T100-P5", "feynkac", "llamppl", 20.0),
    ("the same", "no_e-N32-T100-P5", "feynkac", "genlm", 20.0),
    ("the same, packed", "no_e-N32-T100-P5", "feynkac-packed", "genlm", 20.0),
    ("a JSON schema, N=16", "json-N16-T40-P5", "feynkac", "genlm", 10.0),
    ("the same, packed", "json-N16-T40-P5", "feynkac-packed", "genlm", 10.0),
    ("a regex on, N=128, prompt of 5 tokens", "no_e-N128-T30-P5", "feynkac", "transformers", 1.8),
    ("a regex on, N=128, prompt of 500", "no_e-N128-T30-P500", "feynkac", "transformers", 20.0),
    ("one constrained text, T=100", "no_e-N1-T100-P5", "feynkac", "outlines", 1.0),
    ("the same", "no_e-N1-T100-P5", "feynkac", "guidance", 1.0),
    ("the same in bfloat16", "no_e-N1-T100-P5", "feynkac-bfloat16", "feynkac", 1.7),
    ("the same, packed in bfloat16", "no_e-N1-T100-P5", "feynkac-packed-bfloat16", "feynkac", 1.7),
)
"""What is to be reached: in words, the case, who against whom, and how many times as many tokens a second."""


def write_figures(told: dict[str, Any]) -> str:
    """The figures that are to be reached, and what was."""
    rows = {(row["case"], row["peer"]): row for row in told["rows"]}
    lines = []
    for words, case, one, other, wanted in FIGURES:
        ours, theirs = (rows.get((case, peer), {}).get("tokens/s") for peer in (one, other))
        if ours and theirs:
            against = f"{PEERS[other].title} {_version(rows[case, other], other)}"
            reached = f"**{number(ours / theirs)}**" if ours / theirs >= wanted else number(ours / theirs)
            lines.append([words, number(ours), against, number(theirs), reached, f"{wanted:g}"])
    return table(("task", "feynkac, tokens/s", "against", "tokens/s", "times", "wanted"), lines)


def _version(row: dict[str, Any], peer: str) -> str:
    return (row.get("versions") or {}).get(PEERS[peer].package, "")
