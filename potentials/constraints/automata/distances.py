"""How far it is to acceptance: in characters, in bytes, and in tokens.

In tokens it is a shortest path over the states to which tokens lead, and there are many. So each state has bounds,
which follow from the distance in bytes, and they are made as narrow as a question needs, by looking ahead from where
the prospects are best (learning real-time A*, Korf 1990). The answers are exact, whoever asked what before.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from feynkac.potentials.constraints.automata.alphabet import NEVER
from feynkac.potentials.constraints.automata.nfa import CharDfa

Ints = NDArray[np.int64]


def measure(dfa: CharDfa, cost: Ints, wanted: NDArray[np.bool_]) -> Ints:
    """(Q,) the least total cost of the characters that lead from each state to one in `wanted` (Q,); NEVER if none do.

    `cost`: (C,) of a character of each class, NEVER where it cannot be had.
    """
    origin, letter = np.nonzero((dfa.delta >= 0) & (cost < NEVER))
    target = dfa.delta[origin, letter]
    order = np.argsort(target, kind="stable")
    first = np.searchsorted(target[order], np.arange(len(dfa.delta) + 1))
    return _relax(first, origin[order], cost[letter[order]], np.where(wanted, 0, NEVER).astype(np.int64))


@numba.njit(cache=True, nogil=True)
def _relax(first, origin, cost, distance):
    """Shortest paths backwards over edges sorted by their targets: a queue of states whose distance has fallen."""
    n = len(distance)
    queue, waiting = np.empty(n + 1, np.int64), np.zeros(n, np.bool_)
    head, tail = 0, 0
    for q in range(n):
        if distance[q] == 0:
            queue[tail], waiting[q], tail = q, True, tail + 1
    while head != tail:
        q = queue[head]
        head, waiting[q] = (head + 1) % (n + 1), False
        for k in range(first[q], first[q + 1]):
            p, through = origin[k], distance[q] + cost[k]
            if through < distance[p]:
                distance[p] = through
                if not waiting[p]:
                    queue[tail], waiting[p] = p, True
                    tail = (tail + 1) % (n + 1)
    return distance


class ByteDistances:
    """The fewest bytes to acceptance from states q * U + u, through those of the 256 bytes that are `usable`."""

    def __init__(self, dfa: CharDfa, usable: NDArray[np.bool_]) -> None:
        self._delta = dfa.delta
        self._spell = dfa.alphabet.count_bytes(usable)
        self.by_state = measure(dfa, self._spell[0], dfa.accept)
        """(Q,) between two characters."""

    def __call__(self, states: Ints) -> Ints:
        """(S,) of some states; NEVER where no bytes lead to acceptance."""
        q, u = np.divmod(states, len(self._spell))
        after = np.where(self._delta[q] < 0, NEVER, self.by_state[self._delta[q]])
        through = (self._spell[u] + after).min(axis=1, initial=NEVER)
        return np.minimum(np.where(u == 0, self.by_state[q], through), NEVER)


class TokenDistances:
    """The least number of tokens to acceptance, as far as it has been asked for. The caller holds a lock.

    `list_ends` gives the states to which single tokens lead from a state, those alone from which some are accepted.
    `exact`: whether to look ahead at all; without it the bound from below is the one that follows from bytes.
    """

    def __init__(
        self, dfa: CharDfa, single: NDArray[np.bool_], height: int, list_ends: Callable[[int], Ints], exact: bool
    ) -> None:
        self._bytes = ByteDistances(dfa, np.ones(256, dtype=np.bool_))
        self._singly = ByteDistances(dfa, single)
        self._height = max(height, 1)
        self._list_ends, self._exact = list_ends, exact
        self._number: dict[int, int] = {}
        self._low, self._high = np.zeros((2, 64), dtype=np.int64)
        self._state: list[int] = []
        self._ends: list[Ints | None] = []
        # A character takes four bytes at most, of which the last three may be to come.
        self.furthest = min(int(self._singly.by_state.max(initial=0)) + 3, NEVER)
        """No state needs more tokens than this, as far as single bytes tell."""

    def find_beyond(self, state: int, left: int) -> Ints:
        """The states after one token from `state` that need more than `left` tokens."""
        ends = self._expand(self._intern(np.array([state], dtype=np.int64))[0])
        if self._exact:
            for i in ends[(self._low[ends] <= left) & (left < self._high[ends])].tolist():
                self._narrow(i, left)
        return np.array([self._state[i] for i in ends[self._low[ends] > left].tolist()], dtype=np.int64)

    def _narrow(self, number: int, left: int) -> None:
        """Make the bounds of a state tell whether it needs more than `left` tokens."""
        path = [number]
        while path:
            here, within = path[-1], left - len(path) + 1
            if within < self._low[here] or self._high[here] <= within:
                path.pop()
                continue
            ends = self._expand(here)
            low, high = self._low[ends], self._high[ends]
            self._low[here] = max(self._low[here], 1 + low.min(initial=NEVER))
            self._high[here] = min(self._high[here], 1 + high.min(initial=NEVER))
            if self._low[here] <= within < self._high[here]:
                path.append(int(ends[np.argmin(low * (NEVER + 1) + high)]))

    def _expand(self, number: int) -> Ints:
        ends = self._ends[number]
        if ends is None:
            ends = self._ends[number] = self._intern(self._list_ends(self._state[number]))
        return ends

    def _intern(self, states: Ints) -> Ints:
        """The numbers of states, which get bounds from the distances in bytes when they are new."""
        new = np.array([state for state in states.tolist() if state not in self._number], dtype=np.int64)
        if len(new):
            low, high = -(-self._bytes(new) // self._height), self._singly(new)
            numbers = np.arange(len(self._state), len(self._state) + len(new))
            if (count := len(self._state) + len(new)) > len(self._low):
                room = np.zeros(2 * count - len(self._low), dtype=np.int64)
                self._low, self._high = np.append(self._low, room), np.append(self._high, room)
            self._low[numbers], self._high[numbers] = low, high
            # In this order what has a number has bounds, wherever an interrupt comes.
            listed = new.tolist()
            self._ends += [None] * len(new)
            self._state += listed
            self._number.update(zip(listed, numbers.tolist(), strict=True))
        return np.array([self._number[state] for state in states.tolist()], dtype=np.int64)
