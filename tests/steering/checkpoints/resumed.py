"""Runs that are cut, written, read and gone on with, and what must be the same of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import feynkac as fk
from feynkac.results.result import Result
from feynkac.smc.engine import Step


def stop_at(t: int) -> Callable[[Step], bool]:
    """An observer that ends a run after step `t`."""
    return lambda step: step.t >= t


def cut_and_resume(make: Callable[[], tuple[Any, ...]], path: Path, t: int, **options: Any) -> Any:
    """The result of a run that was stopped after step `t` and taken up again, with everything made anew by `make`."""
    fk.steer(*make(), checkpoint=path, observers=[stop_at(t)], on_death="return", **options)
    return fk.resume(path, *make(), on_death="return")


def assert_same(one: Any, other: Any) -> None:
    """Two results, or lists of them, are the same bit for bit, except for the time that they took."""
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
        return
    assert isinstance(one, Result) and isinstance(other, Result)
    assert list(map(_show, one.samples)) == list(map(_show, other.samples))
    assert one.log_weights.tobytes() == other.log_weights.tobytes()
    assert json.dumps([one.log_evidence, one.log_evidence_se]) == json.dumps(
        [other.log_evidence, other.log_evidence_se]
    )
    assert repr(one.history) == repr(other.history)
    assert repr(one.diagnostics) == repr(other.diagnostics)
    for name in ("complete", "algorithm", "seed", "prompt", "forwarded_tokens", "lower_bound", "warnings", "dropped"):
        assert getattr(one, name) == getattr(other, name), name


def _show(sample: Any) -> Any:
    return np.asarray(sample).tobytes() if hasattr(sample, "shape") else repr(sample)
