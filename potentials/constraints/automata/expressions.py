"""Regular expressions, with Python's syntax and meaning: a text is accepted if `re.fullmatch` accepts it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from re import (
    _constants as sre,  # pyright: ignore  # the parser is Python's own, so its syntax is exact
    _parser,  # pyright: ignore
)
from typing import Any

from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten
from feynkac.potentials.constraints.automata.anchors import Anchor
from feynkac.potentials.constraints.automata.characters import match_class
from feynkac.potentials.constraints.automata.nfa import CharDfa, Nfa, TooLarge, determinise

_UNSUPPORTED = {
    sre.ASSERT: ("look-around (?=...), (?<=...)", "spell out what it allows, or add a second constraint"),
    sre.ASSERT_NOT: ("negative look-around (?!...), (?<!...)", "use a negated class [^...], or constraint(f)"),
    sre.GROUPREF: ("back-reference", "spell the alternatives out, or use constraint(f)"),
    sre.GROUPREF_EXISTS: ("conditional group (?(...)...)", "spell the alternatives out"),
    sre.ATOMIC_GROUP: ("atomic group (?>...)", "use a plain group (?:...)"),
    sre.POSSESSIVE_REPEAT: ("possessive quantifier such as *+", "use the plain quantifier"),
}
_ANCHORS = {
    sre.AT_BEGINNING: "^",
    sre.AT_BEGINNING_STRING: r"\A",
    sre.AT_BOUNDARY: r"\b",
    sre.AT_NON_BOUNDARY: r"\B",
    sre.AT_END: "$",
    sre.AT_END_STRING: r"\Z",
}
_NESTING = (sre.SUBPATTERN, sre.MAX_REPEAT, sre.MIN_REPEAT)
_TOO_DEEP = "its groups are nested too deeply for Python's own parser; write it flatter"


def check(pattern: str | re.Pattern[str]) -> tuple[str, int]:
    """The source and the flags of a pattern that has an automaton.

    Raises ArgumentError for no pattern of text, ConstraintError for bad syntax and for what has no automaton.
    """
    source, flags = (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else (pattern, 0)
    if not isinstance(source, str):
        raise ArgumentError(f"regex({quote(pattern)}): give the pattern as str")
    name = shorten(f"regex({quote(source)})")
    try:
        tree = _parser.parse(source, flags)
        _Builder(name, Nfa()).check(tree)
    except (re.error, OverflowError) as error:
        raise ConstraintError(f"{name}: {error}") from None
    except RecursionError:
        raise ConstraintError(f"{name}: {_TOO_DEEP}") from None
    return source, tree.state.flags


def build_dfa(source: str, flags: int) -> CharDfa:
    """The automaton of what `check` returned. Raises ConstraintError if it is too large, or matches nothing."""
    name = shorten(f"regex({quote(source)})")
    tree = _parser.parse(source, flags)
    nfa = Nfa()
    try:
        start = nfa.add_state()
        end = _Builder(name, nfa).add_sequence(tree, start, flags)
        return determinise(nfa, start, end, name)
    except RecursionError:
        raise ConstraintError(f"{name}: {_TOO_DEEP}") from None
    except TooLarge:
        raise ConstraintError(
            f"{name} needs too large an automaton; shorten counted repeats such as {{0,1000}}, split it "
            "into several constraints, or use grammar('start: /.../'), which builds its automaton as it goes"
        ) from None


def add_pattern(nfa: Nfa, state: int, source: str, flags: int, name: str) -> int:
    """Add what `source` matches behind `state` of a larger automaton; its last state.

    Raises ConstraintError by `name` for bad syntax, and for what has no automaton there; raises TooLarge.
    """
    builder = _Builder(name, nfa)
    try:
        tree = _parser.parse(source, flags)
        builder.check(tree)
        if anchor := _find_anchor(tree):
            raise ConstraintError(f"{name}: {anchor} has no meaning within a larger text; leave it out")
        return builder.add_sequence(tree, state, tree.state.flags)
    except (re.error, OverflowError) as error:
        raise ConstraintError(f"{name}: {error}") from None
    except RecursionError:
        raise ConstraintError(f"{name}: {_TOO_DEEP}") from None


def _find_anchor(tree: Any) -> str | None:
    for op, arg in tree:
        if op is sre.AT:
            return _ANCHORS[arg]
        inner = arg[1] if op is sre.BRANCH else [arg[-1]] if op in _NESTING else []
        if found := next(filter(None, map(_find_anchor, inner)), None):
            return found
    return None


class _Builder:
    """Thompson's construction: each method adds a piece of the pattern after `state` and returns its last state."""

    def __init__(self, name: str, nfa: Nfa) -> None:
        self._name = name
        self._nfa = nfa

    def check(self, tree: Any) -> None:
        """Raise ConstraintError for any construct without an automaton, repeats left unexpanded."""
        for op, arg in tree:
            if op in _UNSUPPORTED:
                raise self._refuse(*_UNSUPPORTED[op])
            if op is sre.LITERAL and 0xD800 <= arg < 0xE000:
                raise ConstraintError(
                    f"{self._name}: {quote(chr(arg))} is half of a character, which no text has; write the whole one"
                )
            if op is sre.BRANCH:
                for branch in arg[1]:
                    self.check(branch)
            elif op in _NESTING:
                self.check(arg[-1])

    def add_sequence(self, tree: Any, state: int, flags: int) -> int:
        for op, arg in tree:
            state = self._add_piece(op, arg, state, flags)
        return state

    def _add_piece(self, op: Any, arg: Any, state: int, flags: int) -> int:
        if op is sre.BRANCH:
            return self._add_branches([lambda s, b=branch: self.add_sequence(b, s, flags) for branch in arg[1]], state)
        if op is sre.SUBPATTERN:
            _, added, removed, inner = arg
            return self.add_sequence(inner, state, (flags | added) & ~removed)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):  # greedy or lazy, the same texts match as a whole
            low, high, inner = arg
            return self._add_repeat(inner, low, high, state, flags)
        if op is sre.AT:
            return self._nfa.add_guarded(state, Anchor(_ANCHORS[arg], flags & (re.ASCII | re.MULTILINE)))
        return self._nfa.add_move(state, match_class(op, arg, flags))

    def _add_branches(self, branches: Sequence[Callable[[int], int]], state: int) -> int:
        ends = []
        for branch in branches:
            head = self._nfa.add_state()
            self._nfa.free[state].append(head)
            ends.append(branch(head))
        join = self._nfa.add_state()
        for end in ends:
            self._nfa.free[end].append(join)
        return join

    def _add_repeat(self, inner: Any, low: int, high: Any, state: int, flags: int) -> int:
        for _ in range(low):
            before, state = state, self.add_sequence(inner, state, flags)
            if state == before:  # of nothing there may be billions
                return state
        if high is sre.MAXREPEAT:
            head = self._nfa.add_state()
            self._nfa.free[state].append(head)
            self._nfa.free[self.add_sequence(inner, head, flags)].append(head)
            return head
        skips = [state]
        for _ in range(high - low):
            if (after := self.add_sequence(inner, skips[-1], flags)) == skips[-1]:
                break
            skips.append(after)
        last = self._nfa.add_state()
        for skip in skips:
            self._nfa.free[skip].append(last)
        return last

    def _refuse(self, what: str, advice: str) -> ConstraintError:
        return ConstraintError(f"{self._name}: {what} has no finite automaton here; {advice}")
