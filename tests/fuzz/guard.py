"""What may come of a fuzz input, and how many there are (see README.md)."""

from __future__ import annotations

import faulthandler
import inspect
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

from feynkac.base.errors import FeynkacError

INPUTS = int(os.environ.get("FEYNKAC_FUZZ", "0"))
"""How many inputs all tests have together; 0 for the sample of `make test`."""
SECONDS = 10.0
"""Of the processor: an input that takes more hangs."""
PATIENCE = 120.0
"""Of the clock, where it only waits: a machine may do other things."""


class Hangs(BaseException):
    """An input that takes too long. No `except Exception` may swallow it."""


def fuzz(share: float, sample: int) -> Callable[[Any], Any]:
    """So many examples of a test: this `share` of all inputs, or the small `sample`, the same each time."""
    return settings(
        max_examples=max(int(INPUTS * share), 1) if INPUTS else sample,
        derandomize=not INPUTS, database=None if not INPUTS else settings.default.database,  # pyright: ignore
        deadline=None, suppress_health_check=list(HealthCheck), print_blob=bool(INPUTS),
    )  # fmt: skip


@contextmanager
def guarded() -> Iterator[None]:
    """Let an input give a result or an error of ours, in some seconds; fail for anything else."""
    late = False

    def stop(*_: Any) -> None:
        nonlocal late
        late = True
        raise Hangs("no result and no error")

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGVTALRM)}
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    # Where nothing of Python's comes to run any more.
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True, file=sys.__stderr__)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a schema leaves out, a pattern of Python's own: said, and right
            warnings.simplefilter("error", RuntimeWarning)
            yield
    except FeynkacError as error:
        assert str(error).strip() and len(str(error)) < 2_000, f"{type(error).__name__} says nothing, or too much"
    except TypeError as error:
        if not is_of_binding(error):
            raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
        faulthandler.cancel_dump_traceback_later()
        assert not late, f"it took longer than {SECONDS:g} s of the processor, or {PATIENCE:g} s"


def is_of_binding(error: TypeError) -> bool:
    """Whether Python raised it as it matched arguments to a signature.

    No frame of the library had begun, or it had asked `inspect.Signature.bind`, as for the arguments of a program.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_globals.get("__name__", "") for frame in frames]
    within = [name for name in names if name.startswith("feynkac.") and name != "feynkac.base.arguments"]
    return not within or frames[-1].f_code.co_filename == inspect.__file__
