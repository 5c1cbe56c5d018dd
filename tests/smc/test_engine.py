"""The loop's promises other than exactness: errors, extinction, absorbing rows, slots, groups that end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError, PotentialError, WeightError
from feynkac.smc.engine import Step, smc
from feynkac.smc.resample import adaptive, multinomial, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.weights import log_sum_exp


class Counters:
    """Rows that count their steps, and note what is done to them."""

    def __init__(self, ids: np.ndarray, steps: np.ndarray, log: list[Any]) -> None:
        self.ids, self.steps, self.log = ids, steps, log

    def __len__(self) -> int:
        return len(self.ids)

    def fork(self, rows: np.ndarray) -> Counters:
        self.log.append(("fork", rows.copy()))
        return Counters(self.ids[rows], self.steps[rows], self.log)

    def retire(self, rows: np.ndarray) -> None:
        self.log.append(("retire", rows.copy()))


class Scripted:
    """Row i takes `lengths[i]` steps; `increments(t, state)` are its weights."""

    def __init__(self, lengths: list[int], increments: Callable[[int, Counters], Any] | None = None) -> None:
        self.lengths = np.array(lengths)
        self.increments = increments or (lambda t, state: np.zeros(len(state)))
        self.log: list[Any] = []

    def init(self, n: int, rng: Any) -> Counters:
        return Counters(np.arange(n), np.zeros(n, dtype=np.int64), self.log)

    def step(self, t: int, state: Counters, rng: Any) -> tuple[Counters, Any]:
        active = ~self.done(state)
        self.log.append(("step", np.flatnonzero(active)))
        steps = state.steps + active
        state = Counters(state.ids, steps, state.log)
        return state, self.increments(t, state)

    def done(self, state: Counters) -> np.ndarray:
        return state.steps >= self.lengths[state.ids]


class Levels:
    """Potential from two functions of (t, state, rows)."""

    name = "toxicity"

    def __init__(self, level: Any = None, final: Any = None) -> None:
        self._level = level or (lambda t, state, rows: np.zeros(len(rows)))
        self._final = final or (lambda state, rows: np.zeros(len(rows)))
        self.log: list[Any] = []

    def level(self, t: int, state: Counters, rows: np.ndarray) -> Any:
        self.log.append(("level", t, rows.tolist()))
        return self._level(t, state, rows)

    def final(self, state: Counters, rows: np.ndarray) -> Any:
        self.log.append(("final", rows.tolist()))
        return self._final(state, rows)


def never(log_weight: np.ndarray, rng: Any) -> tuple[None, np.ndarray]:
    return None, log_weight


def steps(model: Any, potential: Any = None, *, n: Any = None, resample: Any = never, **more: Any) -> list[Step]:
    n = len(model.lengths) if n is None else n
    return list(smc(model, potential or Levels(), n=n, resample=resample, rng=Streams(0), **more))


def at(row: int, value: Any) -> Callable[[int, Any, Any], np.ndarray]:
    """A level with one odd entry."""
    return lambda t, state, rows: np.where(rows == row, value, 0.0)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_level_that_is_no_log_weight_is_named(value: float) -> None:
    with pytest.raises(
        PotentialError, match=rf"'toxicity'\.level at step 0 returned {value} for row 1; .*-inf to kill"
    ):
        steps(Scripted([2, 2, 2]), Levels(at(1, value)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_final_that_is_no_log_weight_is_named(value: float) -> None:
    final = lambda state, rows: np.where(rows == 2, value, 0.0)  # noqa: E731
    with pytest.raises(PotentialError, match=rf"'toxicity'\.final at step 1 returned {value} for row 2;"):
        steps(Scripted([1, 2, 2]), Levels(final=final))


def test_the_row_that_is_named_is_the_particle_not_the_position() -> None:
    # Row 0 has finished, so that row 2 is entry 1 of what the potential is asked about.
    with pytest.raises(PotentialError, match=r"step 1 returned nan for row 2"):
        steps(Scripted([1, 3, 3]), Levels(lambda t, state, rows: np.where((rows == 2) & (t == 1), math.nan, 0.0)))


@pytest.mark.parametrize("bad", [0.0, np.zeros(2), np.zeros((3, 1)), [0.0, None, 0.0], "no", [[0], [0, 1], 0]])
def test_levels_of_another_shape_or_kind_are_refused(bad: Any) -> None:
    with pytest.raises(PotentialError, match=r"'toxicity'\.level at step 0 returned"):
        steps(Scripted([2, 2, 2]), Levels(lambda t, state, rows: bad))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_increment_that_is_no_log_weight_names_the_model(value: float) -> None:
    with pytest.raises(WeightError, match=rf"'Scripted'\.step at step 1 returned {value} for row 1"):
        steps(Scripted([3, 3], lambda t, state: np.array([0.0, value if t == 1 else 0.0])))


def test_increments_of_another_shape_are_refused() -> None:
    with pytest.raises(WeightError, match=r"'Scripted'\.step at step 0 returned shape \(1,\) for 2 rows"):
        steps(Scripted([3, 3], lambda t, state: np.zeros(1)))


def test_finished_rows_may_not_change_their_weight() -> None:
    with pytest.raises(WeightError, match=r"step 1 returned -0\.5 for row 1, which has finished"):
        steps(Scripted([3, 1], lambda t, state: np.array([0.0, -0.5])))


def test_done_of_another_shape_is_refused() -> None:
    class Short(Scripted):
        def done(self, state: Counters) -> Any:
            return np.array(False)

    with pytest.raises(WeightError, match=r"'Short'\.done at step 0 returned shape \(\) for 2 rows"):
        steps(Short([1, 1]))


@pytest.mark.parametrize("n", [0, [], [2, 0]])
def test_a_run_needs_particles(n: Any) -> None:
    with pytest.raises(ArgumentError, match="at least one for each problem"):
        steps(Scripted([1]), n=n)


def test_sizes_may_be_numpy_integers() -> None:
    assert len(steps(Scripted([1, 1]), n=np.int64(2))[-1].log_weight) == 2
    assert steps(Scripted([1, 1, 1]), n=np.array([1, 2]))[-1].groups == (slice(0, 1), slice(1, 3))


# --- moves ----------------------------------------------------------------------------------------------------------


def test_every_move_has_fresh_numbers() -> None:
    seen = []

    def move(t: int, state: Any, level: np.ndarray, alive: np.ndarray, rng: Any) -> Any:
        seen.append(rng.uniform(len(state)))
        return state, level

    steps(Scripted([3, 3]), moves=(move, move))
    assert len(np.unique(np.concatenate(seen))) == 2 * 2 * 2


def test_moves_know_which_rows_have_weight() -> None:
    seen = []

    def move(t: int, state: Any, level: np.ndarray, alive: np.ndarray, rng: Any) -> Any:
        seen.append(alive.tolist())
        return state, level

    one_dies = Levels(lambda t, state, rows: np.where(rows == 1, -np.inf, 0.0))
    steps(Scripted([2, 2, 2]), one_dies, moves=(move,))
    assert seen == [[True, False, True]]


@pytest.mark.parametrize(
    ("levels", "message"), [([0.0, np.nan], "returned nan for row 1"), ([-np.inf, 0.0], "-inf for live row 0")]
)
def test_levels_of_a_move_are_checked(levels: list[float], message: str) -> None:
    def jitter(t: int, state: Any, level: np.ndarray, alive: np.ndarray, rng: Any) -> Any:
        return state, np.array(levels)

    with pytest.raises(WeightError, match=rf"'jitter'\.move at step 1.*{message}"):
        steps(Scripted([2, 2]), moves=(jitter,))


# --- death ----------------------------------------------------------------------------------------------------------


def test_extinction_ends_the_run_without_an_error() -> None:
    run = steps(Scripted([9, 9]), Levels(lambda t, state, rows: np.full(len(rows), -np.inf if t == 2 else 5.0)))
    assert [step.t for step in run] == [0, 1, 2]
    assert run[-1].ended and run[-1].log_z == -math.inf and run[-1].ess == 0 and not run[-1].done.any()


def test_death_by_increment_is_not_shown_to_the_potential() -> None:
    potential = Levels()
    steps(Scripted([2, 2], lambda t, state: np.array([0.0, -np.inf])), potential)
    assert potential.log == [("level", 0, [0]), ("final", [0])]


def test_the_dead_stay_dead_and_are_retired() -> None:
    model = Scripted([3, 3, 3])
    run = steps(model, Levels(lambda t, state, rows: np.where((rows == 1) & (t == 0), -np.inf, 2.0 * t)))
    assert [step.log_weight[1] for step in run] == [-np.inf] * 3
    assert all((step.level[1] == 0.0) for step in run)
    assert [rows.tolist() for name, rows in model.log if name == "retire"] == [[1], [1]]


def test_a_row_that_dies_leaves_the_others_unbiased_by_its_level() -> None:
    # The dead row's slot is taken by a child of the live one, whose level must come along.
    level = lambda t, state, rows: np.where(rows == 1, -np.inf, 7.0) if t == 0 else np.full(len(rows), 3.0)  # noqa: E731
    run = steps(Scripted([3, 3]), Levels(level), resample=multinomial)
    assert [step.log_z for step in run] == pytest.approx([7 - math.log(2), 3 - math.log(2), -math.log(2)])


# --- finished rows, slots, steps ------------------------------------------------------------------------------------


def test_finished_rows_cost_nothing_and_keep_their_weight() -> None:
    model, potential = Scripted([1, 3, 2]), Levels(final=lambda state, rows: state.ids[rows] - 1.0)
    run = steps(model, potential)
    assert [rows.tolist() for name, rows in model.log if name == "step"] == [[0, 1, 2], [1, 2], [1]]
    assert potential.log == [("level", 0, [1, 2]), ("final", [0]), ("level", 1, [1]), ("final", [2]), ("final", [1])]
    np.testing.assert_allclose(run[-1].log_weight, np.array([-1.0, 0.0, 1.0]) - math.log(3))


def test_a_row_finished_at_the_start_still_gets_its_final_score() -> None:
    run = steps(Scripted([0, 0]), Levels(final=lambda state, rows: np.full(len(rows), 2.0)))
    assert len(run) == 1 and run[0].log_z == pytest.approx(2.0)


def test_survivors_keep_their_slot_and_the_last_population_is_not_resampled() -> None:
    model = Scripted([4] * 32, lambda t, state: Streams(3).at("init", t).normal((32,)))
    run = steps(model, resample=multinomial)
    assert [name for name, _ in model.log].count("fork") == 3
    for step in run[1:]:
        survivors = np.unique(step.rows)
        np.testing.assert_array_equal(step.rows[survivors], survivors)
    assert len(np.unique(run[-1].log_weight)) > 1


def test_no_fork_when_nothing_is_resampled() -> None:
    model = Scripted([4] * 4)
    assert all(step.resampled == (False,) for step in steps(model, resample=adaptive(systematic, 0.5)))
    assert not [entry for entry in model.log if entry[0] == "fork"]


def test_steps_that_were_yielded_do_not_change() -> None:
    model = Scripted([5] * 6, lambda t, state: np.where(np.arange(6) == t, -np.inf, 0.1 * t * np.arange(6)))
    copies, run = [], []
    for step in smc(
        model, Levels(lambda t, s, rows: 1.0 + rows), n=6, resample=adaptive(systematic, 0.4), rng=Streams(1)
    ):
        copies.append([getattr(step, name).copy() for name in ("log_weight", "level", "rows", "done")])
        run.append(step)
    for step, copy in zip(run, copies, strict=True):
        for name, before in zip(("log_weight", "level", "rows", "done"), copy, strict=True):
            np.testing.assert_array_equal(getattr(step, name), before)


def test_stopped_early_a_run_is_a_weighted_population() -> None:
    model = Scripted([5] * 8, lambda t, state: 0.3 * np.arange(8.0))
    potential = Levels(lambda t, state, rows: rows * 0.1 + t)
    step = next(itertools.islice(smc(model, potential, n=8, resample=systematic, rng=Streams(1)), 2, None))
    assert step.t == 2 and not step.done.any() and not step.ended
    # The guess can be taken out again: what remains estimates the evidence so far.
    np.testing.assert_allclose(step.level, np.arange(8) * 0.1 + 2)
    assert math.isfinite(log_sum_exp(step.log_weight - step.level))


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_that_has_ended_is_left_alone_while_others_run() -> None:
    model = Scripted([1, 1, 4, 4], lambda t, state: np.where(state.steps > t, 0.5 * state.ids, 0.0))
    run = steps(model, n=[2, 2], resample=multinomial)
    assert len(run) == 4
    first = run[0].group(0)
    assert first.ended and first.done.all()
    for step in run[1:]:
        assert step.resampled == (False, True)
        np.testing.assert_array_equal(step.group(0).log_weight, first.log_weight)
        np.testing.assert_array_equal(step.group(0).rows, [0, 1])
        assert step.group(1).rows.max() <= 1


def test_groups_may_change_size_apart_from_each_other() -> None:
    def halve(log_weight: np.ndarray, rng: Any) -> tuple[np.ndarray | None, np.ndarray]:
        if len(log_weight) <= 2:
            return None, log_weight
        half = len(log_weight) // 2
        return np.arange(half), np.full(half, log_sum_exp(log_weight) - math.log(half))

    run = steps(Scripted([3] * 10), n=[8, 2], resample=halve)
    assert [[part.stop - part.start for part in step.groups] for step in run] == [[8, 2], [4, 2], [2, 2]]
    assert [[part.stop - part.start for part in step.parents] for step in run] == [[8, 2], [8, 2], [4, 2]]
    assert [step.rows.tolist() for step in run[1:]] == [[0, 1, 2, 3, 8, 9], [0, 1, 4, 5]]
    assert [step.group(1).rows.tolist() for step in run] == [[0, 1]] * 3
    assert all(step.group(g).log_z == pytest.approx(0, abs=1e-12) for step in run for g in (0, 1))


def test_another_resampler_leaves_the_proposals_as_they_are() -> None:
    def draws(resample: Any) -> list[np.ndarray]:
        seen = []

        class Drawing(Scripted):
            def step(self, t: int, state: Counters, rng: Any) -> tuple[Counters, Any]:
                seen.append(rng.normal((len(state),)))
                return super().step(t, state, rng)

        steps(Drawing([4] * 6, lambda t, state: -1.0 * state.ids), resample=resample)
        return seen

    for ours, theirs in zip(draws(multinomial), draws(adaptive(systematic, 0.5)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_goes_on_from_any_of_its_steps() -> None:
    def begin(stop: int | None = None, start: Step | None = None) -> list[Step]:
        model = Scripted([4, 7, 2, 6, 5, 7], lambda t, state: np.where(state.steps <= t, 0.0, -0.3 * state.ids))
        steps = smc(model, Levels(), n=None if start else [4, 2], resample=multinomial, rng=Streams(3), start=start)
        return list(itertools.islice(steps, stop))

    whole = begin()
    assert len(whole) > 4
    for k in range(len(whole)):
        rest = begin(start=begin(stop=k + 1)[k])
        assert len(rest) == len(whole) - k - 1
        for one, other in zip(whole[k + 1 :], rest, strict=True):
            for name in ("t", "resampled", "groups", "parents", "log_weight", "level", "rows", "done"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            np.testing.assert_array_equal(one.state.ids, other.state.ids)


def test_a_start_says_how_many_particles_there_are() -> None:
    first = next(smc(Scripted([2, 2]), Levels(), n=2, resample=multinomial, rng=Streams(0)))
    with pytest.raises(ArgumentError, match="leave n out"):
        next(smc(Scripted([2, 2]), Levels(), n=2, resample=multinomial, rng=Streams(0), start=first))
