"""Torch and numba share one pool of OpenMP's threads.

A process that was forked off has none of its parent's, and would wait for ever for those that either has started there.
And where numba starts its own, torch would have as many from then on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from feynkac.base.errors import ModelError

_first: tuple[int, int] | None = None
"""The process in which a model ran first, and the threads that torch and numba had there."""


def check_process() -> None:
    """Note that a model runs in this process. Raises ModelError where its threads were left behind in another one."""
    import torch
    from numba import get_num_threads

    global _first
    if _first is None:
        with keep_threads():  # numba starts its own to count them
            _first = os.getpid(), max(torch.get_num_threads(), get_num_threads())
    parent, threads = _first
    if os.getpid() != parent and threads > 1:
        raise ModelError(
            "this process was forked off one that has run a model, whose threads it has not got: it would wait for "
            "them for ever. Start it by multiprocessing.get_context('spawn'), or fork before the first run, or let the "
            "parent run on one thread (OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1)"
        )


@contextmanager
def keep_threads() -> Iterator[None]:
    """Leave torch the number of threads that it has, whatever numba starts meanwhile."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
