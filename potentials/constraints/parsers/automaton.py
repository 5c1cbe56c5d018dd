"""A user's parser as an automaton over tokens: its states are numbered, and masks are walks through the vocabulary."""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import States, TokenMask, pack
from feynkac.potentials.constraints.parsers.calling import Caller

if TYPE_CHECKING:
    from feynkac.potentials.constraints.automata.trie import Trie

_MOVES = 1 << 18  # moves remembered: some 40 MB, and what the user's states take
_HELD = 1 << 18  # states kept that particles may stand in, or as many as one call has
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
    """The states of a parser as integers from 0, the start: equal ones are one, those without a hash are all apart.

    No number is given twice. Raises ConstraintError where a state is asked about that is older than 262,144 others.
    """

    def __init__(self, caller: Caller, start: Any) -> None:
        self._caller = caller
        self._states: dict[int, Any] = {}
        self._texts: dict[int, bytes] = {}
        self._numbers: dict[Any, int] = {}
        self._moves: dict[int, int] = {}
        self._accepts: dict[int, bool] = {}
        self._held: OrderedDict[int, None] = OrderedDict()
        """The states that particles may stand in; those that were asked for last stand at the end."""
        self._next = 0
        self._number(start, b"")

    def hold(self, numbers: list[int]) -> None:
        """Keep these states longer than those held before: particles stand in them."""
        for number in numbers:
            if number:  # the start is kept for good
                self._held[number] = None
                self._held.move_to_end(number)
        while len(self._held) > max(_HELD, len(numbers)):
            self._held.popitem(last=False)

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
            answers = self._caller.accepts(*self._find(new))
            self._accepts.update(zip(new, answers, strict=True))
        return [self._accepts[number] for number in numbers]

    def forget(self) -> None:
        """Drop what can be found again, where it has become much."""
        if len(self._moves) < _MOVES:
            return
        self._moves.clear()
        # In this order: an interrupt leaves no way to a state that is gone.
        self._numbers = {key: n for key, n in self._numbers.items() if not n or n in self._held}
        for table in (self._states, self._texts, self._accepts):
            for number in [number for number in table if number and number not in self._held]:
                del table[number]

    def _explore(self, keys: list[int]) -> None:
        origins, bytes_ = [key >> 8 for key in keys], [_ONE[key & 255] for key in keys]
        states, texts = self._find(origins)
        found = self._caller.advance(states, bytes_, texts)
        for key, state, text, byte in zip(keys, found, texts, bytes_, strict=True):
            self._moves[key] = -1 if state is None else self._number(state, (text + byte)[-_TOLD:])

    def _find(self, numbers: list[int]) -> tuple[list[Any], list[bytes]]:
        """The states of `numbers`, and the texts that led there."""
        try:
            return [self._states[number] for number in numbers], [self._texts[number] for number in numbers]
        except KeyError:
            said = f"'{self._caller.name}': a particle's state is older than {_HELD} others"
            raise ConstraintError(f"{said}; run fewer particles at a time") from None

    def _number(self, state: Any, text: bytes) -> int:
        try:
            key = _freeze(state)
            known = self._numbers.get(key)
        except (TypeError, RecursionError):  # of what has no hash, and of lists that hold themselves
            return self._add(state, text)
        if known is None:
            # Last, so that an interrupt leaves no number that two states have, nor one without a state.
            self._numbers[key] = known = self._add(state, text)
        return known

    def _add(self, state: Any, text: bytes) -> int:
        number = self._next
        self._next += 1
        self._states[number], self._texts[number] = state, text
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
        masks, going = np.zeros((len(states), len(self._eos)), dtype=np.uint32), np.flatnonzero(states >= 0)
        with self._lock:
            self._numbering.hold(states[going].tolist())
            for i in going.tolist():
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
