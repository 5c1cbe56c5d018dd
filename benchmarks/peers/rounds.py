"""One case: every peer in its process, runs in turns, and what comes of them."""

from __future__ import annotations

import contextlib
import datetime
import statistics
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from peers.cases import Case
from peers.laws import is_valid
from peers.processes import PeerError


class Talks(Protocol):
    """A process of a peer (`peers.processes.Process`)."""

    def tell(self, line: dict[str, Any]) -> None: ...
    def hear(self) -> dict[str, Any]: ...


Start = Callable[[str, Case], contextlib.AbstractContextManager[Talks]]


class Entry:
    """One peer at one case."""

    def __init__(self, peer: str, case: Case, talks: Talks) -> None:
        self.peer, self.case, self._talks = peer, case, talks
        self.told: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        self.error: str | None = None

    @property
    def takes_part(self) -> bool:
        return self.error is None and "absent" not in self.told

    def ask(self, line: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the peer answers to a line, or says first; nothing more is asked once it failed."""
        try:
            if line is not None:
                self._talks.tell(line)
            return self._talks.hear()
        except PeerError as error:
            self.error = str(error)
            return {}


def play(case: Case, peers: Iterable[str], start: Start) -> list[dict[str, Any]]:
    """A row for each peer that has the task, after interleaved rounds; one that fails has a row with its error."""
    with contextlib.ExitStack() as stack:
        entries = []
        for peer in peers:
            entry = Entry(peer, case, stack.enter_context(start(peer, case)))
            entry.told = entry.ask()  # loaded and warm, before the next one begins
            entries.append(entry)
        entries = [entry for entry in entries if "absent" not in entry.told]
        for seed in range(1, 1 + case.rounds):
            for entry in entries:
                if entry.takes_part and seed <= case.count_rounds(entry.peer) and (run := entry.ask({"seed": seed})):
                    entry.runs.append(run)
        for entry in entries:
            if entry.takes_part:
                entry.told |= entry.ask({"end": True})
    return [summarise(entry) for entry in entries]


def summarise(entry: Entry) -> dict[str, Any]:
    """The row of one peer."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    row: dict[str, Any] = {"case": entry.case.name, "peer": entry.peer, "date": today, "runs": len(entry.runs)}
    if entry.error is not None:
        row["error"] = entry.error
    row |= {name: entry.told.get(name) for name in ("ready", "warm", "peak", "before", "versions")}
    if not entry.runs:
        return row
    for name in ("seconds", "processor", "forward", "positions", "tokens", "calls"):
        values = [run[name] for run in entry.runs]
        row[name] = None if None in values else statistics.median(values)
    row["tokens/s"] = statistics.median(run["tokens"] / run["seconds"] for run in entry.runs)
    texts = [text for run in entry.runs for text in run["texts"]]
    right = [is_valid(entry.case.task, text, entry.case.option) for text in texts]
    return row | {"valid": sum(right) / len(right) if right else None, "alive": len(texts)} | weigh(entry.runs)


def weigh(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The log evidence over seeds: mean and variance, and the variance times the cost of a run.

    Var(log Z) falls as 1 / N, and a run costs in proportion to N: the product tells what a peer would reach at equal
    tokens, or in equal time.
    """
    found = [run["log_evidence"] for run in runs]
    if len(found) < 2 or None in found or not np.isfinite(found).all():
        return {"log_evidence": found[0] if found else None, "variance": None}
    variance = float(np.var(found, ddof=1))
    cost = {name: statistics.mean(run[name] for run in runs) for name in ("positions", "seconds")}
    log_mean = float(np.logaddexp.reduce(found) - np.log(len(found)))
    return {
        "log_evidence": statistics.mean(found), "variance": variance, "log_mean_evidence": log_mean,
        "variance x positions": variance * cost["positions"], "variance x seconds": variance * cost["seconds"],
    }  # fmt: skip
