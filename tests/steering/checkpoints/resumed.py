"""Runs that are saved, cut and gone on with, and what must be the same of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES

import feynkac as fk
from feynkac.results.result import Result
from feynkac.smc.engine import Step

PLACES, STEPS = 2, 18
"""Where each run is cut: two places among its first steps, drawn once and for all, and its end."""
_rng = np.random.default_rng(7)
CUTS = {name: sorted(_rng.choice(STEPS, size=PLACES, replace=False).tolist()) for name in CASES}


def stop_at(t: int) -> Callable[[Step], bool]:
    """An observer that ends a run after step `t`."""
    return lambda step: step.t >= t


class Copies:
    """An observer that keeps the files of a run that is saved after every step, as a kill would leave them."""

    def __init__(self, path: Path, wanted: Collection[int]) -> None:
        self.path, self.wanted, self.files = path, wanted, dict[int, Path]()
        self._before: int | None = None

    def __call__(self, step: Step) -> None:
        if self._before in self.wanted:  # what is there now was written after the step before
            self.files[self._before] = shutil.copy(self.path, self.path.with_name(f"run-{self._before}"))
        self._before = step.t


def check_case(name: str, folder: Path) -> int:
    """Hold the resumed runs of a case against the one that was neither saved nor cut; how many places were cut."""
    case = CASES[name]
    options = {"particles": 16, "seed": 3, "on_death": "return", **case.options}
    whole = fk.steer(*case.make(), **options)
    copies = Copies(folder / "run", CUTS[name])
    saved = fk.steer(*case.make(), checkpoint=fk.Checkpoint(copies.path, every=1), observers=[copies], **options)
    assert_same(saved, whole)
    for path in (*copies.files.values(), copies.path):  # the last has ended, and gives its result
        assert_same(fk.resume(path, *case.make(), on_death="return", moves=case.options.get("moves")), whole)
    return len(copies.files)


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
    assert repr(one.token_log_probs) == repr(other.token_log_probs) and repr(one.log_probs) == repr(other.log_probs)
    for name in ("complete", "algorithm", "seed", "prompt", "forwarded_tokens", "lower_bound", "warnings", "dropped"):
        assert getattr(one, name) == getattr(other, name), name


def _show(sample: Any) -> Any:
    return np.asarray(sample).tobytes() if hasattr(sample, "shape") else repr(sample)
