"""Moves at fixed steps, paths drawn anew, waste-free SMC: E[Z] = Z and E[sum w f] = Z E[f], by all possible runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from toys import (
    BiasFound,
    Metropolis,
    Points,
    Problem,
    TextModel,
    TextPotential,
    Toy,
    assert_equal_masses,
    assert_exact,
    chain,
    tempered,
    text,
    text_truth,
)

from feynkac.base.errors import ArgumentError
from feynkac.smc.engine import smc
from feynkac.smc.population import Population
from feynkac.smc.redraws import Past, Redraw
from feynkac.smc.rejuvenation import Moves, Rejuvenation
from feynkac.smc.resample import adaptive, islands, never, shrink, ssp, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.testing import Choices, expectation

ADAPTIVE = adaptive(systematic, 0.9)


def redraw(toy: Toy, every: int, block: int, kernel: type[Redraw] = Redraw, **waste_free: Any) -> Toy:
    return replace(toy, moves=Rejuvenation(kernel(toy.model, toy.potential, block), every, **waste_free))


def waste_free(toy: Toy, chains: int, copies: int, every: int = 1) -> Toy:
    moves = Rejuvenation(Moves(toy.moves), every, shrink(systematic, chains), copies)
    return replace(toy, moves=moves)


# --- moves in general ------------------------------------------------------------------------------------------------


class OnlyIfJustResampled(Metropolis):
    """A move made only where uneven weights have called for a resampling, as is the custom."""

    def __call__(self, t: int, state: Points, level: np.ndarray, alive: np.ndarray, rng: Any) -> Any:
        return super().__call__(t, state, level, alive, rng) if self.resampled else (state, level)

    resampled = False


@pytest.mark.parametrize(("ess", "z"), [(0.8, -0.0158), (0.97, -0.221)])
def test_moves_only_where_weights_are_uneven_are_a_bias(ess: float, z: float) -> None:
    toy = tempered(3)
    move, scheme = OnlyIfJustResampled(toy.potential), adaptive(systematic, ess)

    def watched(log_weight: np.ndarray, rng: Any) -> Any:
        rows, new = scheme(log_weight, rng)
        move.resampled = rows is not None
        return rows, new

    with pytest.raises(BiasFound) as caught:
        assert_exact(replace(toy, moves=(move,)), watched, 3)
    assert caught.value.z == pytest.approx(z, rel=5e-3)
    assert_exact(toy, scheme, 3)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_moves_at_every_kth_step_are_exact(every: int) -> None:
    toy = tempered(4)
    assert_exact(replace(toy, moves=Rejuvenation(Moves(toy.moves), every)), ADAPTIVE, 2)


# --- paths drawn anew ------------------------------------------------------------------------------------------------

# The toy, the particles, the steps between two moves, and how far back.
REDRAWN = {
    "text, the last token": (text(3), 1, 2, 1),
    "text, every step": (text(3), 1, 1, 1),
    "text that must end, two tokens": (text(4, "end"), 1, 3, 2),
    "text, two moves": (text(4), 1, 2, 1),
    "text, two adjacent blocks": (text(5), 1, 2, 2),
    "text, three tokens, all of which have ended": (text(3), 1, 4, 3),
    "chain with a memory": (chain(3), 2, 2, 1),
    "chain, two steps": (chain(4), 1, 3, 2),
    "chain, every step": (chain(2), 2, 1, 1),
    "chain, two moves": (chain(4), 1, 1, 1),
}


@pytest.mark.parametrize("resample", [never, ADAPTIVE, systematic], ids=["never", "adaptive", "always"])
@pytest.mark.parametrize("case", REDRAWN)
def test_paths_drawn_anew_leave_the_target_invariant(case: str, resample: Any) -> None:
    toy, n, every, block = REDRAWN[case]
    if n == 1 and resample is not never:
        pytest.skip("a single particle is its own only parent")
    assert_exact(redraw(toy, every, block), resample, n)


def test_a_redraw_changes_paths() -> None:
    moved = redraw(chain(6), 3, 2)
    still = replace(moved, moves=())
    first, second = (each.run(n=8, resample=never, rng=Streams(0)).state.outcomes() for each in (moved, still))
    assert first != second and [path[0] for path in first] == [path[0] for path in second]


class RatioLeftOut(Redraw):
    """Every path drawn is taken, whatever it weighs, as long as it has weight."""

    def __call__(self, t: int, now: Population, past: Any, rng: Any) -> Any:
        return super().__call__(t, now, replace(past, gained=np.full(len(now.done), -700.0)), rng)


class GainOfTheLastStepOnly(Redraw):
    """The old path's gain is taken for that of its last step."""

    def __call__(self, t: int, now: Population, past: Any, rng: Any) -> Any:
        return super().__call__(t, now, replace(past, gained=now.level - past.population.level[past.origin]), rng)


class OriginOfTheSlot(Redraw):
    """The path is drawn on from what the slot held, before it was resampled."""

    def __call__(self, t: int, now: Population, past: Any, rng: Any) -> Any:
        return super().__call__(t, now, replace(past, origin=np.arange(len(now.done))), rng)


class LevelLeftBehind(Redraw):
    """The log-weight keeps the level of the old path."""

    def __call__(self, t: int, now: Population, past: Any, rng: Any) -> Any:
        moved, past = super().__call__(t, now, past, rng)
        return replace(moved, level=now.level), past


@pytest.mark.parametrize(
    ("mutant", "case", "resample"),
    [
        (RatioLeftOut, "chain with a memory", systematic),
        (RatioLeftOut, "text, the last token", never),
        (GainOfTheLastStepOnly, "text that must end, two tokens", never),
        (LevelLeftBehind, "chain, two moves", never),
        (OriginOfTheSlot, "chain with a memory", systematic),
    ],
)
def test_redrawing_wrongly_is_caught(mutant: type[Redraw], case: str, resample: Any) -> None:
    toy, n, every, block = REDRAWN[case]
    with pytest.raises(BiasFound) as caught:
        assert_exact(redraw(toy, every, block, mutant), resample, n)
    assert abs(caught.value.f) > 1e-3


@pytest.mark.parametrize("case", ["text, the last token", "text, two adjacent blocks"])
def test_a_run_that_does_not_wait_for_a_move_of_what_has_ended_is_caught(monkeypatch, case: str) -> None:
    """To move only if some row still runs is a choice by what the rows are."""
    toy, n, every, block = REDRAWN[case]
    monkeypatch.setattr(Past, "find_waiting", lambda past, now: np.zeros(len(now.done), bool))
    with pytest.raises(BiasFound) as caught:
        assert_exact(redraw(toy, every, block), never, n)
    assert abs(caught.value.f) > 1e-3


# --- waste-free ------------------------------------------------------------------------------------------------------

WASTE_FREE = {
    "one chain of two": (waste_free(tempered(3), 1, 2), 2),
    "one chain of three": (waste_free(tempered(2), 1, 3), 3),
    "two chains of two": (waste_free(tempered(2), 2, 2), 4),
    "every second step": (waste_free(tempered(4), 1, 2, every=2), 2),
    "paths drawn anew": (redraw(chain(3), 2, 1, choose=shrink(systematic, 1), copies=2), 2),
    "texts drawn anew, of which some have ended": (redraw(text(3), 2, 1, choose=shrink(systematic, 1), copies=2), 2),
}


@pytest.mark.parametrize("case", WASTE_FREE)
def test_all_states_of_a_chain_are_properly_weighted(case: str) -> None:
    assert_exact(WASTE_FREE[case][0], ADAPTIVE, WASTE_FREE[case][1])


def test_waste_free_islands_are_exact() -> None:
    toy = tempered(2)
    moves = Rejuvenation(Moves(toy.moves), 1, islands(shrink(systematic, 1), 2), 2)
    assert_exact(replace(toy, moves=moves), islands(systematic, 2), 4)


@dataclass
class ChainsWeighWhole(Rejuvenation):
    """Each state of a chain keeps the whole weight of the chain."""

    def apply(self, *given: Any) -> Any:
        found = super().apply(*given)
        weight = found.population.log_weight + np.log(self.copies)
        return found._replace(population=replace(found.population, log_weight=weight))


@dataclass
class FirstStateTwice(Rejuvenation):
    """The start of a chain is counted again instead of its last state, with the level of that."""

    def apply(self, t: int, now: Population, *given: Any) -> Any:
        found = super().apply(t, now, *given)
        return found._replace(population=replace(found.population, state=now.state.fork(found.rows)))


@pytest.mark.parametrize("mutant", [ChainsWeighWhole, FirstStateTwice])
def test_waste_free_done_wrongly_is_caught(mutant: type[Rejuvenation]) -> None:
    toy = tempered(3)
    with pytest.raises(BiasFound) as caught:
        assert_exact(replace(toy, moves=mutant(Moves(toy.moves), 1, shrink(systematic, 1), 2)), systematic, 2)
    assert abs(caught.value.f) > 1e-2


def test_waste_free_only_where_weights_are_uneven_is_a_bias() -> None:
    """Adaptive waste-free SMC is consistent, and not unbiased."""
    toy = tempered(3)
    choose = adaptive(shrink(systematic, 1), 0.9)

    def chosen(log_weight: np.ndarray, rng: Any) -> Any:
        return choose(log_weight, rng)

    with pytest.raises(BiasFound) as caught:
        assert_exact(replace(toy, moves=Rejuvenation(Moves(toy.moves), 1, chosen, 2)), systematic, 2)
    assert abs(caught.value.z) > 1e-2


# --- several problems ------------------------------------------------------------------------------------------------

SHORT, LONG = Problem(limit=2), Problem(limit=3, q=np.array([[0.5, 0.2, 0.3]] * 3))


def test_two_problems_in_one_batch_are_two_independent_runs_with_moves() -> None:
    """One of them has ended when the other is moved."""
    model = TextModel([SHORT, LONG], sizes=[1, 1])
    toys = [Toy(model, TextPotential(), text_truth(problem)) for problem in (SHORT, LONG)]
    moves = Rejuvenation(Redraw(model, TextPotential(), 1), 2)

    def run(rng: Choices) -> np.ndarray:
        *_, last = smc(model, TextPotential(), n=[1, 1], resample=never, rng=rng, moves=moves)
        a, b = (toy.masses(last, last.groups[g]) for g, toy in enumerate(toys))
        return np.concatenate([a, b, np.outer(a, b).ravel()])

    a, b = (np.array(list(toy.truth.values())) for toy in toys)
    assert_equal_masses(expectation(run), np.concatenate([a, b, np.outer(a, b).ravel()]))


def test_a_problem_in_a_batch_is_moved_as_it_is_alone_by_seed() -> None:
    problems, sizes = [Problem(limit=2), Problem(limit=6), Problem(limit=5, at_limit="end")], [4, 4, 4]
    for choose, copies in ((None, 1), (shrink(ssp, 2), 2)):
        for seed in range(5):
            *_, batch = _run(problems, sizes, choose, copies, Streams(seed))
            for g, problem in enumerate(problems):
                *_, alone = _run([problem], [4], choose, copies, Streams(seed, group=g))
                assert batch.state.outcomes()[batch.groups[g]] == alone.state.outcomes()
                np.testing.assert_array_equal(batch.log_weight[batch.groups[g]], alone.log_weight)


def _run(problems: Any, sizes: Any, choose: Any, copies: int, rng: Any) -> Any:
    model = TextModel(problems, sizes)
    moves = Rejuvenation(Redraw(model, TextPotential(), 2), 3, choose, copies)
    return smc(model, TextPotential(), n=sizes, resample=adaptive(ssp, 0.7), rng=rng, moves=moves)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_gone_back_to_is_refused_by_name() -> None:
    @dataclass
    class Forgetful(Points):
        keep = None  # type: ignore[assignment]

    class Model:
        def init(self, n: int, rng: Any) -> Points:
            return Forgetful(np.zeros(n, np.int64))

        def step(self, t: int, state: Points, rng: Any) -> Any:
            return Forgetful(state.x, t), np.zeros(len(state))

        def done(self, state: Points) -> np.ndarray:
            return np.full(len(state), state.t == 3)

    toy = tempered(4)
    moves = Rejuvenation(Redraw(Model(), toy.potential, 1), 1)
    with pytest.raises(ArgumentError, match="Forgetful cannot be taken back to"):
        list(smc(Model(), toy.potential, n=2, resample=never, rng=Streams(0), moves=moves))


@pytest.mark.parametrize(
    ("every", "block", "tail", "kept", "due"),
    [
        (4, 4, 0, [1, 4, 8], [4, 8]),
        (4, 1, 0, [3, 7], [4, 8]),
        (3, 2, 0, [1, 4, 7], [3, 6, 9]),
        (4, 2, 1, [(1, 3), (5, 7), (9, 11)], [4, 8]),
        (4, 2, 2, [(1, 2), (4, 6), (8, 10)], [4, 8]),
        (4, 1, 3, [(4, 5), (8, 9)], [8]),
    ],
)
def test_when_populations_are_kept_and_moved_is_fixed_beforehand(every, block, tail, kept, due) -> None:
    toy = tempered(3)
    moves = Rejuvenation(Redraw(toy.model, toy.potential, block, tail), every)
    now = Population(Points(np.zeros(1)), np.zeros(1), np.zeros(1), np.zeros(1) > 0)
    pasts = [(t, moves.start_past(t, now)) for t in range(10)]
    assert [(t, past.until) if tail else t for t, past in pasts if past is not None] == kept
    before = [next((past for _, past in pasts[:t] if past is not None), None) for t in range(10)]
    assert [t for t in range(10) if moves.is_due(t, before[t])] == due
