"""A run with moves that is cut anywhere, also between a population and the one it goes back to, goes on as it would."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import MOVED, set_tiny_lm, stay, with_lazy, with_regex
from resumed import assert_same, check_case, stop_at

import feynkac as fk
from feynkac.base.errors import ArgumentError


@pytest.mark.parametrize("name", MOVED)
def test_a_run_with_moves_that_is_resumed_is_the_run_that_was_not_cut(name: str, tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    check_case(name, tmp_path)


def test_moves_of_ones_own_are_given_again(tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    run = {"particles": 8, "seed": 1, "moves": fk.rejuvenate(stay, every=2)}
    fk.steer(*with_regex(), checkpoint=tmp_path / "run", observers=[stop_at(3)], **run)
    with pytest.raises(ArgumentError, match=r"has moves of its own, .* give it again as moves="):
        fk.resume(tmp_path / "run", *with_regex())
    found = fk.resume(tmp_path / "run", *with_regex(), moves=fk.rejuvenate(stay, every=2))
    assert_same(found, fk.steer(*with_regex(), **run))


@pytest.mark.parametrize("other", [fk.redraw(2, every=4), fk.redraw(4, chains=2), stay])
def test_other_moves_are_refused(other, tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    run = {"particles": 8, "seed": 1, "moves": fk.redraw(4)}
    fk.steer(*with_lazy(), checkpoint=tmp_path / "run", observers=[stop_at(1)], **run)
    with pytest.raises(ArgumentError, match="is of another run: moves, "):
        fk.resume(tmp_path / "run", *with_lazy(), moves=other)
