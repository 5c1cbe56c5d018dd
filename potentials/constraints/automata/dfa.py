"""Constraints that are finite automata over characters, as automata over tokens.

A state is the integer q * U + u: state q of the character automaton, and u bytes' worth of an unfinished character.
No table of states grows: what is kept is one mask for each state that was asked for.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError
from feynkac.base.masks import States, TokenMask, words
from feynkac.potentials.constraints.automata.alphabet import NEVER
from feynkac.potentials.constraints.automata.distances import TokenDistances, measure
from feynkac.potentials.constraints.automata.nfa import CharDfa
from feynkac.potentials.constraints.automata.trie import (
    DEAD,
    LIVE,
    PASSAGE,
    UNKNOWN,
    Trie,
    advance,
    fill,
    find_ends,
    find_trie,
    refill,
)

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

_ROWS = 4096  # masks kept: 25 MB for a vocabulary of 49,152 tokens
_SMALL = 300_000  # entries of a transition table in which to look for states that allow the same tokens
_FAR = 1_000_000_000  # nodes of the trie to look at for exact distances: seconds


class DfaAutomaton:
    """A `TokenAutomaton` whose masks are exact: a token is allowed iff some sequence of tokens after it is accepted.

    Any number of threads may ask: what is remembered is written with the lock held. Reading `_alive` needs no lock, for
    an entry changes once only, from UNKNOWN to LIVE or PASSAGE, and `advance` does not tell these apart on its way.
    """

    start = 0

    def __init__(self, dfa: CharDfa, tokens: Trie, eos: tuple[int, ...], name: str) -> None:
        self._dfa, self._name = dfa, name
        self._tokens = tokens
        self._partial = len(dfa.alphabet.step)
        self._lock = RLock()
        self._alive = _find_alive(dfa, tokens.single)
        self._tables = (self._alive, dfa.alphabet.step, dfa.delta)
        path = np.empty((2, tokens.height + 1), dtype=np.int64)
        self._nodes = (tokens.byte, tokens.depth, tokens.skip, tokens.first, tokens.token, path)
        # Far from the bounds of a counted repeat all states allow the same tokens: those share one row.
        worth_it = dfa.delta.size <= _SMALL and not (self._alive == UNKNOWN).any()
        self._alike = dfa.group_alike(tokens.height) if worth_it else np.arange(len(dfa.delta))
        self._rows: dict[tuple[int, int], TokenMask] = {}
        # Of phrases to look for most are soon over, and then it is as at the start: what differs is little.
        self._forgets = not worth_it
        self._eos = np.zeros(words(tokens.size), dtype=np.uint32)
        np.bitwise_or.at(self._eos, np.array(eos, dtype=np.int64) // 32, np.uint32(1) << np.array(eos, np.uint32) % 32)
        self._seen = np.zeros(self._alive.size, dtype=np.bool_)
        self._distances: TokenDistances | None = None
        self._every = np.full(len(self._eos), 0xFFFFFFFF, dtype=np.uint32)
        self._barred: dict[tuple[int, int], TokenMask] = {}
        self._resolve([self.start])
        if self._alive[0, 0] != LIVE:
            raise ConstraintError(f"{name}: no sequence of this vocabulary's tokens spells a text that it accepts")

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens, the end-of-sequence tokens among them where the state accepts."""
        self._check(states)
        masks = np.zeros((len(states), len(self._eos)), dtype=np.uint32)
        with self._lock:
            for i, state in enumerate(states.tolist()):
                if state >= 0:
                    masks[i] = self._find_row(*divmod(state, self._partial))
        masks[self.accepts(states)] |= self._eos
        return masks

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, without tokens after which every text needs more than `left` (U,) in all."""
        masks = self.masks(states)
        with self._lock:
            distances = self._distances = self._distances or self._make_distances()
            for i in np.flatnonzero((states >= 0) & (left <= distances.furthest)).tolist():
                masks[i] &= self._find_within(int(states[i]), int(left[i]), distances)
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        self._check(states)
        after = advance(states, tokens, *self._tables, self._tokens.flat, self._tokens.offset)
        alive = self._alive.reshape(-1)
        if (alive[after] == UNKNOWN).any():
            with self._lock:
                self._resolve(after.tolist())
        after[alive[after] != LIVE] = -1
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far is accepted as it stands."""
        self._check(states)
        q, u = np.divmod(states, self._partial)
        return (states >= 0) & (u == 0) & self._dfa.accept[q]

    def _check(self, states: States) -> None:
        """Raises ConstraintError for numbers that are no states, which compiled code would not notice."""
        if states.max(initial=-1) >= self._alive.size:
            raise ConstraintError(
                f"{self._name}: {states.max()} is none of its {self._alive.size} states; ask about those that it gave"
            )

    def _find_within(self, state: int, left: int, distances: TokenDistances) -> TokenMask:
        """All tokens but those after which more than `left` are needed in all."""
        key = (state, left)
        if key not in self._barred:
            row = self._every
            if len(beyond := distances.find_beyond(state, left - 1)):
                # Where nothing leads on, a walk passes through and does not stop: just what is wanted here.
                alive = self._alive.copy()
                alive.reshape(-1)[beyond] = PASSAGE
                row = self._eos.copy()
                fill(row, *divmod(state, self._partial), alive, *self._tables[1:], *self._nodes)
            if len(self._barred) >= _ROWS:
                self._barred.clear()
            self._barred[key] = row
        return self._barred[key]

    def _make_distances(self) -> TokenDistances:
        """The distances of this automaton; exact ones unless the looks ahead from all states would take too long."""
        tried = np.unique(np.linspace(0, len(self._dfa.delta) - 1, 16, dtype=np.int64))
        work = np.mean([find_ends(q, 0, *self._tables, *self._nodes, self._seen)[1] for q in tried.tolist()])
        exact = float(work) * len(self._dfa.delta) <= _FAR
        return TokenDistances(self._dfa, self._tokens.single, self._tokens.height, self._list_live, exact)

    def _list_live(self, state: int) -> NDArray[np.int64]:
        """The states to which single tokens lead from `state`, and from which some sequence of tokens is accepted."""
        ends = np.array(self._list_successors(state), dtype=np.int64)
        self._resolve(ends.tolist())
        return ends[self._alive.reshape(-1)[ends] == LIVE]

    def _find_row(self, q: int, u: int) -> TokenMask:
        key = (int(self._alike[q]), u)
        if key not in self._rows:
            row, unknown = self._fill(q, u)
            if unknown:
                self._resolve(self._list_successors(q * self._partial + u))
                row, _ = self._fill(q, u)
            if len(self._rows) >= _ROWS:
                begin = (int(self._alike[0]), 0)
                self._rows = {begin: self._rows[begin]} if begin in self._rows else {}
            self._rows[key] = row
        return self._rows[key]

    def _fill(self, q: int, u: int) -> tuple[TokenMask, int]:
        """The tokens that lead from a state to live ones, and how many lead to unknown ones."""
        start = self._rows.get((int(self._alike[0]), 0))
        if start is not None and self._forgets:
            row = start.copy()
            unknown, work = refill(row, q, u, 0, 0, *self._tables, *self._nodes, self._nodes[-1].copy())
            self._forgets = work < len(self._tokens.byte) / 2
        else:
            row = np.zeros(len(self._eos), dtype=np.uint32)
            unknown = fill(row, q, u, *self._tables, *self._nodes)
        return row, unknown

    def _resolve(self, states: list[int]) -> None:
        """Find out, in place, from which of `states` some sequence of tokens leads to acceptance, if it is unknown."""
        alive = self._alive.reshape(-1)
        todo = [state for state in states if state >= 0 and alive[state] == UNKNOWN]
        ends: dict[int, NDArray[np.int64]] = {}
        while todo:
            state = todo.pop()
            if state not in ends:
                ends[state] = np.array(self._list_successors(state), dtype=np.int64)
                todo += ends[state][alive[ends[state]] == UNKNOWN].tolist()
        while found := [state for state in ends if (alive[ends[state]] == LIVE).any()]:
            alive[found] = LIVE
            for state in found:
                del ends[state]
        alive[list(ends)] = PASSAGE

    def _list_successors(self, state: int) -> list[int]:
        """The states to which single tokens lead from `state`."""
        q, u = divmod(state, self._partial)
        return np.sort(find_ends(q, u, *self._tables, *self._nodes, self._seen)[0]).tolist()


def compile_dfa(dfa: CharDfa, vocabulary: Vocabulary, name: str) -> DfaAutomaton:
    """The automaton over the tokens of a vocabulary. Raises ConstraintError if they can spell no accepted text."""
    return DfaAutomaton(dfa, find_trie(vocabulary), vocabulary.eos, name)


def _find_alive(dfa: CharDfa, single: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(Q, U): LIVE where tokens of one byte lead to acceptance, DEAD where no bytes do, UNKNOWN between them."""
    goes = dfa.delta >= 0
    bytes_lead = _find_leads(dfa, goes, dfa.alphabet.reach)
    bytes_lead[:, 0] = True
    reach = dfa.alphabet.reach_through(single)
    sure = measure(dfa, np.where(reach[0], 1, NEVER), dfa.accept) < NEVER
    tokens_lead = _find_leads(dfa, goes & sure[dfa.delta], reach)
    tokens_lead[:, 0] = sure
    alive = np.where(tokens_lead, LIVE, np.where(bytes_lead, UNKNOWN, DEAD))
    return alive.astype(np.uint8)


def _find_leads(dfa: CharDfa, goes: NDArray[np.bool_], reach: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(Q, U) whether a character that can be completed from u has a move in `goes` (Q, C) from q."""
    return goes.astype(np.float32) @ reach.T.astype(np.float32) > 0
