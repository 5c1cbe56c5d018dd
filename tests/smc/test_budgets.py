"""Budgets are values that name what is wrong with them; what counts them ends a run, and says at which limit."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.smc.budgets import Budget, Spending, TokenCount
from feynkac.smc.engine import Step
from feynkac.smc.observers import run


@dataclass
class Counted:
    """A state that counts tokens."""

    forwarded: list[int] | None


def step(t: int, state: Any = None, problems: int = 1) -> Step:
    groups = tuple(slice(g, g + 1) for g in range(problems))
    zeros, rows = np.zeros(problems), np.arange(problems)
    return Step(t, state, zeros, zeros, rows, (False,) * problems, zeros > 0, groups, groups)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "without a limit"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": -1.0}, r"seconds is -1\.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": "3"}, "seconds is '3'"),
        ({"seconds": True}, "seconds is True"),
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": 10.0}, r"tokens is 10\.0"),
        ({"tokens": "many"}, "tokens is 'many'"),
        ({"calls": -3}, "calls is -3"),
        ({"calls": True}, "calls is True"),
    ],
)
def test_a_limit_that_is_none_is_refused_by_name(limits, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        Budget(**limits)


def test_numbers_of_numpy_are_limits() -> None:
    budget = Budget(seconds=np.float32(0.5), tokens=np.int64(7), calls=np.int8(2))
    assert budget == Budget(0.5, 7, 2) and type(budget.tokens) is int and type(budget.seconds) is float


def test_each_limit_ends_a_run_with_the_step_that_reaches_it_and_is_named() -> None:
    steps = [step(t, Counted([3 * (t + 1)])) for t in range(9)]
    ticks = iter(range(0, 100, 2))
    for spending, last, said in (
        (Spending(Budget(calls=3)), 2, "budget of 3 calls was used up, after 3 of the model"),
        (Spending(Budget(calls=1)), 0, "budget of 1 call was used up, after 1 of the model"),
        (Spending(Budget(tokens=10)), 3, "budget of 10 tokens was used up: 12 went through the model"),
        (Spending(Budget(seconds=7), clock=lambda: next(ticks)), 3, "budget of 7 seconds was used up: 8.00 seconds"),
        (Spending(Budget(tokens=27, calls=9)), 8, "27 tokens"),
        (Spending(Budget(seconds=1e6)), 8, None),
        (Spending(), 8, None),
    ):
        assert run(iter(steps), spending).t == last
        assert said in spending.why if said else spending.why is None


def test_another_thread_ends_a_run_after_its_next_step() -> None:
    halt = Event()
    spending = Spending(halt=halt)
    assert not spending(step(0))
    halt.set()
    assert spending(step(1)) and spending.why == "the run was cancelled"


def test_tokens_of_runs_that_follow_one_another_add_up() -> None:
    """Each sweep of particle Gibbs has a state of its own, which counts from zero."""
    sweeps = [step(t, Counted([4 + t, t])) for _ in range(3) for t in range(3)]
    count, spending = TokenCount(), Spending(Budget(tokens=20))
    assert [count(each) for each in sweeps] == [4, 6, 8, 12, 14, 16, 20, 22, 24]
    assert [spending(each) for each in sweeps].index(True) == 6


def test_tokens_of_a_model_that_does_not_count_them_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"tokens=5.*'object' does not count tokens.*seconds= or calls="):
        Spending(Budget(tokens=5))(step(0, object()))
    with pytest.raises(ArgumentError, match="tokens of 2 problems in one batch are not known"):
        Spending(Budget(tokens=5))(step(0, Counted(None), 2))
    assert not Spending(Budget(tokens=5))(step(0, Counted(None)))  # nothing has gone through a model yet


def test_shares_of_a_budget_are_no_more_than_the_whole_and_at_least_one() -> None:
    assert Budget(tokens=10, calls=2).divide(3) == Budget(tokens=3, calls=1)
    assert Budget(seconds=1.0, calls=9).divide(2) == Budget(calls=4)
    assert Budget(seconds=1.0).divide(2) is None
