"""An automaton over tokens whose moves are found one at a time, by asking."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import States, TokenMask, pack
from feynkac.potentials.constraints.checked.leads import Leads, find_lead
from feynkac.potentials.constraints.checked.readers import REJECTED, Reader

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

_MOVES = 1 << 17  # verdicts on a state and a token that are kept: 20 MB
_VALUES = 1 << 13  # states whose values are kept, or four times as many as are asked about at once
_UNKNOWN = -2  # of a move that was not asked about
_NO_MOVE = -1  # of a token without a text, and from a state that is none
_PATHS = 1 << 22  # states whose tokens are kept: 64 MB at most


class CheckedAutomaton:
    """A `TokenAutomaton` (and `ChecksTokens`) that asks about a token in a state once, and remembers the verdict.

    Texts with equal values share a state. All memory is bounded: verdicts are dropped when there are many, and asked
    for again; a value that was dropped is found again from the tokens that led to it. Any number of threads may ask;
    the user's functions are called without a lock. What is remembered saves calls, and changes no verdict.
    """

    start = 0

    def __init__(self, reader: Reader, vocabulary: Vocabulary, draws: int) -> None:
        self.draws = draws
        self._reader = reader
        self._tokens = vocabulary.tokens
        self._is_end, self._has_text = vocabulary.ends, vocabulary.with_text
        self._speaks = vocabulary.with_text.tobytes()  # of one token faster than an array, as are lists of a row or two
        self._row = pack(vocabulary.with_text | vocabulary.ends)
        self._lock = RLock()
        self._moves = OrderedDict[int, int]()
        """The state after each state and token, as one number; -1 where it may not come."""
        self._leads = Leads()
        self._ends = OrderedDict[int, bool]()
        self._values = OrderedDict[int, Any]()
        self._states = OrderedDict[Hashable, int]()
        """The states by the keys of their values."""
        self._parent, self._last = np.zeros(1024, np.int64), np.zeros(1024, np.int64)
        self._count = 1

    def candidates(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) all tokens that have a text, and the ends of a sequence."""
        return np.where((states >= 0)[:, None], self._row, np.uint32(0))

    def check(self, states: States, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(R,) whether each token may come next from each state. Raises PotentialError."""
        accepted = self.advance(states, tokens) >= 0
        if (ends := self._is_end[tokens]).any():
            accepted[ends] = self.accepts(states[ends])
        return accepted

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) what may come next, by asking about every token. Raises PotentialError."""
        asked = np.flatnonzero(self._has_text)
        alone, leads = self._singles
        masks = np.zeros((len(states), len(self._is_end)), np.bool_)
        for mask, state in zip(masks, states.tolist(), strict=True):
            self.advance(np.full(len(alone), state), alone)
            with self._lock:
                unknown = self._leads.list_unknown(state, leads)
            self._ask_leads([(state, lead) for lead in unknown])
            mask[asked] = self.advance(np.full(len(asked), state), asked) >= 0
        masks[self.accepts(states)] |= self._is_end
        return pack(masks)

    @cached_property
    def _singles(self) -> tuple[NDArray[np.int64], list[bytes]]:
        """The tokens that are one character, and all characters with which tokens begin."""
        leads = {int(token): find_lead(self._tokens[token]) for token in np.flatnonzero(self._has_text)}
        alone = [token for token, lead in leads.items() if lead == self._tokens[token]]
        return np.array(alone, np.int64), sorted({*leads.values()} - {b""})

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where it may not come. Raises PotentialError."""
        n = len(self._tokens)
        moves = [
            state * n + token if state >= 0 and 0 <= token < n and self._speaks[token] else _NO_MOVE
            for state, token in zip(states.tolist(), tokens.tolist(), strict=True)
        ]
        found = self._move(moves)
        return np.array([found[move] for move in moves], np.int64)

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far may end. Raises PotentialError."""
        with self._lock:
            known = {state: self._ends.get(state) for state in states.tolist()}
        asked = [state for state, ends in known.items() if ends is None and state >= 0]
        values = [self._find_value(state) for state in asked]
        found = self._reader.ends(values, lambda i: self._spell(asked[i]))
        with self._lock:
            known.update(zip(asked, found, strict=True))
            self._ends.update(zip(asked, found, strict=True))
            _forget(self._ends, max(_VALUES, 4 * len(known)))
        return np.array([known[state] is True for state in states.tolist()], np.bool_)

    def _move(self, moves: Sequence[int]) -> dict[int, int]:
        """The states after `moves`; new ones are asked about, each once."""
        with self._lock:
            after = {move: -1 if move == _NO_MOVE else self._moves.get(move, _UNKNOWN) for move in moves}
            new = [move for move, state in after.items() if state == _UNKNOWN]
            pairs = [divmod(move, len(self._tokens)) for move in new]
            refused = [self._leads.refuses(state, self._tokens[token]) for state, token in pairs]
            after.update((move, -1) for move, known in zip(new, refused, strict=True) if known)
        pairs = [pair for pair, known in zip(pairs, refused, strict=True) if not known]
        if not pairs:
            return after
        values = [self._find_value(state) for state, _ in pairs]
        tokens = [self._tokens[token] for _, token in pairs]
        found = self._reader.extend(values, tokens, lambda k: self._spell(pairs[k][0], tokens[k]))
        with self._lock:
            for (state, token), value in zip(pairs, found, strict=True):
                move = state * len(self._tokens) + token
                after[move] = self._moves[move] = -1 if value is REJECTED else self._add(state, token, value)
            _forget(self._moves, max(_MOVES, len(moves)))
            for kept in (self._values, self._states):
                _forget(kept, max(_VALUES, 4 * len(moves)))
            asked = self._leads.note(
                (state, token, value is not REJECTED)
                for (state, _), token, value in zip(pairs, tokens, found, strict=True)
            )
        self._ask_leads(asked)
        return after

    def _ask_leads(self, asked: Sequence[tuple[int, bytes]]) -> None:
        """Ask about the first characters of tokens that were rejected."""
        if not asked:
            return
        values = [self._find_value(state) for state, _ in asked]
        leads = [lead for _, lead in asked]
        found = self._reader.extend(values, leads, lambda k: self._spell(*asked[k]))
        with self._lock:
            for (state, lead), value in zip(asked, found, strict=True):
                self._leads.learn(state, lead, value is not REJECTED)

    def _add(self, parent: int, token: int, value: Any) -> int:
        """The state of a value, which is new unless one of its key is known."""
        key = self._reader.key(value)
        known = -1 if key is None else self._states.get(key, -1)
        if known >= max(0, self._count - _PATHS // 2):  # an older one is given a new number, before it is forgotten
            self._states.move_to_end(key)
            return known
        if self._count == len(self._parent) < _PATHS:
            self._parent, self._last = (np.concatenate([t, np.zeros_like(t)]) for t in (self._parent, self._last))
        state = self._count
        self._count += 1
        self._parent[state % len(self._parent)], self._last[state % len(self._parent)] = parent, token
        self._values[state] = value
        if key is not None:
            self._states[key] = state
        return state

    def _find_value(self, state: int) -> Any:
        """The value of a state; one that was dropped is made again, from the last one before it that was not."""
        path = list[tuple[int, int]]()
        with self._lock:
            at = state
            while at > 0 and at not in self._values:
                if self._is_forgotten(at):
                    raise ConstraintError(
                        f"a particle's state is older than {_PATHS} others; run fewer particles at a time"
                    )
                path.append((at, int(self._last[at % len(self._last)])))
                at = int(self._parent[at % len(self._parent)])
            value = self._values[at] if at > 0 else self._reader.start
        for reached, token in reversed(path):
            value = self._reader.restore(value, self._tokens[token], lambda _, at=reached: self._spell(at))
        if state > 0:
            with self._lock:
                self._values[state] = value
                self._values.move_to_end(state)
        return value

    def _is_forgotten(self, state: int) -> bool:
        return state < self._count - len(self._parent)

    def _spell(self, state: int, more: bytes = b"") -> str:
        """The text of a state and some more bytes, as far back as it is known."""
        ids = list[int]()
        with self._lock:
            while state > 0 and not self._is_forgotten(state):
                ids.append(int(self._last[state % len(self._last)]))
                state = int(self._parent[state % len(self._parent)])
        text = b"".join([*(self._tokens[i] for i in ids[::-1]), more]).decode("utf-8", "replace")
        return text if state <= 0 else f"... {text}"


def _forget(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
