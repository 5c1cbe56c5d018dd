"""Summaries, family trees and the other readers of a run."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.smc import history
from feynkac.smc.engine import Step
from feynkac.smc.history import Genealogy, Summary, Trace, prune_branches
from feynkac.smc.observers import JsonLines, run, stop_when


def step(
    t: int,
    rows: list[int] | np.ndarray,
    weights: Any = None,
    done: Any = None,
    resampled: bool | None = None,
    n_before: int = 0,
) -> Step:
    """A step of one group with given `rows`."""
    rows = np.asarray(rows, dtype=np.int64)
    n = len(rows)
    with np.errstate(divide="ignore"):
        log_w = np.log(np.full(n, 1 / n) if weights is None else np.asarray(weights, dtype=np.float64))
    return Step(
        t=t,
        state=None,  # type: ignore[arg-type]
        log_weight=log_w,
        level=np.zeros(n),
        rows=rows,
        resampled=(bool((rows != np.arange(n)).any()) if resampled is None else resampled,),
        done=np.zeros(n, dtype=bool) if done is None else np.asarray(done),
        groups=(slice(0, n),),
        parents=(slice(0, n_before or n),),
    )


def random_run(steps: int, sizes: Iterator[int], seed: int, often: float = 0.7) -> list[Step]:
    """A run with multinomial parents, in which survivors keep their slots where they can."""
    rng, size, result = np.random.default_rng(seed), next(sizes), []
    for t in range(steps):
        if t and rng.random() < often:
            before, size = size, next(sizes)
            rows = rng.integers(0, before, size)
            result.append(step(t, rows, resampled=True, n_before=before))
        else:
            result.append(step(t, np.arange(size), resampled=False))
    return result


def dense_paths(steps: list[Step]) -> np.ndarray:
    """(N, T) slots of the ancestors, from all parent maps."""
    rows = np.arange(len(steps[-1].rows))
    columns = [rows]
    for later in reversed(steps[1:]):
        rows = later.rows[rows]
        columns.append(rows)
    return np.stack(columns[::-1], axis=1)


# --- the family tree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("compiled_above", [0, 256])
@pytest.mark.parametrize("seed", range(4))
def test_genealogy_agrees_with_all_parent_maps_at_every_step(
    prune: bool, compiled_above: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PYTHON_UP_TO", compiled_above)
    run_ = random_run(60, itertools.cycle([7, 7, 3, 10]), seed)
    genealogy = Genealogy(prune=prune)
    for t, one in enumerate(run_):
        genealogy(one)
        np.testing.assert_array_equal(genealogy.paths(), dense_paths(run_[: t + 1]))


def test_pruning_keeps_exactly_the_branches_with_living_descendants() -> None:
    run_ = random_run(80, itertools.repeat(12), 5)
    genealogy = Genealogy()
    for t, one in enumerate(run_):
        genealogy(one)
        # A node is a slot from one resampling to the next: count the different ancestors at each resampling.
        born = [0, *(s.t for s in run_[1 : t + 1] if s.resampled[0])]
        paths = dense_paths(run_[: t + 1])
        assert genealogy.nodes == sum(len(np.unique(paths[:, b])) for b in born)


def test_the_tree_stays_small() -> None:
    n, t = 64, 512
    pruned, dense = Genealogy(), Genealogy(prune=False)
    for one in random_run(t, itertools.repeat(n), 1, often=1.0):
        pruned(one)
        dense(one)
    assert dense.nodes == n * t
    # Multinomial parents: a trunk of at most T, and Kingman's coalescent above it, whose total length has mean
    # 2 N sum 1/k and variance 4 N^2 sum 1/k^2 in generations (k < N); 4.42 standard deviations.
    k = np.arange(1, n)
    assert pruned.nodes < t + 2 * n * (1 / k).sum() + 4.42 * 2 * n * math.sqrt((1 / k**2).sum())


def test_nothing_is_kept_of_steps_without_resampling() -> None:
    genealogy = Genealogy()
    for t in range(1000):
        genealogy(step(t, np.arange(5)))
    assert genealogy.nodes == 5
    np.testing.assert_array_equal(genealogy.path(3), np.full(1000, 3))


def test_the_kernel_is_the_same_without_numba() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        parent = np.array([-1, -1, -1, 0, 0, 2, 3, 3, 5])
        leaves = np.array([6, 7, 4, 8, 1])
        children = np.bincount(parent[parent >= 0], minlength=9)
        children[rng.choice(leaves, 2, replace=False)] = 1
        results = []
        for kernel in (prune_branches, prune_branches.py_func):
            free, left = np.zeros(9, dtype=np.int64), children.copy()
            results.append((kernel(leaves, parent, left, free, 0), free, left))
        assert results[0][0] == results[1][0]
        np.testing.assert_array_equal(results[0][1], results[1][1])
        np.testing.assert_array_equal(results[0][2], results[1][2])


# --- summaries ------------------------------------------------------------------------------------------------------


def test_summary_of_each_step() -> None:
    trace = Trace()
    trace(step(0, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]))
    trace(step(1, [0, 0, 2, 2], [0.5, 0.25, 0.0, 0.0], done=[True, False, True, False]))
    trace(step(2, [0, 1, 2, 3], [0.0] * 4))
    assert trace["t"] == [0, 1, 2] and len(trace) == 3
    assert trace["ess"] == pytest.approx([1 / 0.3, 0.75**2 / (0.25 + 0.0625), 0.0])
    assert trace["log_z"] == pytest.approx([0.0, math.log(0.75), -math.inf], abs=1e-15)
    assert trace["max_weight"] == pytest.approx([0.4, 2 / 3, 0.0])
    assert trace["alive"] == [4, 2, 0] and trace["done"] == [0, 1, 0]
    assert trace["parents"] == [4, 2, 4] and trace["roots"] == [4, 1, 0]
    assert trace["resampled"] == [False, True, False]


def test_roots_are_those_of_the_genealogy() -> None:
    summary, run_ = Summary(), random_run(40, itertools.repeat(9), 2, often=0.3)
    for t, one in enumerate(run_):
        assert summary(one)["roots"] == len(np.unique(dense_paths(run_[: t + 1])[:, 0]))


# --- driving a run --------------------------------------------------------------------------------------------------


def test_run_shows_every_step_once_to_every_observer_and_closes_them() -> None:
    class Seen(list[int]):
        closed = 0

        def __call__(self, one: Step) -> None:
            self.append(one.t)

        def close(self) -> None:
            self.closed += 1

    a, b = Seen(), Seen()
    last = run(iter([step(t, [0, 1]) for t in range(5)]), a, b)
    assert last.t == 4 and a == b == [0, 1, 2, 3, 4] and a.closed == b.closed == 1

    def broken() -> Iterator[Step]:
        yield step(0, [0])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(broken(), a)
    assert a.closed == 2


def test_run_without_steps_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no steps"):
        run(iter([]))


def test_only_true_ends_a_run_and_the_others_still_see_that_step() -> None:
    seen = []
    last = run(iter([step(t, [0]) for t in range(9)]), lambda s: s.t == 3, lambda s: seen.append(s.t))
    assert last.t == 3 and seen == [0, 1, 2, 3]
    assert run(iter([step(t, [0]) for t in range(4)]), lambda s: s.t).t == 3  # type: ignore[arg-type,return-value]
    assert run(iter([step(t, [0]) for t in range(9)]), stop_when(lambda s: s.t >= 2)).t == 2


def test_a_second_run_is_seen_as_if_it_were_the_first() -> None:
    """Particle Gibbs shows all its sweeps to the same observers."""
    first, second = (random_run(6, itertools.repeat(9), seed) for seed in (1, 2))
    summary, alone = Summary(), Summary()
    found, wanted = [summary(each) for each in first + second], [alone(each) for each in second]
    assert found[6:] == wanted and wanted[-1]["roots"] < 9
    tree = Genealogy()
    for each in first + second:
        tree(each)
    np.testing.assert_array_equal(tree.paths(), dense_paths(second))


# --- output ---------------------------------------------------------------------------------------------------------


def test_json_lines_are_json_also_after_extinction(tmp_path: Path) -> None:
    steps = [step(0, [0, 1], [0.25, 0.5]), step(1, [1, 1], [0.0, 0.0])]
    run(iter(steps), JsonLines(tmp_path / "run.jsonl"))
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [record["t"] for record in records] == [0, 1]
    assert records[0]["log_z"] == pytest.approx(math.log(0.75)) and records[1]["log_z"] is None
    assert records[1]["resampled"] is True and records[1]["parents"] == 1

    file = io.StringIO()
    run(iter(steps), JsonLines(file))
    assert [json.loads(line) for line in file.getvalue().splitlines()] == records and not file.closed


def test_json_lines_of_a_second_run_stand_behind_those_of_the_first(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run.jsonl")
    for seed in (1, 2):
        run(iter(random_run(3, itertools.repeat(4), seed)), lines)
    records = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [record["t"] for record in records] == [0, 1, 2, 0, 1, 2]
