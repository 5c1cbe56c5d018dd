"""Parsers of a user's own: exact masks, states that are shared where they are equal, and mistakes told by name."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ConstraintError, PotentialError
from feynkac.base.masks import unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import parser
from feynkac.potentials.constraints.parsers import automaton as parsed
from tests.interrupts import Interrupt

BRACKETS = Vocabulary((b"(", b")", b"()", b"))", b"a", b"", b"(("), (5,))


def depth_after(depth: int, byte: bytes) -> int | None:
    depth += {b"(": 1, b")": -1}.get(byte, 0)
    return depth if 0 <= depth <= 3 else None


def closes(text: bytes) -> bool:
    depth = 0
    for k in range(len(text)):
        after = depth_after(depth, text[k : k + 1])
        if after is None:
            return False
        depth = after
    return depth == 0


class Functions:
    """A parser that is told its state."""

    start = 0

    def advance(self, state: int, byte: bytes) -> int | None:
        return depth_after(state, byte)

    def accepts(self, state: int) -> bool:
        return state == 0


@dataclass(frozen=True)
class Itself:
    """A parser that is its own state."""

    depth: int = 0

    def advance(self, byte: bytes) -> Itself | None:
        after = depth_after(self.depth, byte)
        return None if after is None else replace(self, depth=after)

    def accepts(self) -> bool:
        return self.depth == 0


def stack_after(stack: list[bytes], byte: bytes) -> list[bytes] | None:
    after = depth_after(len(stack), byte)
    return None if after is None else [b"("] * after


PARSERS = {
    "functions": lambda: parser(depth_after, start=0, accepts=lambda depth: depth == 0),
    "an object": lambda: parser(Functions()),
    "an object that is its state": lambda: parser(Itself()),
    "states without a hash": lambda: parser(stack_after, start=[], accepts=lambda stack: not stack),
    "unwatched": lambda: parser(depth_after, start=0, accepts=lambda depth: np.bool_(depth == 0), timeout=None),
    "a pickle": lambda: pickle.loads(pickle.dumps(parser(Functions()))),
}


@pytest.mark.parametrize("kind", PARSERS)
def test_masks_of_a_parser_are_exact(explore: Any, kind: str) -> None:
    # Each bracket can be closed, so that a state behind a token is a way to acceptance.
    explore(PARSERS[kind]().automaton(BRACKETS), BRACKETS).check(closes, depth=4)


def test_what_is_forgotten_is_found_again(explore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_MOVES", 3)
    monkeypatch.setattr(parsed, "_ROWS", 1)
    for kind in ("functions", "states without a hash"):
        explore(PARSERS[kind]().automaton(BRACKETS), BRACKETS).check(closes, depth=3)


def test_states_that_particles_have_left_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_MOVES", 20)
    monkeypatch.setattr(parsed, "_HELD", 10)
    vocabulary, one, two = Vocabulary((b"a", b"b", b""), (2,)), np.array([0]), np.array([0, 0])
    numbers = parser(lambda state, byte: state + byte, start=b"", accepts=lambda state: True, timeout=None).automaton(
        vocabulary
    )
    states, numbering = [one], numbers._numbering
    for _ in range(60):
        states.append(numbers.advance(states[-1], one))
        assert numbers.masks(states[-1]).any()
        assert (numbers.advance(np.array([0, states[-1][0]]), two) >= 0).all()  # the start is never forgotten
        assert max(map(len, (numbering._states, numbering._texts, numbering._numbers, numbering._accepts))) <= 40
    assert numbering._states[int(states[-1][0])] == b"a" * 60
    with pytest.raises(ConstraintError, match="older than 10 others; run fewer particles"):
        numbers.advance(states[5], one)


def test_an_interrupt_behind_any_call_leaves_the_numbers_of_states_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_MOVES", 6)

    def walk(automaton: Any) -> list[Any]:
        told, states = [], np.array([0])
        for token in (0, 0, 1, 6, 3):
            told.append((automaton.masks(states).tolist(), automaton.accepts(states).tolist()))
            states = automaton.advance(states, np.array([token]))
        return [*told, (states >= 0).tolist()]

    def make() -> Any:
        return parser(Functions(), timeout=None).automaton(BRACKETS)

    whole, file = make(), "parsers/automaton.py"
    counting = Interrupt(None, file)
    wanted = counting.run(lambda: walk(whole))
    for at in range(0, counting.calls, 3):
        automaton = make()
        with pytest.raises(KeyboardInterrupt):
            Interrupt(at, file).run(lambda automaton=automaton: walk(automaton))
        assert walk(automaton) == wanted, f"interrupted behind call {at}"


def test_a_parser_without_accepts_accepts_wherever_it_is(explore: Any) -> None:
    vocabulary = Vocabulary((b"a", b"ab", b"b", b""), (3,))

    def no_b_twice(last: bytes | None, byte: bytes) -> bytes | None:
        return None if last == byte == b"b" else byte

    explore(parser(no_b_twice).automaton(vocabulary), vocabulary).check(lambda text: b"bb" not in text, depth=4)


def test_equal_states_are_asked_about_a_byte_once(smollm2: Any) -> None:
    """On a real vocabulary: exact masks, from 256 calls for each of two states, and none after that."""
    from tokenizers import Tokenizer

    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_file(str(smollm2 / "tokenizer.json")), eos=[0, 2])

    def one_e(seen: int, byte: bytes) -> int | None:
        return min(seen + (byte == b"e"), 2) if byte < b"\x80" and seen + (byte == b"e") < 3 else None

    constraint = parser(one_e, start=0, accepts=lambda seen: seen == 2)
    automaton, states = constraint.automaton(vocabulary), np.zeros(1, np.int64)
    found = unpack(automaton.masks(states), vocabulary.size)[0]
    ascii_only = np.array([bool(token) and token.isascii() for token in vocabulary.tokens])
    few = np.array([token.count(b"e") <= 2 for token in vocabulary.tokens])
    np.testing.assert_array_equal(found, ascii_only & few)
    assert 0 < constraint.calls <= 3 * 256 + 3
    before = constraint.calls
    began = time.process_time()
    automaton.masks(np.array([0]))
    after = automaton.advance(np.array([0, 0]), np.array([int(np.flatnonzero(found)[0])] * 2))
    assert after[0] == after[1] >= 0 and constraint.calls == before and time.process_time() - began < 1.0


def test_a_parser_steers(tiny_lm: Any) -> None:
    constraint = parser(lambda n, byte: n + 1 if byte == b"a" else None, 0, lambda n: n % 2 == 0, name="even a")
    result = fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=6), constraint, particles=32, seed=0)
    assert set(result.posterior()) <= {"", "aa", "aaaa", "aaaaaa"} and constraint.name == "even a"


class Counter:
    """Its state changes where a new one was due."""

    def __init__(self) -> None:
        self.seen = [0]

    def advance(self, byte: bytes) -> Counter:
        self.seen[0] += 1
        return self


def raises(state: Any, byte: bytes) -> Any:
    if byte == b")":
        raise KeyError("no such bracket")
    return state


def appends(state: list[bytes], byte: bytes) -> list[bytes]:
    state.append(byte)
    return state


def sleeps(state: Any, byte: bytes) -> Any:
    time.sleep(1.0 if byte == b"a" else 0.0)
    return 0


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: parser(raises, 7), r"'parser\(raises\)': advance\(7, b'\)'\), behind the text b'', raised KeyError"),
        (lambda: parser(lambda state, byte: True), r"returned True; return the state after the byte, or None"),
        (lambda: parser(lambda state, byte: byte != b"a"), r"returned (True|False); return the state"),
        (lambda: parser(appends, []), r"advance\(\[.*changed the state that it was given"),
        (lambda: parser(Counter()), r"'parser\(Counter\)': .*changed the state that it was given"),
        (lambda: parser(sleeps, 0, timeout=0.2), r"advance\(0, b'a'\).* takes longer than 0.2 s"),
        (lambda: parser(depth_after, 0, lambda state: 1), r"accepts\(0\), .*returned 1; return True or False"),
        (lambda: parser(depth_after, 0, lambda state: 1 / state == 1), r"accepts\(0\), .*raised ZeroDivisionError"),
    ],
    ids=[
        "raises",
        "returns True",
        "returns a bool",
        "appends",
        "changes itself",
        "hangs",
        "accepts 1",
        "accepts raises",
    ],
)
def test_what_a_parser_does_wrong_is_told_with_state_byte_and_text(make: Any, problem: str) -> None:
    with pytest.raises(PotentialError, match=problem):
        make().automaton(BRACKETS).masks(np.array([0]))


def test_the_text_behind_which_it_went_wrong_is_told() -> None:
    automaton = parser(lambda n, byte: n + 1 + 0 // (4 - n), 0).automaton(BRACKETS)
    with pytest.raises(PotentialError, match=r"advance\(4, b'\)'\), behind the text b'\(a\(a', raised ZeroDivision"):
        state = np.zeros(1, np.int64)
        for token in (0, 4, 0, 4, 1):
            state = automaton.advance(state, np.array([token]))


def test_an_error_of_a_parser_reaches_steer_with_its_cause(tiny_lm: Any) -> None:
    constraint = parser(lambda n, byte: {0: 1, 1: 2}[n], 0)
    with pytest.raises(PotentialError, match=r"parser\(<lambda>\).*raised KeyError: 2") as error:
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=6), constraint, particles=4, seed=0)
    assert isinstance(error.value.__cause__, KeyError)


def test_what_may_change_may_change(explore: Any) -> None:
    """A value that is computed once and kept is no change; nor is an object without an equality of its own."""

    class Lazy:
        def __init__(self, depth: int) -> None:
            self.depth, self.parts = depth, [object()]

        def advance(self, byte: bytes) -> Lazy | None:
            self.__dict__.setdefault("known", depth_after(self.depth, b"a"))
            after = depth_after(self.depth, byte)
            return None if after is None else Lazy(after)

        def accepts(self) -> bool:
            return self.depth == 0

    explore(parser(Lazy(0)).automaton(BRACKETS), BRACKETS).check(closes, depth=3)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: parser(Functions), "that is a class; give an instance"),
        (lambda: parser(3), "3 is no function"),  # type: ignore[arg-type]
        (lambda: parser(lambda byte: byte), r"advance\(state, byte\) is called so"),  # type: ignore[arg-type]
        (lambda: parser(depth_after, 0, lambda: True), r"accepts\(state\) is called so"),  # type: ignore[arg-type]
        (lambda: parser(Functions(), start=3), "brings its own start and accepts"),
        (lambda: parser(depth_after, timeout=0), "timeout is 0; give seconds, or None"),
        (lambda: parser(depth_after, timeout=True), "timeout is True; it must be a number .* or None"),
        (lambda: parser(depth_after, name=3), r"name=3\): give a string"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_parser_is_refused_where_it_is_given(make: Any, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        make()


def test_an_async_parser_is_refused() -> None:
    async def later(state: Any, byte: bytes) -> Any:
        return state

    with pytest.raises(ArgumentError, match="cannot be async"):
        parser(later)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda depth: [depth],
        lambda depth: {"depth": depth},
        lambda depth: {depth},
        lambda depth: bytearray([depth]),
        lambda depth: ("a", [{"depth": [depth]}]),
    ],
)
def test_equal_states_of_lists_dicts_and_sets_are_one(wrap: Any) -> None:
    depths = [wrap(depth) for depth in range(4)]

    def advance(state: Any, byte: bytes) -> Any:
        after = depth_after(depths.index(state), byte)
        return None if after is None else wrap(after)

    made = parser(advance, wrap(0), lambda state: state == wrap(0))
    plain = parser(depth_after, 0, lambda depth: depth == 0)
    automaton, known = made.compile(BRACKETS), plain.compile(BRACKETS)
    states = np.zeros(1, dtype=np.int64)
    for token in (0, 2, 6, 3, 1):
        np.testing.assert_array_equal(automaton.masks(states), known.masks(states))
        states = automaton.advance(states, np.array([token]))
    assert states.tolist() == [0]
    assert made.calls == plain.calls


def test_states_that_hold_themselves_are_apart() -> None:
    def advance(state: list[Any], byte: bytes) -> list[Any]:
        after: list[Any] = []
        after.append(after)
        return after

    automaton = parser(advance, []).compile(BRACKETS)
    assert automaton.advance(np.zeros(1, dtype=np.int64), np.array([4])).tolist() != [-1]


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"parser\(name=3\): give a string"):
        parser(depth_after, 0, name=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match=r"wfsa\(name=3\): give a string"):
        fk.wfsa({"a": 1.0}, name=3)  # pyright: ignore[reportArgumentType]
