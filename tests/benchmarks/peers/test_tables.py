"""Tables and picture of the referee, from rows that are made up."""

from __future__ import annotations

import json

import pytest
from peers import report
from peers.__main__ import choose, save
from peers.cases import Case, make_cases
from peers.tables import number, write_evidence, write_figures, write_lazy, write_speed

FAST = Case("no_e", 32, 100, rounds=3)
SEEDS = Case("product", 8, 10, rounds=20)
LAZY = Case("lazy", 16, 20, option="date")


def make_row(case, peer, rate, **fields):
    row = {
        "case": case.name, "peer": peer, "date": "2026-01-02", "runs": 3, "peak": 700.0, "before": 600.0,
        "versions": {"torch": "2", "transformers": "5", "llamppl": "0.2.3"},
        "seconds": 3200 / rate, "forward": 1.0, "positions": 3205,
        "tokens": 3200, "tokens/s": rate, "calls": 6400, "valid": 1.0, "variance": None, "log_evidence": -3.0,
    }  # fmt: skip
    return row | fields


@pytest.fixture
def told():
    evidence = {"variance": 0.5, "log_mean_evidence": -2.75, "variance x positions": 10.0, "variance x seconds": 2.0}
    worse = evidence | {"variance x positions": 25.0, "variance x seconds": 40.0}
    return {
        "machine": {"processor": "A", "cores": 2, "threads": 2, "memory GiB": 8.0, "torch": "2", "transformers": "5"},
        "cases": {case.name: vars(case) | {"peers": []} for case in (FAST, SEEDS, LAZY)},
        "rows": [
            make_row(FAST, "llamppl", 10.0), make_row(FAST, "feynkac", 250.0),
            {"case": FAST.name, "peer": "genlm", "date": "2026-01-02", "runs": 0, "error": "it took too long"},
            make_row(SEEDS, "feynkac", 100.0, **evidence), make_row(SEEDS, "llamppl", 50.0, **worse),
            make_row(LAZY, "feynkac", 100.0),
        ],
    }  # fmt: skip


def read(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_ours_comes_first_and_ratios_are_of_tokens_a_second(told) -> None:
    ours, llamppl, genlm = read(write_speed(told, lambda case: case["task"] == "no_e"))
    assert ours[:2] == ["no_e, N=32, T=100", "feynkac"] and ours[3] == "250"
    assert llamppl[1:5] == ["llamppl", "320", "10", "25 times"] and llamppl[6:] == ["100", "100%"]
    assert genlm[2] == "failed: it took too long"


def test_variances_are_compared_at_equal_positions_and_seconds(told) -> None:
    ours, theirs = read(write_evidence(told))
    assert ours[3:6] == ["-3.00", "-2.75", "0.5"] and theirs[6:] == ["2.5 times", "20 times"]


def test_checked_tokens_have_their_own_table(told) -> None:
    ((case, peer, whole, outside, calls),) = read(write_lazy(told))
    assert (case, peer, whole, calls) == ("lazy date, N=16, T=20", "feynkac", "10", "2")
    assert float(outside) == pytest.approx(1e3 * 31 / 3200, abs=0.01)


def test_figures_that_are_reached_stand_out(told) -> None:
    ((_, ours, against, theirs, times, wanted),) = read(write_figures(told))
    assert (ours, against, theirs, times, wanted) == ("250", "llamppl 0.2.3", "10", "**25**", "20")


def test_figures_name_cases_that_there_are() -> None:
    from peers.tables import FIGURES

    cases = {case.name: case for case in make_cases()}
    assert all({one, other} <= set(cases[name].peers) for _, name, one, other, _ in FIGURES)


def test_a_peer_on_another_transformers_is_told(told) -> None:
    told["rows"].append(make_row(FAST, "guidance", 9.0, versions={"transformers": "4", "guidance": "0.3"}))
    sentence = report.describe_all(told)
    assert "guidance 0.3 (on transformers 4), llamppl 0.2.3, transformers 5;" in sentence


def test_numbers_have_three_digits() -> None:
    assert [number(x) for x in (None, 0.01234, 1.234, 12.34, 123.4, 12345.6)] == [
        "–", "0.0123", "1.23", "12.3", "123", "12,346",
    ]  # fmt: skip


def test_text_is_put_between_markers() -> None:
    page = "a\n<!-- x: written by make bench-peers -->\nold\n<!-- x: end -->\nb\n"
    once = report.put("new", "x", page)
    assert (
        "old" not in once and once.startswith("a\n") and once.endswith("\nb\n") and report.put("new", "x", once) == once
    )
    with pytest.raises(ValueError, match="no place for 'y'"):
        report.put("new", "y", page)


def test_the_pages_have_their_places() -> None:
    for page, parts in report.PAGES.items():
        for name in parts:
            report.put("", name, page.read_text(encoding="utf-8"))


def test_pages_and_picture_are_written(told, tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    page, results = tmp_path / "page.md", tmp_path / "cpu.json"
    page.write_text("<!-- all: written by make bench-peers -->\n<!-- all: end -->\n")
    results.write_text(json.dumps(told))
    monkeypatch.setattr(report, "PAGES", {page: {"all": report.write_all}})
    monkeypatch.setattr(report, "PICTURE", tmp_path / "peers.png")
    report.write_report(results)
    assert "**25**" in page.read_text() and "2 cores" in page.read_text()
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_what_is_run_again_replaces_its_rows_alone(tmp_path) -> None:
    file = tmp_path / "results" / "cpu.json"
    save(file, [make_row(FAST, "feynkac", 1.0), make_row(FAST, "llamppl", 1.0)], [FAST], 2)
    save(file, [make_row(FAST, "feynkac", 2.0)], [FAST], 2)
    rows = {row["peer"]: row["tokens/s"] for row in json.loads(file.read_text())["rows"]}
    assert rows == {"feynkac": 2.0, "llamppl": 1.0}


def test_tasks_are_chosen_by_their_name_or_that_of_a_case() -> None:
    cases = [FAST, SEEDS, LAZY]
    assert (
        choose(cases, "") == cases
        and choose(cases, "no_e") == [FAST]
        and choose(cases, f"lazy,{SEEDS.name}") == [SEEDS, LAZY]
    )
