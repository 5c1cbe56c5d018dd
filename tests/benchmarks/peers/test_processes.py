"""Processes of the referee: lines of JSON both ways, and one clear error for each way to fail."""

from __future__ import annotations

import os
import sys

import pytest
from peers.processes import PeerError, Process

ECHO = "import sys, json\nfor line in sys.stdin: print(json.dumps({'heard': json.loads(line)}), flush=True)"


def make(source, limit=20.0):
    return Process([sys.executable, "-P", "-c", source], dict(os.environ), limit)


def test_lines_go_both_ways() -> None:
    with make(ECHO) as process:
        for seed in (1, 2):
            process.tell({"seed": seed})
            assert process.hear() == {"heard": {"seed": seed}}


def test_a_process_that_ends_tells_its_last_words() -> None:
    with (
        make("import sys; sys.exit('no such model')") as process,
        pytest.raises(PeerError, match=r"ended.*no such model"),
    ):
        process.hear()


def test_an_error_that_is_told_is_raised() -> None:
    with make('print(\'{"error": "ValueError: bad"}\')') as process, pytest.raises(PeerError, match="ValueError: bad"):
        process.hear()


def test_a_process_that_takes_too_long_is_given_up() -> None:
    late = pytest.raises(PeerError, match=r"more than 0\.2 seconds")
    with make("import time; time.sleep(60)", limit=0.2) as process, late:
        process.hear()
    assert process._process.returncode is not None
