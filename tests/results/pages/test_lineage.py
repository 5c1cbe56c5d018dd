"""The history as a page has it: the tree without what costs nothing, the populations of particle Gibbs."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
from made_runs import make_run

from feynkac import ArgumentError, History, Result
from feynkac.results.pages.lineage import list_populations, pack_history
from feynkac.steering.chains import join_histories


def unpack(packed: dict[str, str]) -> list[int]:
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<{packed['kind']}").tolist()


def of_rows(rows: list[list[int]], **changes) -> History:
    return History([1.0] * len(rows), [0.0] * len(rows), [1] * len(rows), [], rows, **changes)


def read_rows(packed: dict) -> list[list[int]]:
    """What the page makes of it."""
    sizes, changed = (
        unpack(packed["sizes"]),
        dict(zip(unpack(packed["changed"]), unpack(packed["parents"]), strict=True)),
    )
    starts = np.cumsum([0, *sizes])
    return [[changed.get(int(starts[t]) + i, i) for i in range(size)] for t, size in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_comes_back_as_it_was(seed) -> None:
    rows = make_run(9, 20, seed).history.rows
    assert read_rows(pack_history(of_rows(rows))) == rows


def test_populations_may_change_their_size() -> None:
    rows = [[0], [0, 0, 0], [0, 2], [1, 1, 0, 1], [0, 1]]
    assert read_rows(pack_history(of_rows(rows))) == rows


def test_slots_that_keep_their_parent_cost_nothing() -> None:
    packed = pack_history(of_rows([list(range(100))] * 50))
    assert packed["changed"]["data"] == packed["parents"]["data"] == ""


@pytest.mark.parametrize("wrong", [[0, 2], [-1, 0]])
def test_a_history_that_is_no_tree_is_refused(wrong) -> None:
    with pytest.raises(ArgumentError, match="step 2 names a parent that step 1 lacks"):
        pack_history(of_rows([[0, 1], [0, 0], wrong]))


def test_details_that_do_not_fit_the_tree_are_left_out() -> None:
    packed = pack_history(of_rows([[0, 1], [0, 1]], levels=[[0.0, 0.0]], pieces=[["a", "b"], ["c"]]))
    assert "levels" not in packed and packed["pieces"] is None


def test_each_distinct_piece_is_written_once() -> None:
    packed = pack_history(of_rows([[0, 1], [0, 1]], pieces=[["a", "b"], ["b", "\x1b"]]))["pieces"]
    assert packed["words"] == ["a", "b", "\\x1b"] and unpack(packed["which"]) == [0, 1, 1, 2]


def test_particles_that_a_move_wrote_anew_are_told() -> None:
    packed = pack_history(of_rows([[0, 1], [0, 1], [0, 1]], moved=[[], [1], []]))
    assert unpack(packed["rewritten"]) == [0, 0, 0, 1, 0, 0]
    assert pack_history(of_rows([[0, 1]], moved=[[]]))["rewritten"] is None


def chains(lengths: list[int], n: int = 3, *, dead: int = 0, complete: bool = True) -> Result:
    """Chains of so many sweeps, their samples pooled, and after these chains that died in their first sweep."""
    sweeps = [make_run(n, 4, seed).history for seed in range(sum(lengths) + dead)]
    died = [replace(each, ess=[*each.ess[:-1], 0.0]) for each in sweeps[sum(lengths) :]]
    history = join_histories([*sweeps[: sum(lengths)], *died])
    pooled = n * sum(length - 1 for length in lengths)
    return make_run(pooled, 1, history=history, complete=complete, algorithm="gibbs")


def find_rows(result: Result) -> list[int | None]:
    return [each["first_row"] for each in list_populations(result)]


def test_sweeps_have_trees_of_their_own_and_the_first_is_burn_in() -> None:
    made = chains([4])
    found = list_populations(made)
    assert [(each["start"], each["end"], each["first_row"]) for each in found] == [
        (0, 4, None), (4, 8, 0), (8, 12, 3), (12, 16, 6),
    ]  # fmt: skip
    pack_history(made.history)


def test_the_first_sweep_of_each_chain_is_burn_in() -> None:
    assert find_rows(chains([3, 3])) == [None, 0, 3, None, 6, 9]


def test_a_chain_that_died_has_no_samples() -> None:
    assert find_rows(chains([3, 3], dead=1)) == [None, 0, 3, None, 6, 9, None]
    assert find_rows(chains([2], dead=2)) == [None, 0, None, None]


def test_sweeps_that_cannot_be_told_apart_have_no_samples() -> None:
    assert find_rows(chains([3, 1], complete=False)) == [None] * 4
    assert find_rows(chains([3], complete=False)) == [None, 0, 3]


def test_a_population_that_is_not_the_samples_has_none() -> None:
    made = make_run(4, 3)
    assert find_rows(made) == [0] and find_rows(replace(made, samples=made.samples * 2)) == [None]
    assert find_rows(replace(made, history=replace(made.history, rows=[]))) == []
