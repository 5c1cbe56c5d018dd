"""Logging: silent by default, a few records where an application listens, and no handlers of our own."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading

import pytest

import feynkac as fk
from feynkac.steering import logs


def never(text: str) -> bool:
    return False


def test_a_run_is_told_at_its_start_and_at_its_end(tiny_lm, caplog) -> None:
    with caplog.at_level(logging.INFO, "feynkac"):
        result = fk.steer(tiny_lm().prompt("a", max_tokens=4), particles=8, seed=5)
    here = [each for each in caplog.records if each.thread == threading.get_ident()]  # others may still be ending
    first, *_, last = [each for each in here if each.levelno == logging.INFO]
    assert first.getMessage() == "run begins: 1 problem(s), 8 particles, algorithm smc, seed 5"
    assert re.fullmatch(r"run ended after \d\.\d{3} s: log evidence -?0\.000, ESS 8\.0 of 8", last.getMessage())
    assert all(each.name.startswith("feynkac.") for each in caplog.records) and result.complete


def test_problems_are_told_one_by_one(tiny_lm, caplog) -> None:
    lm = tiny_lm()
    with caplog.at_level(logging.INFO, "feynkac"):
        fk.steer([lm.prompt("a", max_tokens=3), lm.prompt("b", max_tokens=3)], particles=4, seed=0)
    told = [each.getMessage() for each in caplog.records]
    assert any("2 problem(s)" in said for said in told) and any(said.startswith("problem 2 of 2: run") for said in told)


def test_each_warning_of_a_result_is_a_record_once(tiny_lm, caplog) -> None:
    with caplog.at_level(logging.WARNING, "feynkac"):
        result = fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=9), seed=0, budget=fk.Budget(calls=2))
    assert len(result.warnings) >= 2
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == result.warnings


def test_each_resampling_is_told_to_those_who_debug(tiny_lm, caplog) -> None:
    with caplog.at_level(logging.DEBUG, "feynkac"):
        result = fk.steer(
            tiny_lm(eos=()).prompt("a", max_tokens=6),
            fk.reward(lambda text: 2.0 * text.count("b")),
            particles=8,
            seed=0,
        )
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.DEBUG]
    at = [int(re.search(r"before step (\d+):", said)[1]) for said in told]  # type: ignore[index]
    assert at == result.history.resampled != []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_ended_a_run_early_is_told(tiny_lm, caplog, stop) -> None:
    def fail(step) -> None:
        if step.t == 1:
            raise stop

    with caplog.at_level(logging.INFO, "feynkac"):
        try:
            fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=6), seed=0, observers=[fail])
        except fk.FeynkacError:
            assert stop is RuntimeError
    name = "KeyboardInterrupt" if stop is KeyboardInterrupt else "FeynkacError"
    assert f"run ended by {name}" in [each.getMessage() for each in caplog.records]


def test_nothing_is_put_together_where_nobody_listens(tiny_lm, monkeypatch) -> None:
    """Not even warnings: only a NullHandler listens, which takes them all."""
    monkeypatch.setattr(logs.Step, "group", lambda *_: pytest.fail("asked for a record"), raising=False)
    made: list[int] = []
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **options: made.append(args[1]) or before(*args, **options))
    monkeypatch.undo()
    try:
        logging.getLogger("feynkac").setLevel(logging.CRITICAL)
        fk.steer(tiny_lm().prompt("a", max_tokens=4), fk.constraint(never), particles=4, seed=0, on_death="return")
    finally:
        logging.getLogger("feynkac").setLevel(logging.NOTSET)
        logging.setLogRecordFactory(before)
    assert made == []


def test_a_script_that_configures_nothing_sees_nothing_and_has_no_new_handlers() -> None:
    script = (
        "import logging; before = list(logging.root.handlers)\n"
        "import feynkac as fk\nfrom tests.exact.toys import chain\n"
        "toy = chain()\n"
        "result = fk.steer(toy.model, toy.potential, budget=fk.Budget(calls=1), seed=0)\n"
        "assert result.warnings and logging.root.handlers == before\n"
        "assert [type(each).__name__ for each in logging.getLogger('feynkac').handlers] == ['NullHandler']\n"
    )
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # it imports from the tests
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, env=plain, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
