"""A user's parser as an automaton over tokens: its states are numbered, and masks are walks through the vocabulary."""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.masks import States, TokenMask, pack
from feynkac.potentials.constraints.parsers.calling import Caller

if TYPE_CHECKING:
    from feynkac.potentials.constraints.automata.trie import Trie

_MOVES = 1 << 18  # moves remembered: some 40 MB, and what the user's states take
_ROWS = 4096  # masks remembered: 25 MB for a vocabulary of 49,152 tokens
_TOLD = 40  # bytes of the text behind which something went wrong
_ONE = [bytes([byte]) for byte in range(256)]


def _freeze(state: Any) -> Any:
    """What has the hash that a state may lack: equal for equal lists, dicts and sets, else the state itself."""
    kind = type(state)
    if kind in (list, tuple):
        return kind, tuple(map(_freeze, state))
    if kind is dict:
        return kind, frozenset((key, _freeze(value)) for key, value in state.items())
    if kind is set:
        return kind, frozenset(state)
    return (kind, bytes(state)) if kind is bytearray else state


class Numbering:
    """The states of a parser as integers from 0, the start: equal ones are one, those without a hash are all apart."""

    def __init__(self, caller: Caller, start: Any) -> None:
        self._caller = caller
        self._states: dict[int, Any] = {}
        self._texts: dict[int, bytes] = {}
        self._numbers: dict[Any, int] = {}
        self._moves: dict[int, int] = {}
        self._accepts: dict[int, bool] = {}
        self._held: set[int] = set()
        self._next = 0
        self.hold([self._number(start, b"")])

    def hold(self, numbers: list[int]) -> None:
        """Keep these states for good: particles may stand in them."""
        self._held.update(numbers)

    def follow(self, numbers: NDArray[np.int64], bytes_: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(K,) the states after one byte each; -1 where there is none."""
        keys, inverse = np.unique(numbers * 256 + bytes_, return_inverse=True)
        listed = keys.tolist()
        if new := [key for key in listed if key not in self._moves]:
            self._explore(new)
        after = np.array([self._moves[key] for key in listed], dtype=np.int64)
        return after[inverse.reshape(-1)]

    def accepts(self, numbers: list[int]) -> list[bool]:
        """Whether a text may end in each state."""
        if new := [number for number in dict.fromkeys(numbers) if number not in self._accepts]:
            answers = self._caller.accepts([self._states[n] for n in new], [self._texts[n] for n in new])
            self._accepts.update(zip(new, answers, strict=True))
        return [self._accepts[number] for number in numbers]

    def forget(self) -> None:
        """Drop what can be found again, where it has become much."""
        if len(self._moves) < _MOVES:
            return
        self._moves.clear()
        for table in (self._states, self._texts, self._accepts):
            for number in [number for number in table if number not in self._held]:
                del table[number]
        self._numbers = {key: n for key, n in self._numbers.items() if n in self._held}

    def _explore(self, keys: list[int]) -> None:
        origins, bytes_ = [key >> 8 for key in keys], [_ONE[key & 255] for key in keys]
        texts = [self._texts[origin] for origin in origins]
        found = self._caller.advance([self._states[origin] for origin in origins], bytes_, texts)
        for key, state, text, byte in zip(keys, found, texts, bytes_, strict=True):
            self._moves[key] = -1 if state is None else self._number(state, (text + byte)[-_TOLD:])

    def _number(self, state: Any, text: bytes) -> int:
        try:
            number = self._numbers.setdefault(_freeze(state), self._next)
        except (TypeError, RecursionError):  # of what has no hash, and of lists that hold themselves
            number = self._next
        if number == self._next:
            self._states[number], self._texts[number] = state, text
            self._next += 1
        return number


class ParserAutomaton:
    """A `TokenAutomaton`: a token is allowed where the parser has a state behind all of its bytes.

    Any number of threads may ask.
    """

    start = 0

    def __init__(self, caller: Caller, start: Any, tokens: Trie, eos: tuple[int, ...]) -> None:
        self._numbering, self._tokens, self._lock = Numbering(caller, start), tokens, RLock()
        self._levels = tokens.list_levels()
        self._node = tokens.ends
        self._rows: OrderedDict[int, TokenMask] = OrderedDict()
        ends = np.zeros(tokens.size, dtype=np.bool_)
        ends[list(eos)] = True
        self._eos = pack(ends)

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens, the end-of-sequence tokens among them where the parser accepts."""
        masks = np.zeros((len(states), len(self._eos)), dtype=np.uint32)
        with self._lock:
            for i in np.flatnonzero(states >= 0).tolist():
                masks[i] = self._find_row(int(states[i]))
        masks[self.accepts(states)] |= self._eos
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        known = (states >= 0) & (tokens >= 0) & (tokens < self._tokens.size)
        offset, flat = self._tokens.offset, self._tokens.flat
        at = np.where(known, tokens, 0)
        begin, length = offset[at], np.diff(offset)[at]
        after = np.where(known & (length > 0), states, -1)
        with self._lock:
            self._numbering.forget()
            for k in range(int(length.max(initial=0))):
                going = np.flatnonzero((after >= 0) & (length > k))
                if not len(going):
                    break
                after[going] = self._numbering.follow(after[going], flat[begin[going] + k])
            self._numbering.hold(after[after >= 0].tolist())
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the parser accepts the text so far as it stands."""
        accepts = np.zeros(len(states), dtype=np.bool_)
        with self._lock:
            accepts[states >= 0] = self._numbering.accepts(states[states >= 0].tolist())
        return accepts

    def _find_row(self, state: int) -> TokenMask:
        row = self._rows.pop(state, None)
        if row is None:
            self._numbering.forget()
            at = np.full(len(self._tokens.byte) + 1, -1, dtype=np.int64)
            at[-1] = state
            for nodes, parents in self._levels:
                going = nodes[at[parents] >= 0]
                if not len(going):
                    break
                at[going] = self._numbering.follow(at[parents[at[parents] >= 0]], self._tokens.byte[going])
            allowed = np.zeros(self._tokens.size, dtype=np.bool_)
            allowed[self._tokens.token] = at[self._node] >= 0
            row = pack(allowed)
        self._rows[state] = row
        if len(self._rows) > _ROWS:
            self._rows.popitem(last=False)
        return row
