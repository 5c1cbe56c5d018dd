"""A run that is cut anywhere and taken up again has the result of one that was not, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, set_tiny_lm
from resumed import assert_same, cut_and_resume

import feynkac as fk

_rng = np.random.default_rng(7)
CUTS = [(name, int(t)) for name in CASES for t in _rng.choice(16, size=2, replace=False)]
"""Where each run is cut: two places, drawn once and for all."""
_whole: dict[str, Any] = {}


@pytest.fixture(autouse=True, scope="module")
def _models(tiny_lm) -> None:
    set_tiny_lm(tiny_lm)


def options_of(name: str) -> dict[str, Any]:
    return {"particles": 16, "seed": 3, **CASES[name].options}


def run_whole(name: str) -> Any:
    """The result of a run that is neither saved nor cut."""
    if name not in _whole:
        _whole[name] = fk.steer(*CASES[name].make(), on_death="return", **options_of(name))
    return _whole[name]


@pytest.mark.parametrize(("name", "t"), CUTS)
def test_a_run_that_is_cut_and_resumed_is_the_run_that_was_not(name: str, t: int, tmp_path: Path) -> None:
    make, options = CASES[name].make, options_of(name)
    assert_same(cut_and_resume(make, tmp_path / "run", t, **options), run_whole(name))


def test_at_least_fifty_places_are_cut() -> None:
    assert len(set(CUTS)) >= 50


@pytest.mark.parametrize("name", CASES)
def test_saving_changes_nothing(name: str, tmp_path: Path) -> None:
    make, options = CASES[name].make, options_of(name)
    checkpoint = fk.Checkpoint(tmp_path / "run", every=3)
    saved = fk.steer(*make(), on_death="return", checkpoint=checkpoint, **options)
    assert_same(saved, run_whole(name))
    # The run has ended: what the file gives is its result.
    assert_same(fk.resume(tmp_path / "run", *make(), on_death="return"), saved)
