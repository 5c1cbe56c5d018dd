"""Bars: one line that tells the truth, where somebody looks, and nothing else."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from feynkac.smc import progress
from feynkac.smc.engine import Step
from feynkac.smc.observers import run
from feynkac.smc.progress import Progress, describe, make_bar


@dataclass
class Counted:
    forwarded: list[int]


def step(t: int, weights: Any, done: Any = None, state: Any = None, groups: tuple[slice, ...] = ()) -> Step:
    n = len(weights)
    with np.errstate(divide="ignore"):
        log_w = np.log(np.asarray(weights, dtype=np.float64))
    ended = np.zeros(n, bool) if done is None else np.asarray(done)
    groups = groups or (slice(0, n),)
    return Step(t, state, log_w, np.zeros(n), np.arange(n), (False,) * len(groups), ended, groups, groups)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [step(0, [0.25, 0.25]), step(1, [0.5, 0.0], done=[True, False])]


@pytest.mark.parametrize("total", [None, 2, 5])
def test_a_bar_that_is_asked_for_tells_of_the_particles(total) -> None:
    file = io.StringIO()
    run(iter(STEPS), Progress(total, shown=True, file=file))
    assert "ESS 1.0/2, alive 1, done 1, log Z -0.69" in file.getvalue()
    assert total is None or "2/2" in file.getvalue()  # a run that ends early has a full bar, and the rate of two steps


def test_a_bar_that_nobody_asked_for_is_shown_on_terminals_only() -> None:
    for shown, file in ((False, Terminal()), (None, io.StringIO())):
        bar = make_bar(9, shown=shown, file=file, delay=0.0)
        bar.update(3)
        bar.close()
        assert file.getvalue() == ""
    bar = make_bar(9, file=(terminal := Terminal()), delay=0.0)
    bar.update(3)
    bar.close()
    assert "3/9" in terminal.getvalue()


def test_a_run_that_is_over_at_once_shows_nothing() -> None:
    file = Terminal()
    run(iter(STEPS), Progress(2, file=file))
    assert file.getvalue() == ""


def test_other_threads_show_no_bars_of_their_own_accord() -> None:
    file, bars = Terminal(), []
    thread = threading.Thread(target=lambda: bars.append(make_bar(9, file=file, delay=0.0)))
    thread.start()
    thread.join()
    assert bars[0].disable and file.getvalue() == ""


def test_several_problems_are_told_by_the_least_of_their_sizes() -> None:
    both = step(0, [0.5, 0.5, 1.0, 0.0], groups=(slice(0, 2), slice(2, 4)))
    assert describe(both) == "2 problems, least ESS 1.0/2, alive 3, done 0"


def test_tokens_a_second_are_those_of_the_steps_seen(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    bar = Progress(9, shown=True, file=file)
    for t in range(2):
        now[0] += 2.0
        bar(step(t, [1.0], state=Counted([40 * (t + 1)])))
    now[0] += 1000.0  # as where Ctrl-C ends a step that takes long
    bar.close()
    assert re.findall(r"(\d+) tokens/s", file.getvalue())[-1] == "20"


def test_a_sweep_counts_when_it_has_ended() -> None:
    file = io.StringIO()
    sweeps = [step(t, [1.0, 1.0], done=[t == 2] * 2) for _ in range(2) for t in range(3)]
    bar = Progress(4, shown=True, file=file, unit="sweep")
    for each in sweeps:
        bar(each)
    bar.close()
    assert "2/4" in file.getvalue()


def test_a_bar_is_one_line_of_the_width_of_a_notebook(monkeypatch) -> None:
    class OutStream(io.StringIO):
        """As `ipykernel.iostream` has it, which says that it is no terminal."""

    OutStream.__module__ = "ipykernel.iostream"
    monkeypatch.setattr(sys, "stdout", out := OutStream())
    bar = make_bar(9, delay=0.0)
    bar.set_postfix_str("x" * 500)
    bar.update(3)
    bar.close()
    assert "3/9" in out.getvalue() and max(map(len, re.split("[\r\n]", out.getvalue()))) <= progress.WIDTH


def test_nothing_warns_in_a_notebook_without_ipywidgets() -> None:
    script = (
        "import sys, types, warnings\n"
        "from tqdm import TqdmWarning\n"
        "warnings.simplefilter('error', TqdmWarning)\n"
        "kernel = types.SimpleNamespace(config={'IPKernelApp': {}})\n"
        "sys.modules['IPython'] = types.ModuleType('IPython')\n"
        "sys.modules['IPython'].get_ipython = lambda: kernel\n"
        "sys.modules['ipywidgets'] = None\n"
        "from feynkac.smc.progress import make_bar\n"
        "make_bar(3, shown=True).update()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0 and "1/3" in done.stderr, done.stderr
