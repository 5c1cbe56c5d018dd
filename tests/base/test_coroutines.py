"""The loop on which users' coroutines run, in a process and in those that are forked off it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from feynkac.base import coroutines
from feynkac.potentials.compat import genlm

FORKS = """
import os, sys
from feynkac.potentials.compat.genlm import _run

async def double(context):
    return 2 * context[0]

assert _run(double, [[1], [2]]) == [2, 4]
child = os.fork()
assert _run(double, [[3]]) == [6]
if not child:
    sys.exit()  # with all that is done at the end of a process
assert os.waitpid(child, 0)[1] == 0
assert _run(double, [[4]]) == [8]
"""


def test_a_forked_process_has_a_loop_of_its_own_and_leaves_that_of_its_parent_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_whoever_stops_waiting_for_coroutines_cancels_them(monkeypatch: pytest.MonkeyPatch) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def wait(context: list[int]) -> float:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 0.0

    def press(*_: object) -> None:
        assert began.wait(20)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Future, "result", press)
        genlm._run(wait, [[1]])
    assert cancelled.wait(20)


def test_the_end_of_a_process_waits_for_no_loop_that_was_given_up() -> None:
    class Stuck(threading.Thread):
        waited: float | None = None

        def join(self, timeout: float | None = None) -> None:
            self.waited = timeout

        def is_alive(self) -> bool:
            return True

    began, leave = threading.Event(), threading.Event()

    async def block() -> None:
        began.set()
        leave.wait()

    future, loop, thread = coroutines.start_coroutine(block, ()), coroutines._find_loop(), Stuck()
    assert began.wait(20)
    try:
        with pytest.raises(coroutines.Blocked):
            coroutines.check_loop(0.01)
        coroutines._stop(os.getpid(), loop, thread)
    finally:
        leave.set()
    future.result(20)
    assert thread.waited == 0.0
