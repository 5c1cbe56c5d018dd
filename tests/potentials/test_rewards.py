"""Rewards and constraints by function: levels against hand computations, and what is refused."""

from __future__ import annotations

import functools
import itertools
import math
import re
import types
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.potentials import as_potential, constraint, reward
from feynkac.potentials.rewards.boundaries import boundaries
from feynkac.potentials.rewards.scoring import Scorer

NONE = -np.inf


def grow(potential: Any, population: Any, growing: Sequence[str]) -> list[float]:
    """Levels of one row whose text takes these values, one a step."""
    state, levels = population([growing[0]]), []
    for t, text in enumerate(growing):
        state.rows[0] = text
        levels.append(float(potential.level(t, state, np.array([0]))[0]))
    return levels


SCORES = {"": 0, "b": 3, "b a": 1, "b a ": 1, "b a c": 2, "b a cd e": -4, "b a cd": 5, "b a cd e. Fg h": 7,
          "b a cd e.": 6, "b a cd e. Fg": 8}  # fmt: skip
GROWING = ["b", "b a", "b a ", "b a c", "b a cd e", "b a cd e. Fg h"]


@pytest.mark.parametrize(
    ("kind", "every", "expected"),
    [
        ("difference", "token", [3, 1, 1, 2, -4, 7]),
        ("max", "token", [3, 3, 3, 3, 3, 7]),
        ("sum", "token", [3, 4, 5, 7, 3, 10]),
        # Word ends: "b", "b a", "b a cd", "b a cd e.", "b a cd e. Fg"; the last two come in one step.
        ("difference", "word", [0, 3, 1, 1, 5, 8]),
        ("max", "word", [0, 3, 3, 3, 5, 8]),
        ("sum", "word", [0, 3, 4, 4, 9, 23]),
        ("difference", "sentence", [0, 0, 0, 0, 0, 6]),
        ("sum", "sentence", [0, 0, 0, 0, 0, 6]),
        ("difference", 2, [0, 1, 1, 2, 2, 7]),
        ("max", 3, [0, 0, 1, 1, 1, 7]),
        ("sum", 2, [0, 1, 1, 3, 3, 10]),
        ("difference", range(2, 5), [0, 1, 1, 2, 2, 2]),
        ("max", (1, 4, 6), [3, 3, 3, 3, 3, 7]),
        ("sum", [5, 2], [0, 1, 1, 1, -3, -3]),
        ("difference", "end", [0, 0, 0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_levels_of_rewards(population: Any, kind: Any, every: Any, expected: list[float], batch: bool) -> None:
    asked: list[str] = []

    def score(text: str) -> float:
        asked.append(text)
        return SCORES[text]

    def scores(texts: list[str]) -> Any:
        assert texts and len(set(texts)) == len(texts)
        return np.array([score(text) for text in texts])

    potential = reward(scores if batch else score, scale=0.5, kind=kind, every=every, batch=batch)
    assert grow(potential, population, GROWING) == [0.5 * level for level in expected]
    final = potential.final(population(["b a", "b a cd", "b a"]), np.array([0, 1, 2]))
    assert final.tolist() == [0.5, 2.5, 0.5]
    if every == "word" and kind != "difference":
        assert asked[:-2] == ["b", "b a", "b a cd", "b a cd e.", "b a cd e. Fg"], "each boundary is scored once"
    if every == "word" and kind == "difference":
        assert asked[:-2] == ["b", "b a", "b a cd", "b a cd e. Fg"], "a boundary that is passed over is not scored"


def test_the_zero_before_the_first_boundary_has_no_part_in_the_maximum(population: Any) -> None:
    potential = reward(lambda text: -len(text), kind="max", every="word")
    assert grow(potential, population, ["a", "a ", "a b", "a b "]) == [0, -1, -1, -1]


def test_minus_infinity_kills_under_every_kind(population: Any) -> None:
    for kind in ("difference", "max", "sum"):
        potential = reward(lambda text: NONE if text == "b" else 1, kind=kind)  # type: ignore[arg-type]
        assert grow(potential, population, ["a", "b"])[1] == NONE


def test_a_negative_scale_multiplies_the_maximum(population: Any) -> None:
    potential = reward(len, scale=-1.0, kind="max")
    assert grow(potential, population, ["aa", "aa", "aaa"]) == [-2, -2, -3]


def test_minus_infinity_kills_whatever_the_scale(population: Any) -> None:
    for scale in (2.0, 0.0, -1.0):
        for kind in ("difference", "sum"):
            potential = reward(lambda text: NONE if text == "b" else 1, scale=scale, kind=kind)  # type: ignore[arg-type]
            assert grow(potential, population, ["a", "b"]) == [scale, NONE]
            assert potential.final(population(["b", "a"]), np.arange(2)).tolist() == [NONE, scale]


def test_each_distinct_text_is_scored_once_a_step(population: Any) -> None:
    asked: list[str] = []
    potential = reward(lambda text: asked.append(text) or len(text))
    levels = potential.level(0, population(["a", "bb", "a", "a", "bb"]), np.array([4, 0, 2, 1]))
    assert levels.tolist() == [2, 1, 1, 2]
    assert sorted(asked) == ["a", "bb"]


def test_a_forked_population_keeps_what_it_has_seen(population: Any) -> None:
    total = reward(len, kind="sum")
    state = population(["a", "bb", "ccc"])
    total.level(0, state, np.arange(3))
    child = state.fork([1, 1, 2])
    child.rows = ["bbx", "bb", "c"]
    assert total.level(1, child, np.arange(3)).tolist() == [2 + 3, 2 + 2, 3 + 1]
    assert total.level(1, state, np.arange(3)).tolist() == [1 + 1, 2 + 2, 3 + 3], "parents are not touched"
    words = reward(len, kind="sum", every="word")
    state = population(["a b ", "c ", "d"])
    assert words.level(0, state, np.arange(3)).tolist() == [1 + 3, 1, 0]
    child = state.fork([2, 0, 0])
    child.rows = ["d ", "a b c ", "a b"]
    assert words.level(1, child, np.arange(3)).tolist() == [1, 4 + 5, 4]


def test_one_potential_in_two_runs_at_once(population: Any) -> None:
    total = reward(len, kind="sum")
    one, two = population(["a"]), population(["bbbb"])
    rows = np.array([0])
    assert [float(total.level(0, state, rows)[0]) for state in (one, two, one, two)] == [1, 4, 2, 8]


TEXT = st.text("ab .!?\n'”)。」é", max_size=14)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXT, st.lists(st.integers(0, 14), max_size=6), st.sampled_from(["word", "sentence"]))
def test_boundaries_do_not_depend_on_how_a_text_was_cut(text: str, cuts: list[int], every: Any) -> None:
    whole, found, last = boundaries(text, 0, every), [], 0
    for cut in [*sorted(cuts), len(text)]:
        new = boundaries(text[:cut], last, every)
        found += new
        last = found[-1] if found else 0
    assert found == whole
    assert all(a < b for a, b in itertools.pairwise(whole))


def test_boundaries() -> None:
    assert boundaries("ab  c\nd", 0, "word") == [2, 5]
    assert boundaries('He said "No." Yes... Ok', 0, "sentence") == [13, 20]
    assert boundaries("3.14 is pi\nand so on", 0, "sentence") == [10]
    assert boundaries("你好。再见。", 0, "sentence") == [3]


def test_constraints_by_function(population: Any) -> None:
    state, rows = population(["ab", "b", "ab"]), np.arange(3)
    at_end = constraint(lambda text: "a" in text)
    assert at_end.level(0, state, rows).tolist() == [0, 0, 0]
    assert at_end.final(state, rows).tolist() == [0, NONE, 0]
    by_token = constraint(lambda text: np.bool_("a" not in text), every="token")
    assert by_token.level(0, state, rows).tolist() == [NONE, 0, NONE]
    by_word = constraint(lambda text: not text.endswith("x"), every="word")
    assert grow(by_word, population, ["x", "xy", "xy xx", "xy xx z"]) == [0, 0, 0, NONE]
    two_at_once = constraint(lambda text: text != "x", every="word")
    assert grow(two_at_once, population, ["x y z"]) == [NONE], "no boundary is passed over"


def test_constraints_of_all_texts_at_once(population: Any) -> None:
    state, rows = population(["ab", "b", "ab"]), np.arange(3)
    asked: list[list[str]] = []

    def have_a(texts: list[str]) -> Any:
        asked.append(texts)
        return np.array(["a" in text for text in texts])

    assert constraint(have_a, batch=True).final(state, rows).tolist() == [0, NONE, 0]
    assert asked == [["ab", "b"]]
    with pytest.raises(PotentialError, match="row 1, text 'b', returned int 1; a constraint returns True or False"):
        constraint(lambda texts: [True, 1], batch=True).final(state, rows)


def test_plain_functions(population: Any) -> None:
    state, rows = population(["ab", "b"]), np.arange(2)
    number = as_potential(lambda text: len(text))
    assert number.level(0, state, rows).tolist() == number.final(state, rows).tolist() == [2, 1]
    asked: list[str] = []

    def has_a(text: str) -> bool:
        asked.append(text)
        return "a" in text

    truth = as_potential(has_a)
    assert truth.level(0, state, rows).tolist() == truth.level(1, state, rows).tolist() == [0, 0]
    assert len(asked) == 2, "once it has answered by bool, only whole texts are asked about"
    assert truth.final(state, rows).tolist() == [0, NONE]


class OnDevice:
    """A number that only `float` can read, as of a library that keeps it elsewhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


@pytest.mark.parametrize(
    "value",
    [
        np.float32(2),
        np.float16(2),
        np.array(2.0),
        np.array([2]),
        np.ones((1, 1)),
        True,
        2,
        Decimal("2.5"),
        Fraction(1, 2),
        OnDevice(3.0),
    ],
)
def test_what_counts_as_a_number(population: Any, value: Any) -> None:
    number = value.item() if isinstance(value, np.ndarray) else float(value)
    assert reward(lambda text: value).final(population(["a"]), np.array([0]))[0] == number


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_with_one_entry_is_a_number_of_any_precision(population: Any, dtype: str, shape: Any) -> None:
    torch = pytest.importorskip("torch")
    state, rows = population(["a", "b"]), np.arange(2)
    value = torch.ones(shape, dtype=getattr(torch, dtype))
    assert reward(lambda text: value).final(state, rows).tolist() == [1, 1]
    assert reward(lambda texts: [value] * len(texts), batch=True).final(state, rows).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_batch_of_any_precision_may_have_a_column(population: Any, dtype: str, shape: Any) -> None:
    """As a reward model with one output returns it."""
    torch = pytest.importorskip("torch")
    state, rows = population(["a", "b"]), np.arange(2)
    values = torch.tensor([1, 2], dtype=getattr(torch, dtype)).reshape(shape)
    assert reward(lambda texts: values, batch=True).final(state, rows).tolist() == [1, 2]
    assert reward(lambda texts: [Decimal(1), Decimal(2)], batch=True).final(state, rows).tolist() == [1, 2]
    assert reward(lambda texts: np.array([[1], [2]]), batch=True).final(state, rows).tolist() == [1, 2]
    keeps = constraint(lambda texts: torch.tensor([[True], [False]]), batch=True)
    assert keeps.final(state, rows).tolist() == [0, NONE]


def test_a_column_keeps_its_gradient() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3, 2, requires_grad=True)
    for batch, f in ((True, lambda x: x.sum(1, keepdim=True)), (False, lambda x: x.sum().reshape(1))):
        scores = Scorer(f, "f", batch=batch).score_tensors(x, None, np.arange(3))
        assert scores.shape == (3,) and scores.dtype == torch.float64
        assert torch.autograd.grad(scores.sum(), x)[0].tolist() == [[1.0, 1.0]] * 3


async def later(text: str) -> float:
    return 1.0


class Later:
    async def __call__(self, text: str) -> float:
        return 1.0


async def one_by_one(text: str) -> Any:
    yield 1.0


@pytest.mark.parametrize("f", [later, Later(), functools.partial(later), lambda text: later(text)])
def test_an_async_function_is_awaited(population: Any, f: Any) -> None:
    state, rows = population(["a", "b", "a"]), np.arange(3)
    for potential in (reward(f), as_potential(f)):
        assert potential.level(0, state, rows).tolist() == potential.final(state, rows).tolist() == [1, 1, 1]


def test_an_async_generator_is_refused_where_it_is_given() -> None:
    for give in (reward, constraint, as_potential):
        with pytest.raises(ArgumentError, match=r"'one_by_one' is an async generator.*Write return instead of yield"):
            give(one_by_one)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (
            lambda prompt, text: 0.0,
            r"takes \(prompt, text\), and is called with one argument, the sample .*'text'.*problem",
        ),
        (lambda: 0.0, r"takes \(\), and is called with one argument"),
        (lambda text, *, model: 0.0, r"takes \(text, \*, model\), .*'model'.* Fix the others: lambda sample:"),
    ],
)
def test_a_function_of_more_than_the_sample_is_refused_where_it_is_given(f: Any, message: str) -> None:
    for give in (reward, constraint, as_potential):
        with pytest.raises(ArgumentError, match=message):
            give(f)


@pytest.mark.parametrize(
    "f", [len, str.islower, lambda text, strict=True: 1.0, lambda *texts: 1.0, math.isnan, dict().get]
)
def test_every_function_that_takes_one_argument_is_taken(f: Any) -> None:
    reward(f)
    constraint(f)


def test_numbers_of_numpy_say_how_often_and_how_much(population: Any) -> None:
    potential = reward(len, np.float32(0.5), every=np.int64(2))  # type: ignore[arg-type]
    assert grow(potential, population, ["a", "ab", "abc", "abcd"]) == [0, 1, 1, 2]


def test_tensors_are_taken(population: Any) -> None:
    torch = pytest.importorskip("torch")
    state, rows = population(["a", "bb"]), np.arange(2)
    one = reward(lambda text: torch.tensor(float(len(text)), requires_grad=True))
    assert one.final(state, rows).tolist() == [1, 2]
    many = reward(lambda texts: torch.tensor([float(len(text)) for text in texts], requires_grad=True), batch=True)
    assert many.final(state, rows).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "returned nan; return a finite number, or -inf to kill a particle"),
        (float("inf"), "returned inf; return"),
        (None, "returned None; return a number"),
        ("3", "returned str '3'; return a number"),
        (np.str_("3"), "returned str '3'; return a number"),
        (np.datetime64("2020-01-01"), "returned date .*; return a number"),
        (10**400, "returned int 1000.*; return a number that fits a float"),
        (Decimal("sNaN"), "returned Decimal .*; return a number that fits a float"),
        (1j, "returned complex 1j; return a number"),
        ([1.0], r"returned list \[1.0\]; return a number"),
        (np.ones(2), r"returned ndarray of shape \(2,\); return a number"),
    ],
)
def test_what_is_no_score_is_refused_by_name(population: Any, value: Any, problem: str) -> None:
    def judge(text: str) -> Any:
        return value if text == "bad" * 40 else 0.0

    state = population(["good", "good", "bad" * 40])
    for potential in (reward(judge), as_potential(judge)):
        with pytest.raises(PotentialError, match=rf"judge\)?' at step 7, row 2, text 'bad.* \.\.\. .*bad', {problem}"):
            potential.level(7, state, np.array([0, 2]))
        with pytest.raises(PotentialError, match=r"judge.* at the end, row 2"):
            potential.final(state, np.array([0, 2]))
    batch = reward(lambda texts: [judge(text) for text in texts], batch=True)
    with pytest.raises(PotentialError, match=rf"at the end, row 2, text 'bad.* {problem}"):
        batch.final(state, np.array([0, 2]))


def test_a_function_that_raises_is_named_with_its_cause(population: Any) -> None:
    def judge(text: Any) -> float:
        raise KeyError("boo")

    state, rows = population(["abc"]), np.array([0])
    with pytest.raises(
        PotentialError, match=r"'reward\(judge\)' at step 3, row 0, text 'abc', raised KeyError"
    ) as error:
        reward(judge).level(3, state, rows)
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(PotentialError, match="asked about 1 texts, raised KeyError") as error:
        reward(judge, batch=True).level(3, state, rows)
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], 1.0, None, "ab", np.ones((3, 2)), {1.0, 2.0}, {1: 1, 2: 2},
                                   types.MappingProxyType({1: 1, 2: 2})])  # fmt: skip
def test_batches_of_the_wrong_shape_are_refused(population: Any, value: Any) -> None:
    with pytest.raises(
        PotentialError, match=r"'reward\(<lambda>\)' at step 0.*return (one number for each sample|a number)"
    ):
        reward(lambda texts: value, batch=True).level(0, population(["a", "b"]), np.arange(2))


def test_constraints_return_bool(population: Any) -> None:
    for value in (1, None, 0.5, "yes"):
        with pytest.raises(PotentialError, match="returns True or False"):
            constraint(lambda text, value=value: value).final(population(["a"]), np.array([0]))  # type: ignore[arg-type]


def test_states_without_text_or_memory(population: Any) -> None:
    class Latents:
        def __len__(self) -> int:
            return 1

    with pytest.raises(
        PotentialError, match=r"'reward\(len\)' is a function of texts or of decoded samples, and Latents has neither"
    ):
        reward(len).final(Latents(), np.array([0]))
    state = population(["a"])
    del state.memory
    with pytest.raises(PotentialError, match="no `memory`"):
        reward(len, kind="sum").level(0, state, np.array([0]))


def test_bad_arguments() -> None:
    for wrong, problem in [
        (lambda: reward(3), "a function of the sample"),  # type: ignore[arg-type]
        (lambda: reward(len, kind="diff"), "'difference', 'max', 'sum'"),  # type: ignore[arg-type]
        (lambda: reward(len, every="line"), "'token', 'word', 'sentence', 'end', or a number of steps.*re.compile"),  # type: ignore[arg-type]
        (lambda: reward(len, every=0), "at least 1"),
        (lambda: reward(len, every=""), "a separator without letters"),
        (lambda: reward(len, every=re.compile(b"x")), "a pattern is one of bytes|one of bytes"),  # type: ignore[arg-type]
        (lambda: reward(len, workers=0), "workers"),
        (lambda: reward(len, timeout=0), "timeout is 0"),
        (lambda: reward(len, timeout=float("nan")), "timeout"),
        (lambda: reward(len, retries=-1), "retries"),
        (lambda: reward(len, on_error="skip"), "'raise', 'kill' or 'retry'"),  # type: ignore[arg-type]
        (lambda: reward(len, batch=True, on_error="kill"), "kill every particle"),
        (lambda: reward(len, batch=True, workers=4), "cannot divide"),
        (lambda: reward(len, label="POSITIVE"), r"reward\(len\): tokenizer, label.*this is none"),
        (lambda: reward(len, every=True), "at least 1"),
        (lambda: reward(len, scale=float("inf")), "finite"),
        (lambda: reward(len, scale="2"), "finite"),  # type: ignore[arg-type]
        (lambda: constraint(bool, every="step"), "choose one of"),  # type: ignore[arg-type]
        (lambda: constraint("abc"), "a function of the sample"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ArgumentError, match=problem):
            wrong()
