"""The automaton of a context-free grammar over tokens: a table of the parser's states that grows as they are met."""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import States, TokenMask, pack
from feynkac.potentials.constraints.automata.alphabet import NEVER
from feynkac.potentials.constraints.automata.trie import LIVE, PASSAGE, Trie, find_trie
from feynkac.potentials.constraints.engines.earley.network import Network
from feynkac.potentials.constraints.engines.earley.parsing import Kernel, Parser
from feynkac.potentials.constraints.engines.earley.spelling import list_bits
from feynkac.potentials.constraints.engines.earley.walking import follow, walk

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

T = TypeVar("T", bound=np.generic)
_ROWS = 4096  # masks kept: 25 MB for a vocabulary of 49,152 tokens
_KNOWN = 1 << 16  # states of the parser kept: 60 MB, or as many as one call needs
_FAR, _MOST_NEEDED = 1 << 40, 30_000
_VISITED = 1 << 18  # states kept that particles may be in: 150 MB at most


class EarleyAutomaton:
    """A `TokenAutomaton` of a network of rules; its masks are exact, for its grammar has no lexer.

    A state is the integer v * U + u: the number of a set of items that some particle was in, and how far into a
    character. Any number of threads may ask, one after the other. The numbers depend on who asked first, and what they
    stand for does not. Raises ConstraintError where a state is older than 262,144 others.
    """

    start = 0

    def __init__(self, network: Network, vocabulary: Vocabulary, name: str) -> None:
        self._name = name
        self._lock = RLock()
        self._tokens: Trie = find_trie(vocabulary)
        self._eos = pack(vocabulary.ends)
        self._parser = Parser(network, self._tokens)
        self._step, self._reach = network.alphabet.step, network.alphabet.reach
        self._spells = network.alphabet.count_bytes(np.ones(256, dtype=np.bool_))
        self._partial = len(self._step)
        self._visited: OrderedDict[int, Kernel] = OrderedDict({0: self._parser.start})
        self._fresh = 1
        self._rows: OrderedDict[tuple[int, int, int], TokenMask] = OrderedDict()
        tokens = self._tokens
        self._nodes = (tokens.byte, tokens.depth, tokens.skip, tokens.first, tokens.token)
        self._path = np.zeros((2, tokens.height + 1), dtype=np.int64)
        self._opened = np.zeros((len(tokens.byte), 4), dtype=np.int64)
        self._forget()
        if not self._find_row(self._find(0), 0, _FAR).any() and not self.accepts(np.zeros(1, dtype=np.int64))[0]:
            raise ConstraintError(f"{name}: no sequence of this vocabulary's tokens spells a text that it accepts")

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens, the end-of-sequence tokens among them where the state accepts."""
        return self.masks_within(states, np.full(len(states), _FAR))

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, without tokens after which more bytes are needed than `left` (U,) can hold."""
        masks = np.zeros((len(states), len(self._eos)), dtype=np.uint32)
        with self._lock:
            for i, (state, most) in enumerate(zip(states.tolist(), left.tolist(), strict=True)):
                if state >= 0:
                    visited, u = divmod(state, self._partial)
                    masks[i] = self._find_row(self._find(visited), u, most)
            masks[self.accepts(states)] |= self._eos
            self._tidy(len(states))
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        q, u, after = np.full(len(states), -1), np.zeros(len(states), dtype=np.int64), np.full(len(states), -1)
        offset = self._tokens.offset
        inside = (tokens >= 0) & (tokens < self._tokens.size)
        at, end = offset[np.where(inside, tokens, 0)], offset[np.where(inside, tokens + 1, 0)]
        with self._lock:
            for i in np.flatnonzero(inside & (states >= 0) & (at < end)).tolist():
                visited, u[i] = divmod(int(states[i]), self._partial)
                q[i] = self._find(visited)
            while len(stuck := np.unique(q[(q >= 0) & (at < end)])):
                for state in stuck.tolist():
                    self._expand(state)
                follow(q, u, at, end, self._alive, self._known, self._step, self._delta, self._tokens.flat)
            live = np.flatnonzero(q >= 0)
            live = live[self._alive[q[live], u[live]] == LIVE]
            after[live] = self._visit(q[live]) * self._partial + u[live]
            self._tidy(len(states))
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far is accepted as it stands."""
        visited, u = np.divmod(states, self._partial)
        accepts = np.zeros(len(states), dtype=np.bool_)
        with self._lock:
            for i in np.flatnonzero((states >= 0) & (u == 0)).tolist():
                q = self._find(int(visited[i]))  # first: it may make the tables larger
                accepts[i] = self._needs[q, 0] == 0
        return accepts

    # --- masks

    def _find_row(self, q: int, u: int, most: int) -> TokenMask:
        """The allowed tokens, without ends."""
        key = (q, u, min(most, _FAR))
        if key in self._rows:
            self._rows.move_to_end(key)
            return self._rows[key]
        row = np.zeros(len(self._eos), dtype=np.uint32)
        jobs = np.array([[0, len(self._tokens.byte), q, u]], dtype=np.int64)
        while len(jobs):
            for state in np.unique(jobs[:, 2]).tolist():
                self._expand(state)
            tables = (self._alive, self._needs, self._known, self._step, self._delta)
            count = walk(row, most - 1, jobs, *tables, *self._nodes, self._path, self._opened)
            jobs = self._opened[:count].copy()
        self._rows[key] = row
        return row

    # --- states of the parser

    def _expand(self, q: int) -> None:
        """Fill in what follows a state."""
        if self._known[q]:
            return
        for label, kernel in self._parser.list_moves(self._kernels[q]).items():
            after = self._number.get(kernel)
            self._delta[q, label] = self._add(kernel) if after is None else after
        self._alive[q, 1:] = (self._reach[1:] & (self._delta[q] >= 0)).any(axis=1) * LIVE
        behind = np.where(self._delta[q] < 0, NEVER, self._bytes[self._delta[q]])
        self._needs[q, 1:] = self._count_tokens((self._spells[1:] + behind).min(axis=1, initial=NEVER))
        if (spelling := self._parser.spelling) is not None:
            for u in np.flatnonzero(self._alive[q]).tolist():
                if u and not any(self._lives(q, label, places) for label, places in spelling.through(u, 0).items()):
                    self._alive[q, u] = PASSAGE
        self._known[q] = True

    def _count_tokens(self, n_bytes: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
        """The fewest tokens that hold so many bytes, as far as a table holds them."""
        held = max(self._tokens.height, 1)
        return (np.minimum(np.asarray(n_bytes), held * _MOST_NEEDED) + held - 1) // held

    def _lives(self, q: int, label: int, places: int) -> bool:
        """Whether some tokens lead to acceptance behind a character of a class, from one of the places there."""
        after = int(self._delta[q, label])
        return after >= 0 and any(self._parser.lives(self._kernels[after], place) for place in list_bits(places))

    def _add(self, kernel: Kernel) -> int:
        needed = self._parser.count_needed(kernel)
        alive = LIVE if self._parser.lives(kernel) else PASSAGE
        q = len(self._kernels)
        if q == len(self._delta):
            delta = np.concatenate([self._delta, np.full_like(self._delta, -1)])
            tables = (self._alive, self._needs, self._bytes, self._outside, self._known)
            doubled = tuple(map(_double, tables))
            self._delta, (self._alive, self._needs, self._bytes, self._outside, self._known) = delta, doubled
        self._bytes[q], self._needs[q, 0] = needed, self._count_tokens(np.int64(needed))
        self._alive[q, 0], self._outside[q] = alive, -1
        self._kernels.append(kernel)
        self._number[kernel] = q  # last: an interrupt before leaves no state that is half known
        return q

    def _tidy(self, n: int) -> None:
        while len(self._rows) > _ROWS:
            self._rows.popitem(last=False)
        while len(self._visited) > max(_VISITED, n):
            oldest, kernel = self._visited.popitem(last=False)
            if oldest == 0:
                self._visited[0] = kernel
        if len(self._kernels) > _KNOWN:
            self._forget()

    def _forget(self) -> None:
        """Begin a new table; it fills again with what is asked for."""
        tables = (
            np.full((256, self._reach.shape[1]), -1, dtype=np.int32),
            np.zeros((256, self._partial), dtype=np.int8),
            np.zeros((256, self._partial), dtype=np.int16),
            np.zeros(256, dtype=np.int64),
            np.full(256, -1, dtype=np.int64),
            np.zeros(256, dtype=np.bool_),
        )
        self._rows.clear()
        # All at once: an interrupt must not leave old moves beside new numbers.
        self._delta, self._alive, self._needs, self._bytes, self._outside, self._known = tables
        self._number: dict[Kernel, int] = {}
        self._kernels: list[Kernel] = []

    # --- states that particles are in

    def _find(self, visited: int) -> int:
        """The state of the parser that a number stands for."""
        kernel = self._visited.get(visited)
        if kernel is None:
            raise ConstraintError(
                f"{self._name}: a particle's state is older than {_VISITED} others; run fewer particles at a time"
            )
        q = self._number.get(kernel)
        if q is None:
            q = self._add(kernel)
            self._outside[q] = visited
        return q

    def _visit(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) the numbers of states of the parser, given on first visit."""
        for q in np.unique(states).tolist():
            if self._outside[q] not in self._visited:
                self._outside[q] = self._fresh
                self._fresh += 1
            self._visited[int(self._outside[q])] = self._kernels[q]
            self._visited.move_to_end(int(self._outside[q]))
        return self._outside[states]


def _double(table: NDArray[T]) -> NDArray[T]:
    return np.concatenate([table, np.zeros_like(table)])
