"""What potentials remember forks with the population, and is shared by no two rows."""

from __future__ import annotations

import numpy as np

from feynkac.base.memory import Memory


def test_an_array_is_made_of_its_default_once_and_written_in_place() -> None:
    memory = Memory(3)
    assert len(memory) == 3
    best = memory.array("best", -np.inf)
    assert best.shape == (3,) and best.dtype == np.float64 and (best == -np.inf).all()
    best[1] = 2.0
    assert memory.array("best", 0.0)[1] == 2.0
    assert memory.array("place", np.zeros(2, dtype=np.int64)).shape == (3, 2)


def test_children_get_what_their_parent_had_and_share_nothing() -> None:
    memory = Memory(3)
    memory.array("x", 0)[:] = [10, 11, 12]
    child = memory.fork(np.array([2, 0, 2, 2]))
    assert len(child) == 4
    x = child.array("x", 0)
    assert x.tolist() == [12, 10, 12, 12]
    x[0] = 99
    assert child.array("x", 0).tolist() == [99, 10, 12, 12] and memory.array("x", 0).tolist() == [10, 11, 12]
    child.array("new", 1)
    assert (memory.array("new", 5) == 5).all()


def test_arrays_made_after_a_fork_have_the_new_size() -> None:
    assert Memory(3).fork(np.array([0, 0, 1, 2, 2])).array("late", 0.5).shape == (5,)


def test_what_is_shared_is_made_once_for_all_populations_of_a_run() -> None:
    memory = Memory(2)
    kept = memory.share("kept", dict)
    kept["a"] = 1
    assert memory.fork(np.array([1, 1])).share("kept", dict) is kept
    assert Memory(2).share("kept", dict) == {}


def test_notes_are_of_the_run_and_are_told_of_the_rows_that_they_befell() -> None:
    memory = Memory(4)
    memory.note("killed", np.array([0, 1]))
    child = memory.fork(np.array([0, 0, 2, 3]))
    child.note("killed", np.array([1]))
    child.note("late", np.array([3]))
    assert memory.count_notes(np.array([0, 1])) == {"killed": 3}
    assert child.count_notes(np.array([2, 3])) == {"late": 1} and not child.count_notes(np.array([2]))
