"""Particle Gibbs that is cut between two sweeps, or within one, goes on to the result of the run that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cases import GIBBS, set_tiny_lm
from resumed import assert_same

import feynkac as fk

SWEEPS = 3
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Copies:
    """An observer that keeps the file as it is when each sweep begins."""

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, dict[str, Path]()

    def __call__(self, step: Any) -> None:
        if step.t == 0 and self.path.exists():
            data = self.path.stat()
            name = f"run-{data.st_mtime_ns}"
            self.files.setdefault(name, shutil.copy(self.path, self.path.with_name(name)))


@pytest.mark.parametrize("name", GIBBS)
def test_chains_that_are_resumed_are_those_that_were_not_cut(name: str, tiny_lm, tmp_path: Path) -> None:
    if name == "a pipeline":
        pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
    set_tiny_lm(tiny_lm)
    case, copies = GIBBS[name], Copies(tmp_path / "run")
    options = {"algorithm": "gibbs", "sweeps": SWEEPS, "particles": 8, "seed": 2, "on_death": "return", **case.options}
    whole = fk.steer(*case.make(), **options)
    saved = fk.steer(*case.make(), checkpoint=fk.Checkpoint(copies.path, every=1), observers=[copies], **options)
    assert_same(saved, whole)
    assert len(copies.files) == SWEEPS - 1
    for path in (*copies.files.values(), copies.path):  # the last has ended, and gives its result
        assert_same(fk.resume(path, *case.make(), on_death="return"), whole)
