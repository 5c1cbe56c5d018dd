"""`wfsa`: weighted finite automata over characters, and regular expressions with weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from numbers import Real
from re import (
    _constants as sre,  # pyright: ignore
    _parser,  # pyright: ignore
    error as WrongSyntax,
)
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten
from feynkac.base.lists import as_dict, as_list
from feynkac.base.unicode import check_unicode
from feynkac.potentials.base import Factor, Product
from feynkac.potentials.constraints.automata.alphabet import build_alphabet
from feynkac.potentials.constraints.automata.characters import Ranges, match_characters
from feynkac.potentials.constraints.automata.nfa import CharDfa, Nfa, TooLarge, determinise, reach_backwards
from feynkac.potentials.constraints.automata.products import unite
from feynkac.potentials.constraints.automata.weights import ChoiceWeights, PathWeights, list_edges
from feynkac.potentials.constraints.texts import TextConstraint, regex
from feynkac.potentials.constraints.tokenwise import read_name
from feynkac.potentials.constraints.weighted import TextWeight

Transition: TypeAlias = "tuple[Hashable, str, Hashable, float]"
_EXAMPLE = "('s', '[a-z]', 's', -0.5)"


@suggest_names()
def wfsa(
    transitions: Iterable[Transition] | Mapping[str | TextConstraint, float],
    start: Hashable | Mapping[Hashable, float] = None,
    final: Hashable | Mapping[Hashable, float] = None,
    *,
    name: str | None = None,
) -> Factor:
    """A weighted automaton: a text weighs the sum over its paths of the product of what their transitions weigh.

        fk.wfsa([("s", "[a-z]", "s", -0.5), ("s", " ", "s", 0.2)], start="s", final="s")
        fk.wfsa({r"\\d{4}": 0.0, r"[a-z]+": -2.0})

    All weights are log-weights in nats, of any sign. The target is p(text) times the weight of the text, whose log is
    `final`; on the way `level` is the log of the sum over the paths of the text so far. Texts without a path are
    masked, exactly: it is the product of a constraint and of a potential that weighs, and combines as they do.

    - `transitions`: (state, character, next state, log-weight). States are any hashable values; a character is a
      regular expression for one, such as "a", "[^e]", r"\\d" or ".". Or else a mapping of regular expressions, or of
      automata such as `phrases(...)`, to a log-weight each: a text weighs the sum of those that it meets as a whole.
    - `start`, `final`: of transitions, the state in which texts begin and that in which they may end, or a mapping of
      such states to their log-weights.

    Where a text has one path only, or few in all have different weights, states are shared and each byte costs a
    look-up; otherwise each text has a vector of its own.

    Raises ArgumentError for transitions, states or weights that are none; ConstraintError for characters that are no
    single ones, and if no text has a path.
    """
    name = read_name(name, "wfsa")
    if isinstance(transitions, Mapping):
        if start is not None or final is not None:
            raise ArgumentError(
                "wfsa({...}): texts of regular expressions begin and end by themselves; leave out start and final"
            )
        return _choose(transitions, name)
    listed = _list_transitions(transitions)
    starts, finals = _list_states("start", start), _list_states("final", final)
    named = name or f"wfsa of {len(listed)} transitions"
    return _Paths(listed, starts, finals, named).make()


class Support(TextConstraint):
    """The texts that have weight. They are not listed: to look ahead by the model's law would forget the weights."""

    list_texts = None  # pyright: ignore[reportAssignmentType]


def _choose(choices: Mapping[Any, float], name: str | None) -> Factor:
    if not choices:
        raise ArgumentError("wfsa({}): give at least one regular expression with its log-weight")
    named = name or shorten(f"wfsa({quote(dict(choices))})")
    weights = {each: _read_weight(weight, f"wfsa({{{quote(each)}: ...}})") for each, weight in choices.items()}
    kept = [(each, weight) for each, weight in weights.items() if weight > -math.inf]
    if not kept:
        raise ConstraintError(f"{named}: all weights are zero, so that no text has weight")
    parts = [each if isinstance(each, TextConstraint) else regex(each) for each, _ in kept]
    dfas = [part.dfa for part in parts]
    mask = Support(named, partial(unite, dfas, named)).prepare()
    weight = TextWeight(ChoiceWeights(dfas, [weight for _, weight in kept]), named)
    return _join(mask, weight.define([part.definition for part in parts], [weight for _, weight in kept]))


class _Paths:
    """An automaton as it is given: named states, and transitions on sets of characters."""

    def __init__(
        self, listed: list[tuple[Hashable, Ranges, Hashable, float]], starts: dict[Hashable, float],
        finals: dict[Hashable, float], name: str,
    ) -> None:  # fmt: skip
        states = dict.fromkeys([*starts, *finals, *(s for a, _, b, _ in listed for s in (a, b))])
        number = {state: i for i, state in enumerate(states)}
        steps: list[list[int]] = [[] for _ in number]
        for origin, _, target, _ in listed:
            steps[number[origin]].append(number[target])
        useful = reach_backwards(steps, [number[state] for state in finals])
        self._name, self._size = name, len(number)
        self._moves = [(number[a], chars, number[b], w) for a, chars, b, w in listed if number[b] in useful]
        self._starts = {number[state]: w for state, w in starts.items() if number[state] in useful}
        self._finals = {number[state]: w for state, w in finals.items()}

    def make(self) -> Factor:
        """The mask and the weight. Raises ConstraintError."""
        mask = Support(self._name, self._build_dfa).prepare()
        weight = TextWeight(self._weigh(), self._name)
        return _join(mask, weight.define(self._moves, self._starts, self._finals))

    def _build_dfa(self) -> CharDfa:
        """The texts that have a path."""
        nfa = Nfa()
        try:
            for _ in range(self._size):
                nfa.add_state()
            for origin, chars, target, _ in self._moves:
                nfa.free[nfa.add_move(origin, chars)].append(target)
            begin, end = nfa.add_state(), nfa.add_state()
            nfa.free[begin] = list(self._starts)
            for state in self._finals:
                nfa.free[state].append(end)
            return determinise(nfa, begin, end, self._name)
        except TooLarge:
            raise ConstraintError(
                f"{self._name}: the automaton of the texts that have weight is too large; use fewer states, or weigh "
                "with a function: reward(f)"
            ) from None

    def _weigh(self) -> PathWeights:
        letters, classes = build_alphabet([chars for _, chars, _, _ in self._moves])
        by_class: list[list[tuple[int, int, float]]] = [[] for _ in range(letters.n_classes)]
        for (origin, _, target, weight), of_chars in zip(self._moves, classes, strict=True):
            for each in of_chars.tolist():
                by_class[each].append((origin, target, weight))
        edges = []
        for found in by_class:
            origins, targets, weight = np.array(found, dtype=np.float64).reshape(-1, 3).T
            edges.append(list_edges(origins.astype(np.int64), targets.astype(np.int64), weight))
        return PathWeights(letters, edges, self._spread(self._starts), self._spread(self._finals))

    def _spread(self, weights: dict[int, float]) -> NDArray[np.float64]:
        spread = np.full(self._size, -np.inf)
        spread[list(weights)] = list(weights.values())
        return spread


def _join(mask: TextConstraint, weight: TextWeight) -> Factor:
    """The mask times the weight, under the name that both have."""
    both = Product([mask, weight])
    both.name = mask.name
    return both


def _list_transitions(given: Any) -> list[tuple[Hashable, Ranges, Hashable, float]]:
    """The transitions that weigh anything, with the characters of each."""
    if (entries := as_list(given)) is None:
        raise ArgumentError(f"wfsa({quote(given)}): give a list of transitions such as {_EXAMPLE}")
    listed: list[tuple[Hashable, Ranges, Hashable, float]] = []
    for each in entries:
        if not isinstance(each, (tuple, list)) or len(each) != 4:
            raise ArgumentError(f"wfsa: {quote(each)} is no transition; write {_EXAMPLE}")
        origin, char, target, weight = each
        for state in (origin, target):
            if not _has_hash(state):
                raise ArgumentError(f"wfsa: the state {quote(state)} has no hash; name states by str or int")
        weight = _read_weight(weight, f"wfsa: of {quote(each)}")
        if weight > -math.inf:
            listed.append((origin, _read_character(char), target, weight))
    return listed


def _list_states(what: str, given: Any) -> dict[Hashable, float]:
    if given is None:
        raise ArgumentError(f"wfsa: name the {what} state, {what}=..., or give a mapping of states to log-weights")
    if (several := as_dict(given)) is not None:
        weights = {
            state: _read_weight(weight, f"wfsa({what}={{{quote(state)}: ...}})") for state, weight in several.items()
        }
        return {state: weight for state, weight in weights.items() if weight > -math.inf}
    if not _has_hash(given):
        raise ArgumentError(f"wfsa({what}={quote(given)}): give one state, or a mapping of several to log-weights")
    return {given: 0.0}


def _has_hash(state: Any) -> bool:
    """Whether it can name a state: a tuple with a list in it cannot, although it is `Hashable`."""
    try:
        hash(state)
    except Exception:
        return False
    return True


def _read_weight(weight: Any, of: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real) or math.isnan(weight) or weight == math.inf:
        raise ArgumentError(f"{of}: the log-weight is {quote(weight)}; give a number of nats, or -inf")
    return float(weight)


def _read_character(char: Any) -> Ranges:
    """The characters that a transition may take. Raises ArgumentError, ConstraintError."""
    if not isinstance(char, str):
        raise ArgumentError(f"wfsa: {quote(char)} is no str; give a character, or a regex for one")
    check_unicode(char, f"wfsa: the character {quote(char)}", ConstraintError)
    try:
        tree = _parser.parse(char)
        one = len(tree) == 1 and tree[0][0] in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
        found = match_characters(char, tree.state.flags) if one else ()
    except (WrongSyntax, OverflowError, RecursionError) as error:
        raise ConstraintError(f"wfsa: {quote(char)} is no regex: {error}") from None
    if not one:
        raise ConstraintError(
            f"wfsa: {quote(char)} is no regex for one character, such as 'a' or '[a-z]'; spell longer texts by "
            "several states, and fold transitions without a character into the others"
        )
    return found
