"""A constraint on what follows a marker: free text first, such as thoughts, and then an answer of a given form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Checks, Reads, has
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten
from feynkac.base.masks import States, TokenAutomaton, TokenConstraint, TokenMask, count_least, mask_within, pack, words
from feynkac.base.numbers import as_whole
from feynkac.base.unicode import check_unicode
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.constraints.canonical import Canonical
from feynkac.potentials.constraints.lazy import Lazy
from feynkac.potentials.constraints.markers import Moves, find_borders, follow, follow_control, make_spelling
from feynkac.potentials.constraints.tokenwise import TokenFactor

_NEVER = 1 << 30
_LONGEST = 128
"""Bytes of a marker, each of which is a state with a row of the vocabulary: a second, and 25 MB, of 49,152 tokens."""
_FEW = 32  # rests of tokens of which it is found out what they leave to be written


class Sequel(TokenFactor):
    """See `after`."""

    def __init__(self, marker: bytes | int, constraint: TokenConstraint, name: str) -> None:
        super().__init__(name)
        self._marker, self._constraint = marker, constraint

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.trie import find_trie  # imports numba, which takes a while

        tokens = find_trie(vocabulary)
        if isinstance(self._marker, bytes):
            borders = find_borders(self._marker)
            moves = [follow(borders, tokens, q) for q in range(len(self._marker))]
        else:
            moves = [follow_control(self._marker, vocabulary, self.name)]
        return SequelAutomaton(moves, vocabulary, self._constraint, self.name)

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether the constraint approves of what follows the marker, where it accepts less than its automaton."""
        if not has(self._constraint, Checks):
            return True
        if isinstance(self._marker, bytes):
            rest = vocabulary.bytes(tokens).partition(self._marker)[2]
        else:
            rest = vocabulary.bytes(list(tokens)[list(tokens).index(self._marker) + 1 :])
        return self._constraint.approves(Vocabulary((rest,)), [0] if rest else [])

    def read(self, text: str) -> Any:
        """The value that the answer in a text stands for. Raises ValueError where there is none."""
        if isinstance(self._marker, int):
            raise ValueError(f"the marker, token {self._marker}, has no text to tell where the answer begins")
        answer = text.partition(self._marker.decode())[2]
        return self._constraint.read(answer) if has(self._constraint, Reads) else json.loads(answer)


class SequelAutomaton:
    """A `TokenAutomaton` in L free states, as many as the marker has bytes, and behind it those of the constraint.

    State q < L: the text ends in the first q bytes of the marker, and in no more of them. From L on: the constraint's
    own states, moved up by L. A token may end the marker and go on; its rest is read by the constraint as the fewest
    tokens that spell it. A rest that no tokens spell is a token of the constraint's vocabulary only.
    """

    start = 0

    def __init__(self, moves: list[Moves], vocabulary: Vocabulary, constraint: TokenConstraint, name: str) -> None:
        self._free, self._size = len(moves), vocabulary.size
        self._after = np.stack([after for after, _ in moves])
        tokens = vocabulary.tokens
        rests = {
            (q, int(token)): tokens[token][used[token] :]
            for q, (after, used) in enumerate(moves)
            for token in np.flatnonzero(after == self._free)
        }
        spell = make_spelling(tokens, set(rests.values()))
        self._rests = {key: spell(rest) for key, rest in rests.items()}
        extra = {rest: ids[0] for rest in rests.values() if (ids := spell(rest)) and ids[0] >= vocabulary.size}
        behind = Vocabulary((*tokens, *sorted(extra, key=extra.__getitem__)), vocabulary.eos) if extra else vocabulary
        self._inner = constraint.automaton(behind)
        enters = {ids: self._enter(ids) >= 0 for ids in set(self._rests.values())}
        for (q, token), ids in self._rests.items():
            if not enters[ids]:
                self._after[q, token] = -1
        self._drop_dead_ends(name)
        self._rows = pack(self._after >= 0)
        self._need: NDArray[np.int64] | None = None

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens; the end-of-sequence tokens only behind the marker."""
        masks = np.zeros((len(states), words(self._size)), dtype=np.uint32)
        free = (states >= 0) & (states < self._free)
        masks[free] = self._rows[states[free]]
        if (behind := states >= self._free).any():
            masks[behind] = self._inner.masks(states[behind] - self._free)[:, : masks.shape[1]]
            masks[behind, -1] &= np.uint32(0xFFFFFFFF) >> np.uint32(-self._size % 32)
        return masks

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, without tokens after which marker and answer take more than `left` (U,)."""
        masks = self.masks(states)
        if (free := (states >= 0) & (states < self._free)).any():
            self._need = self._count_need() if self._need is None else self._need
            masks[free] &= pack(self._need[states[free]] <= left[free, None])
        if (behind := states >= self._free).any():
            # What the constraint leaves out is known by its own masks, which know of more tokens than there are here.
            inner = states[behind] - self._free
            within = ~self._inner.masks(inner) | mask_within(self._inner, inner, left[behind])
            masks[behind] &= within[:, : masks.shape[1]]
        return masks

    def _count_need(self) -> NDArray[np.int64]:
        """(L, V) the tokens that marker and answer take at least from each free state, if they begin with each."""
        need = np.where(self._after < 0, _NEVER, 1).astype(np.int64)
        rests = {key: ids for key, ids in self._rests.items() if self._after[key] == self._free}
        whole, distinct = count_least(self._inner), set(rests.values())
        # Of many rests a bound must do: a rest takes no more off an answer than the tokens that spell it.
        bounds = {ids: max(whole - len(ids), 0) for ids in distinct}
        if whole and len(distinct) <= _FEW:
            bounds = {ids: count_least(self._inner, self._enter(ids)) for ids in distinct}
        for key, ids in rests.items():
            need[key] = 1 + bounds[ids]
        free = (self._after >= 0) & (self._after < self._free)
        least = np.where(free, _NEVER, need).min(axis=1)
        steps = [np.unique(row[on]) for row, on in zip(self._after, free, strict=True)]
        for _ in range(self._free):  # no path to the marker is longer than there are states
            before = least.copy()
            for q, afters in enumerate(steps):
                least[q] = min(least[q], 1 + before[afters].min(initial=_NEVER))
            if (least == before).all():
                break
        need[free] = 1 + least[self._after[free]]
        return need

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        after = np.full(len(states), -1, dtype=np.int64)
        known = (tokens >= 0) & (tokens < self._size)
        free = known & (states >= 0) & (states < self._free)
        after[free] = self._after[states[free], tokens[free]]
        for i in np.flatnonzero(after == self._free):
            after[i] = self._free + self._enter(self._rests[int(states[i]), int(tokens[i])])
        if (behind := known & (states >= self._free)).any():
            inner = self._inner.advance(states[behind] - self._free, tokens[behind])
            after[behind] = np.where(inner >= 0, inner + self._free, -1)
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the marker has come and the constraint accepts what follows it."""
        accepts = np.zeros(len(states), dtype=np.bool_)
        if (behind := states >= self._free).any():
            accepts[behind] = self._inner.accepts(states[behind] - self._free)
        return accepts

    def _enter(self, ids: tuple[int, ...]) -> int:
        """The state of the constraint after the rest of a token; -1 where it is none."""
        # Not kept: an automaton may forget its states, and then finds them again from the start.
        state = np.array([self._inner.start], dtype=np.int64)
        for token in ids:
            if state[0] >= 0:
                state = self._inner.advance(state, np.array([token], dtype=np.int64))
        return int(state[0])

    def _drop_dead_ends(self, name: str) -> None:
        """Forbid the tokens that lead to free states from which the marker cannot come."""
        leads = np.zeros(self._free + 1, dtype=np.bool_)
        leads[-1] = True
        reached = [np.unique(row[row >= 0]) for row in self._after]
        while new := [q for q in range(self._free) if not leads[q] and leads[reached[q]].any()]:
            leads[new] = True
        if not leads[self.start]:
            raise ConstraintError(
                f"{name}: no sequence of this vocabulary's tokens spells the marker and a text that it accepts"
            )
        self._after[~leads[self._after]] = -1


@suggest_names()
def after(marker: str | int, constraint: TokenConstraint) -> Sequel:
    """The texts in which `marker` comes, and what follows it is accepted by `constraint`: thoughts, then an answer.

        fk.after("</think>\\n\\n", fk.json_schema(schema))

    Before the marker's first place the text is free, and cannot end; behind it the constraint alone decides. The marker
    counts wherever its bytes come, however they are cut into tokens; one token may end it and begin the answer. What
    stands between the two, such as a line break, belongs into the marker. A marker that is a control token, which has
    no text, is given by its id. Only what is generated counts, not the prompt.

    Weights are those of the model: what is not allowed goes into the evidence. A text that reaches `max_tokens` before
    the marker has come, or before the answer is whole, has weight zero. Masks see to it that both are begun in time;
    give it room for its thoughts all the same.

    Raises ArgumentError for an empty marker, for one of more than 128 bytes, and for what is no constraint on tokens;
    ConstraintError, when it is compiled, if no tokens spell the marker, or as the constraint does.
    """
    spelt = _read_marker(marker)
    _check_constraint(constraint)
    return Sequel(spelt, constraint, f"after({quote(marker, 60)}, {shorten(constraint.name)})")


def _read_marker(marker: Any) -> bytes | int:
    """The bytes of a marker, or its id."""
    id = as_whole(marker)
    if not isinstance(marker, str):
        if id is None or id < 0:
            raise ArgumentError(f"after({quote(marker)}, ...): give the marker as text, or the id of a control token")
        return id
    if marker == "":
        raise ArgumentError("after('', ...): the marker is empty; use the constraint itself")
    check_unicode(marker, "the marker")
    spelt = marker.encode()
    if len(spelt) > _LONGEST:
        raise ArgumentError(
            f"after({quote(marker)}, ...): the marker has {len(spelt):,} bytes, and may have {_LONGEST}; give "
            "its end, or a part that comes nowhere else"
        )
    return spelt


def _check_constraint(constraint: Any) -> None:
    """Raises ArgumentError for what cannot stand behind a marker."""
    if not isinstance(constraint, TokenConstraint):
        shown = quote(constraint)
        raise ArgumentError(
            f"after(..., {shown}): give one constraint on tokens, such as json_schema(...). A product is "
            "written after(m, a) * after(m, b), and a function as constraint(lambda text: f(text.partition(m)[2]))"
        )
    if isinstance(constraint, Lazy):
        raise ArgumentError(
            f"after(..., {constraint.name}): a lazy constraint gives no masks to put behind a marker. Let its function "
            "find the marker: lazy(lambda text: f(text.partition(m)[2]))"
        )
    if isinstance(constraint, Canonical):
        raise ArgumentError(
            f"after(..., {constraint.name}): what is canonical is told of the tokens of a whole text, and a marker may "
            "end within one. Hold the whole text to it: after(...) * canonical()"
        )
