"""The referee's rounds, with peers that are made up: turns, failures, and what is computed from runs."""

from __future__ import annotations

import contextlib
import math
import statistics

import numpy as np
import pytest
from peers.cases import Case, make_cases
from peers.processes import PeerError
from peers.registry import PEERS
from peers.rounds import play, weigh

CASE = Case("no_e", 2, 3, rounds=3, slow=1)


def tell_run(seed, **fields):
    told = {
        "seed": seed, "seconds": 2.0, "processor": 1.0, "forward": 0.5, "positions": 10, "tokens": 6,
        "log_evidence": -1.0, "calls": None, "texts": ["no", "yes"],
    }  # fmt: skip
    return told | fields


class Fake:
    """A peer that answers from a list, and writes down who was asked what."""

    def __init__(self, name, log, answers=(), first=None):
        self.name, self.log, self.answers = name, log, list(answers)
        self.said = {"ready": 1.0, "warm": 1.0, "versions": {}} if first is None else first

    def tell(self, line):
        self.log.append((self.name, line))
        self.said = {"peak": 7.0, "before": 5.0} if "end" in line else tell_run(line["seed"])
        if self.answers and "seed" in line:
            self.said = self.answers.pop(0)

    def hear(self):
        if isinstance(self.said, PeerError):
            raise self.said
        return self.said


def play_fakes(case, *fakes):
    by_name = {fake.name: fake for fake in fakes}
    return play(case, by_name, lambda peer, of: contextlib.nullcontext(by_name[peer]))


def test_peers_take_turns_and_slow_ones_run_less_often() -> None:
    log = []
    play_fakes(CASE, Fake("feynkac", log), Fake("llamppl", log))
    asked = [(name, line.get("seed")) for name, line in log]
    assert asked == [
        ("feynkac", 1), ("llamppl", 1), ("feynkac", 2), ("feynkac", 3), ("feynkac", None), ("llamppl", None),
    ]  # fmt: skip


def test_a_row_has_medians_and_what_was_valid() -> None:
    answers = [tell_run(seed, seconds=s, positions=10 * seed) for seed, s in ((1, 9.0), (2, 2.0), (3, 3.0))]
    (row,) = play_fakes(CASE, Fake("feynkac", [], answers))
    assert (row["seconds"], row["positions"], row["tokens/s"], row["runs"]) == (3.0, 20, 2.0, 3)
    assert row["valid"] == 0.5 and row["peak"] - row["before"] == 2.0


def test_a_peer_that_lacks_a_task_has_no_row() -> None:
    log = []
    rows = play_fakes(CASE, Fake("feynkac", log), Fake("outlines", log, first={"absent": True}))
    assert [row["peer"] for row in rows] == ["feynkac"]
    assert "outlines" not in [name for name, _ in log]


@pytest.mark.parametrize("when", ["loading", "running"])
def test_a_peer_that_fails_is_told_and_the_others_go_on(when) -> None:
    broken, log = PeerError("out of memory"), []
    wrong = (
        Fake("llamppl", log, first=broken) if when == "loading" else Fake("llamppl", log, [tell_run(1), broken])
    )  # fmt: skip
    ours, theirs = play_fakes(Case("no_e", 2, 3), Fake("feynkac", log), wrong)
    assert ours["runs"] == 3 and "error" not in ours
    assert theirs["error"] == "out of memory" and theirs["runs"] == (0 if when == "loading" else 1)


def test_the_variance_is_weighed_by_what_a_run_costs() -> None:
    z = [-1.0, -2.0, -4.0]
    runs = [tell_run(i, log_evidence=each, positions=10 * (i + 1)) for i, each in enumerate(z)]
    told = weigh(runs)
    assert told["variance"] == pytest.approx(statistics.variance(z))
    assert told["variance x positions"] == pytest.approx(statistics.variance(z) * 20)
    assert told["variance x seconds"] == pytest.approx(statistics.variance(z) * 2)
    assert told["log_mean_evidence"] == pytest.approx(math.log(np.mean(np.exp(z))))


@pytest.mark.parametrize("z", [[None, None], [-1.0], [-1.0, -math.inf]])
def test_no_variance_without_finite_evidence_of_several_runs(z) -> None:
    assert weigh([tell_run(i, log_evidence=each) for i, each in enumerate(z)])["variance"] is None


def test_cases_have_names_of_their_own_and_peers_that_exist() -> None:
    cases = make_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert {peer for case in cases for peer in case.peers} <= set(PEERS)
    assert all(case.shrink().particles <= 4 for case in cases)
