"""Runs of programs, samplers, pipelines and canvases that are cut anywhere go on to the result of whole ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import CASES, PROGRAMS, SAMPLERS, set_tiny_lm, with_ddpm, writing
from resumed import CUTS, Copies, assert_same, check_case, stop_at

import feynkac as fk
from feynkac.steering.checkpoints.saving import Pace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_of_programs_that_is_resumed_is_the_run_that_was_not_cut(name: str, tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    check_case(name, tmp_path)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_of_a_sampler_that_is_resumed_is_the_run_that_was_not_cut(name: str, tmp_path: Path) -> None:
    if name.startswith("pipeline"):
        pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
    check_case(name, tmp_path)


def test_fifty_places_are_cut() -> None:
    assert len({(name, t) for name in CASES for t in CUTS[name]}) >= 50


def test_one_run_is_cut_at_fifty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, options = with_ddpm(steps=51), {"particles": 4, "seed": 3}
    whole, copies = fk.steer(*given, **options), Copies(tmp_path / "run", range(50))
    checkpoint = fk.Checkpoint(copies.path, every=1)
    assert_same(fk.steer(*given, checkpoint=checkpoint, observers=[copies], **options), whole)
    assert len(copies.files) == 50
    monkeypatch.setattr(Pace, "is_due", lambda self, t: False)  # what is taken up is saved at its end only
    for path in copies.files.values():
        assert_same(fk.resume(path, *given), whole)


def test_a_run_that_an_observer_ended_goes_on_where_it_stood(tiny_lm, tmp_path: Path) -> None:
    """It is saved where it ends, and again where it ends the second time."""
    lm, options = tiny_lm("a", "b", "c", eos=()), {"particles": 8, "seed": 4}
    fk.steer(writing(lm), checkpoint=tmp_path / "run", observers=[stop_at(3)], **options)
    seen: list[int] = []
    fk.resume(tmp_path / "run", writing(lm), observers=[lambda step: seen.append(step.t), stop_at(6)])
    assert seen == [4, 5, 6]
    assert_same(fk.resume(tmp_path / "run", writing(lm)), fk.steer(writing(lm), **options))


@pytest.mark.parametrize(
    ("every", "saving_takes", "saved"),
    [(None, 0.0, [0, 30]), (7, 0.0, [0, 7, 14, 21, 28, 35]), (None, 3.0, [0]), (None, 1.6, [0, 32])],
)
def test_a_run_is_saved_by_steps_and_by_time_and_never_at_much_cost(every, saving_takes, saved) -> None:
    """A step takes a second here."""
    now, found = 0.0, list[int]()
    pace = Pace(every, 30.0, lambda: now)
    for t in range(40):
        now += 1.0
        if pace.is_due(t):
            now += saving_takes
            pace.note(t, saving_takes)
            found.append(t)
    assert found == saved
