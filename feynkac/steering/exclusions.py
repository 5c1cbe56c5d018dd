"""Which constraints no text meets at once, where they can tell, or where one of them lists its texts."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feynkac.base.capabilities import Contradicts, Lists, has, list_factors
from feynkac.base.errors import ConstraintError, Contradiction
from feynkac.base.masks import TokenAutomaton, TokenConstraint
from feynkac.base.vocabulary import Vocabulary
from feynkac.smc.checks import name_of
from feynkac.steering.problems import name_problem

_TEXTS = 50
"""Listed texts up to which all are asked about."""
_STATES = 2_000
"""States in the spellings of all texts together up to which they are walked: three seconds under a grammar."""
_SOON = 20_000
"""Places in a product of automata that are looked at before a run: 0.15 seconds where that does not suffice.

Several problems share them, but each has `_LEAST`."""
_LEAST = 300
Ids = Mapping[bytes, Sequence[int]]
"""The tokens that have each text."""


def refuse_contradiction(potentials: Sequence[Any]) -> None:
    """Raise Contradiction if no text meets some constraints at once, as far as that is soon found out.

    `potentials`: what weighs each problem of a call. Constraints that several problems have are looked at once.
    """
    most = max(_SOON // len(potentials), _LEAST)
    known: dict[tuple[int, ...], bool] = {}
    for g, potential in enumerate(potentials):
        if excluded := _find_disjoint(potential, most, known):
            raise Contradiction(name_problem(g, len(potentials)) + _name_all(excluded))


def find_contradiction(potential: Any, vocabulary: Vocabulary | None = None) -> str | None:
    """Which constraints no text meets at once; `vocabulary`: that of a language model, if it is one.

    None where some text meets them, and where it is not known.
    """
    excluded = _find_disjoint(potential) or (_find_excluded(potential, vocabulary) if vocabulary is not None else None)
    return None if excluded is None else _name_all(excluded)


def _name_all(excluded: Sequence[Any]) -> str:
    named = " and ".join(repr(name_of(each)) for each in excluded)
    which = "both" if len(excluded) == 2 else "all of"
    return f"no text at all meets {which} {named}; loosen one of them (a blank at the start, perhaps?)"


def _find_disjoint(
    potential: Any, most: int | None = None, known: dict[tuple[int, ...], bool] | None = None
) -> tuple[Any, ...] | None:
    """Factors that no text meets at once; `known`: whether those of these ids are such, written to as it is found."""
    known = {} if known is None else known
    factors = [factor for factor in list_factors(potential) if has(factor, Contradicts)]
    for group in [*itertools.combinations(factors, 2), *([tuple(factors)] if len(factors) > 2 else [])]:
        key = tuple(id(factor) for factor in group)
        if key not in known:
            known[key] = group[0].shares_text(group[1:], most) is False
        if known[key]:
            return group
    return None


def _find_excluded(potential: Any, vocabulary: Vocabulary) -> tuple[Any, ...] | None:
    """A constraint that lists its texts, and those that exclude them all."""
    masking = [factor for factor in list_factors(potential) if isinstance(factor, TokenConstraint)]
    if len(masking) < 2 or not any(has(factor, Lists) for factor in masking):
        return None
    ids: defaultdict[bytes, list[int]] = defaultdict(list)
    for token in np.flatnonzero(vocabulary.with_text).tolist():
        ids[vocabulary.tokens[token]].append(token)
    for listing in masking:
        texts = listing.list_texts(_TEXTS) if has(listing, Lists) else None
        others = {id(other): other.automaton(vocabulary) for other in masking if other is not listing}
        killers = None if texts is None else _find_killers(texts, others, ids)
        if killers:
            return listing, *(other for other in masking if id(other) in killers)
    return None


def _find_killers(texts: Sequence[str], automata: Mapping[int, TokenAutomaton], ids: Ids) -> set[int] | None:
    """The keys of automata that exclude all `texts` between them; None where some text may meet all."""
    killers: set[int] = set()
    most = _STATES // max(len(texts), 1)
    for text in texts:
        # Those that have excluded others are asked first, so that few are named.
        keys = sorted(automata, key=lambda key: key not in killers)
        try:
            killer = next((key for key in keys if excludes(automata[key], text.encode(), ids, most)), None)
        except ConstraintError:  # an engine gave up
            return None
        if killer is None:
            return None
        killers.add(killer)
    return killers


def excludes(automaton: TokenAutomaton, text: bytes, ids: Ids, most: int = _STATES) -> bool:
    """Whether no spelling of a text by tokens is accepted, for certain: all are walked, if in `most` states at most."""
    longest, walked = max(map(len, ids), default=0), 0
    reached: list[set[int]] = [{automaton.start}, *(set[int]() for _ in text)]
    for at in range(len(text)):
        states = np.array(sorted(reached[at]), dtype=np.int64)
        walked += len(states)
        if walked > most:
            return False
        for end in range(at + 1, min(len(text), at + longest) + 1 if len(states) else at):
            for token in ids.get(text[at:end], ()):
                after = automaton.advance(states, np.full(len(states), token, dtype=np.int64))
                reached[end].update(after[after >= 0].tolist())
    return not reached[-1] or not automaton.accepts(np.array(sorted(reached[-1]), dtype=np.int64)).any()
