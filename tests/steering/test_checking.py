"""`feynkac.check` on walks: each kind of mistake, planted in what was right, is told; all that is ours is right."""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import pack
from feynkac.potentials.base import product
from feynkac.potentials.constraints.tokenwise import TokenFactor
from feynkac.potentials.tempering import tempered
from feynkac.steering.checking.exactness import check_evidence, find_evidence
from feynkac.steering.checking.report import Report

OURS = {
    "regex": lambda: [fk.regex("a?[ab]*")],
    "choices": lambda: [fk.choices(["ab", "b", "aab"])],
    "length": lambda: [fk.length(min=2, max=3, unit="char")],
    "tokens": lambda: [fk.tokens(ban=[2])],
    "grammar": lambda: [fk.grammar("start: /[ab]{1,3}/")],
    "after": lambda: [fk.after("b", fk.regex("a*"))],
    "difference": lambda: [fk.reward(lambda text: 0.3 * text.count("a"))],
    "max": lambda: [fk.reward(lambda text: 0.3 * text.count("a"), kind="max")],
    "sum": lambda: [fk.reward(lambda text: 0.3 * text.count("a"), kind="sum")],
    "at the end": lambda: [fk.reward(lambda text: 0.3 * len(text), every="end")],
    "constraint": lambda: [fk.constraint(lambda text: "a" in text)],
    "power": lambda: [fk.power(2.0)],
    "power of a reward": lambda: [fk.reward(lambda text: 0.3 * text.count("a")) ** 0.5],
    "tempered": lambda: [tempered(fk.reward(lambda text: 0.3 * len(text)), lambda t: min(1.0, t / 2))],
    "product": lambda: [fk.regex("[ab]*") * fk.reward(len) * fk.length(max=2, unit="token"), lambda text: -0.1],
    "none": lambda: [],
}


@pytest.fixture(scope="module")
def lm(tiny_lm) -> Any:
    return functools.cache(tiny_lm)("a", "b", seed=3)


@pytest.mark.parametrize("name", OURS)
def test_our_potentials_are_right(lm, name: str) -> None:
    report = fk.check(lm.prompt("a", max_tokens=3), *OURS[name]())
    assert report.faults == []
    assert any(line.startswith("E[Z] = Z") for line in report.passed)


def test_json_schemas_are_right(tiny_lm) -> None:
    lm = tiny_lm("1", "2", "[", "]", ",")
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    report = fk.check(lm.prompt("1", max_tokens=4), fk.json_schema(schema))
    assert report.faults == []


class OfText:
    """exp(0.3 per a), by the text alone."""

    def worth(self, text: str) -> float:
        return 0.3 * text.count("a")

    def level(self, t: int, state: Any, rows: Any) -> Any:
        return np.array([self.worth(text) for text in state.texts(rows)])

    def final(self, state: Any, rows: Any) -> Any:
        return np.array([self.worth(text) for text in state.texts(rows)])


class KillsEarly(OfText):
    def level(self, t: int, state: Any, rows: Any) -> Any:
        return np.array([-math.inf if text.startswith("b") else self.worth(text) for text in state.texts(rows)])


class OfTheBatch(OfText):
    def level(self, t: int, state: Any, rows: Any) -> Any:
        return super().level(t, state, rows) - len(rows)


class OfTheOrder(OfText):
    def level(self, t: int, state: Any, rows: Any) -> Any:
        return np.sort(super().level(t, state, rows))


class Writing(OfText):
    def level(self, t: int, state: Any, rows: Any) -> Any:
        state.log_prob[rows] -= 1.0
        return super().level(t, state, rows)


class WritingRows(OfText):
    def final(self, state: Any, rows: Any) -> Any:
        values = super().final(state, rows)
        rows[:] = 0
        return values


class Drawing(OfText):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def final(self, state: Any, rows: Any) -> Any:
        return self.rng.normal(size=len(rows))


class Infinite(OfText):
    def final(self, state: Any, rows: Any) -> Any:
        return np.full(len(rows), np.inf)


class Hanging(OfText):
    def __init__(self) -> None:
        self.end = threading.Event()

    def final(self, state: Any, rows: Any) -> Any:
        self.end.wait(30)
        return np.zeros(len(rows))


class Guided(OfText):
    def guide(self, frontier: Any) -> Any:
        worth = frontier.logits * 0
        worth[:, 1] = 0.3
        return worth


class GuidedByGuess(Guided):
    def guide(self, frontier: Any) -> Any:
        return super().guide(frontier) * 2


class GuidedAway(Guided):
    def guide(self, frontier: Any) -> Any:
        worth = super().guide(frontier)
        worth[:, 2] = -math.inf
        return worth


class GuidedNowhere(Guided):
    def guide(self, frontier: Any) -> Any:
        return super().guide(frontier) * math.nan


class Anything:
    """All texts are accepted; state 0."""

    start = 0

    def __init__(self, vocabulary: Any) -> None:
        self.allowed = vocabulary.with_text | vocabulary.ends

    def masks(self, states: Any) -> Any:
        return np.tile(pack(self.allowed), (len(states), 1))

    def advance(self, states: Any, tokens: Any) -> Any:
        return np.where(self.allowed[tokens], states, -1)

    def accepts(self, states: Any) -> Any:
        return states >= 0


def change(**methods: Any) -> Any:
    """A constraint whose automaton is `Anything`, with other methods."""
    kind = type("Automaton", (Anything,), {k: v for k, v in methods.items() if k not in ("final", "level")})
    outside = {k: v for k, v in methods.items() if k in ("final", "level")}
    return type("Planted", (TokenFactor,), {"compile": lambda self, v: kind(v), **outside})("planted")


def forbid_a(self: Any, vocabulary: Any) -> None:
    self.allowed = (vocabulary.with_text | vocabulary.ends) & (np.arange(len(vocabulary)) != 1)


def zeros(self: Any, *args: Any) -> Any:
    return np.zeros(len(args[-1]))


def forbid_b_silently(self: Any, states: Any) -> Any:
    allowed = self.allowed.copy()
    allowed[2] = False
    return np.tile(pack(allowed), (len(states), 1))


def forbid_ends(self: Any, states: Any) -> Any:
    allowed = self.allowed.copy()
    allowed[0] = False
    return np.tile(pack(allowed), (len(states), 1))


def die_of_b(self: Any, states: Any, tokens: Any) -> Any:
    return np.where(tokens == 2, 7, states)


def dead_at_seven(self: Any, states: Any) -> Any:
    return np.where(np.asarray(states)[:, None] == 7, np.uint32(0), np.tile(pack(self.allowed), (len(states), 1)))


PLANTED: dict[str, tuple[Any, str]] = {
    "a level of -inf where some continuation has weight": (KillsEarly, "goes on from there: -inf promises"),
    "a value that depends on the size of the batch": (OfTheBatch, "asked of this row alone"),
    "a value that depends on the order of rows": (OfTheOrder, "asked of this row alone"),
    "a state that is written to": (Writing, "wrote to the `log_prob` of the state"),
    "rows that are written to": (WritingRows, "wrote to the rows that it was given"),
    "random numbers of its own": (Drawing, "the same seed gave other weights"),
    "a final of +inf": (Infinite, "returned inf for row"),
    "a guide that forbids what has weight": (GuidedAway, "forbids the token b'b' that leads to"),
    "a guide of NaN": (GuidedNowhere, "guide"),
    "a mask that forbids what final accepts": (
        lambda: change(__init__=forbid_a, final=zeros), "are lost from the target"
    ),
    "a mask bit that is unset though the token leads on": (
        lambda: change(masks=forbid_b_silently), "forbids the token b'b'"
    ),
    "an end of sequence that is unset though the text is accepted": (
        lambda: change(masks=forbid_ends), "end of sequence"
    ),
    "a mask that leads to nowhere": (
        lambda: change(advance=die_of_b, masks=dead_at_seven), "from which nothing accepted"
    ),
    "a mask that lets end what final rejects": (
        lambda: change(final=lambda self, state, rows: np.log([float(len(x) != 1) for x in state.texts(rows)])),
        "its final gives -inf for it",
    ),
    "a mask that lets in what level rejects": (
        lambda: change(level=lambda self, t, state, rows: np.log([float("b" not in x) for x in state.texts(rows)])),
        "gives -inf for it; one of both is wrong",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_planted_is_told(lm, kind: str) -> None:
    make, told = PLANTED[kind]
    report = fk.check(lm.prompt("a", max_tokens=3), make(), particles=8)
    assert told in " | ".join(report.faults), report


def test_a_guide_that_is_a_guess_is_no_fault(lm) -> None:
    task = lm.prompt("a", max_tokens=3)
    assert any("the guide of 'Guided' is how its level changes" in line for line in fk.check(task, Guided()).passed)
    report = fk.check(task, GuidedByGuess(), particles=8)
    assert report.faults == [] and any("guide is a guess" in line for line in report.notes)


def test_a_potential_that_hangs_is_named_with_its_line(lm) -> None:
    began = time.monotonic()
    hanging = Hanging()
    report = fk.check(lm.prompt("a", max_tokens=3), hanging, timeout=0.5)
    hanging.end.set()  # no other test is to run beside the thread that is left behind
    assert time.monotonic() - began < 20
    assert "'Hanging'.final, now at line" in report.faults[-1] and "more than 0.5 s" in report.faults[-1]


class Lists:
    """Rows as Python lists of numbers."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def fork(self, rows: Any) -> Lists:
        return type(self)([list(self.rows[i]) for i in rows])

    def samples(self, rows: Any) -> list[list[int]]:
        return [list(self.rows[i]) for i in rows]


class Sharing(Lists):
    def fork(self, rows: Any) -> Lists:
        return Sharing([self.rows[i] for i in rows])


class Coins:
    """Fair coins, added in place."""

    def __init__(self, kind: type[Lists] = Lists, longest: int = 3) -> None:
        self.kind, self.longest = kind, longest

    def init(self, n: int, rng: Any) -> Any:
        return self.kind([[] for _ in range(n)])

    def step(self, t: int, state: Any, rng: Any) -> Any:
        for row, up in zip(state.rows, rng.uniform(len(state)) < 0.5, strict=True):
            row.append(int(bool(up)))
        return state, np.zeros(len(state))

    def done(self, state: Any) -> Any:
        return np.array([len(row) >= self.longest for row in state.rows])


class Heads:
    def level(self, t: int, state: Any, rows: Any) -> Any:
        return 0.5 * np.array([sum(state.rows[i]) for i in rows])

    final = lambda self, state, rows: self.level(0, state, rows)  # noqa: E731


def read_late(coins: list[int]) -> float:
    """A number that the last coins say most of."""
    return sum(coin * 0.5 ** (len(coins) - i) for i, coin in enumerate(coins))


class Remembering:
    """Keeps by the number of a row what belongs to the row."""

    def __init__(self, fold: Any) -> None:
        self.fold = fold
        self.kept: dict[int, float] = {}

    def level(self, t: int, state: Any, rows: Any) -> Any:
        for row in rows.tolist():
            value = read_late(state.rows[row])
            self.kept[row] = value if t == 0 else self.fold(self.kept[row], value)
        return np.array([self.kept[row] for row in rows.tolist()])

    def final(self, state: Any, rows: Any) -> Any:
        return np.zeros(len(rows))


class Remembered(Lists):
    """Lists, and beside them what a potential keeps."""

    def __init__(self, rows: list[list[int]], kept: list[list[float]] | None = None) -> None:
        super().__init__(rows)
        self.kept = [[] for _ in rows] if kept is None else kept

    def fork(self, rows: Any) -> Remembered:
        return type(self)([list(self.rows[i]) for i in rows], [self.copy(self.kept[i]) for i in rows])

    copy = staticmethod(list)


class SharingMemory(Remembered):
    copy = staticmethod(lambda kept: kept)


class RememberingInTheState(Remembering):
    def level(self, t: int, state: Any, rows: Any) -> Any:
        for row in rows:
            state.kept[row].append(read_late(state.rows[row]))
        return np.array([functools.reduce(self.fold, state.kept[row]) for row in rows])


FOLDS = {"sum": lambda a, b: a + b, "max": max, "last but one": lambda a, b: 2 * b - a}


@pytest.mark.parametrize("fold", FOLDS)
def test_a_memory_that_does_not_fork_is_told(fold: str) -> None:
    """With the number of rows that `check` takes unless it is told otherwise, by any seed."""
    for seed in range(25):
        report = fk.check(Coins(longest=5), Remembering(FOLDS[fold]), seed=seed)
        assert "must fork with it" in " | ".join(report.faults), (seed, report)


@pytest.mark.parametrize("fold", FOLDS)
def test_a_memory_that_siblings_share_is_told(fold: str) -> None:
    for seed in range(10):
        told = " | ".join(fk.check(Coins(SharingMemory, 5), RememberingInTheState(FOLDS[fold]), seed=seed).faults)
        assert "children must share nothing" in told or "must fork with it" in told or "wrote to the `kept`" in told
        right = fk.check(Coins(Remembered, 5), RememberingInTheState(FOLDS[fold]), seed=seed)
        assert all("wrote to the `kept`" in fault for fault in right.faults), right


class Aside:
    """What no copy shows: a number for each row, which is known by its place."""

    def __init__(self, n: int) -> None:
        self.last = [0] * n


class HiddenState(Lists):
    """A state whose rows go on from a number that is not copied with them."""

    def __init__(self, rows: list[list[int]], aside: Aside | None = None) -> None:
        super().__init__(rows)
        self.aside = Aside(len(rows)) if aside is None else aside

    def fork(self, rows: Any) -> HiddenState:
        return HiddenState([list(self.rows[i]) for i in rows], self.aside)


class Following(Coins):
    """Each coin is the one before, turned or not."""

    def step(self, t: int, state: Any, rng: Any) -> Any:
        for i, (row, turned) in enumerate(zip(state.rows, rng.uniform(len(state)) < 0.5, strict=True)):
            state.aside.last[i] ^= int(bool(turned))
            row.append(state.aside.last[i])
        return state, np.zeros(len(state))


def test_what_a_state_hides_must_fork_with_its_rows() -> None:
    for seed in range(25):
        told = " | ".join(fk.check(Following(HiddenState, 5), Heads(), seed=seed).faults)
        assert "let `fork` copy all that belongs to a row" in told, (seed, told)


def test_a_program_that_keeps_outside_what_belongs_to_a_run_is_told() -> None:
    kept: list[float] = [0.0]

    @fk.program
    def leaks(p: Any) -> float:
        kept[0] = p.sample(fk.Normal(0.0, 1.0))
        p.sample(fk.Bernoulli(0.5))
        return kept[0]

    @fk.program
    def keeps(p: Any) -> float:
        mine = p.sample(fk.Normal(0.0, 1.0))
        p.sample(fk.Bernoulli(0.5))
        return mine

    for seed in range(5):
        assert "children must share nothing" in " | ".join(fk.check(leaks(), seed=seed).faults)
        assert fk.check(keeps(), seed=seed).faults == []


def test_a_batch_of_problems_is_refused(lm) -> None:
    batch = lm.prompt("a", max_tokens=2).join([lm.prompt("b", max_tokens=2)])
    assert "check them one by one" in " | ".join(fk.check(batch, fk.regex("[ab]*")).faults)


def test_children_that_share_what_is_written_to_are_told() -> None:
    assert fk.check(Coins(), Heads()).faults == []
    assert "children must share nothing" in " | ".join(fk.check(Coins(Sharing), Heads()).faults)


def test_an_evidence_with_another_mean_is_told() -> None:
    class Gaining(Coins):
        """What `prepare` may have made of a model: each step is weighed a little too much."""

        def step(self, t: int, state: Any, rng: Any) -> Any:
            state, increment = super().step(t, state, rng)
            return state, increment + 0.1

    told = {}
    for made in (Coins(), Gaining()):
        report = Report()
        check_evidence(report, Coins(), lambda made=made: made, product(Heads()), 4, 8, 0)
        told[type(made)] = report
    assert told[Coins].faults == [] and "E[Z] = Z" in told[Coins].passed[0]
    assert "standard errors off" in told[Gaining].faults[0]


def test_the_sum_over_all_samples_is_that_of_the_closed_form() -> None:
    log_z = find_evidence(Coins(), product(Heads()), 8)
    assert log_z == pytest.approx(3 * math.log((1 + math.exp(0.5)) / 2), abs=1e-12)


def test_a_model_too_large_to_be_listed_is_said_to_be() -> None:
    assert any("too large to be listed" in line for line in fk.check(Coins(longest=12), Heads(), steps=12).notes)


def test_a_time_out_that_is_not_positive_is_refused() -> None:
    with pytest.raises(fk.ArgumentError, match="timeout"):
        fk.check(Coins(), timeout=0)
