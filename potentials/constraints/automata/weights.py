"""Automata whose texts have weights, read byte by byte: the sum over all paths so far, normalised, and its logarithm.

What is so far is a hashable value, a *prospect*: by equal prospects the same is to be expected. Log-weights are nats.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.potentials.constraints.automata.alphabet import Alphabet
from feynkac.potentials.constraints.automata.nfa import CharDfa

Prospect: TypeAlias = Hashable
Step: TypeAlias = tuple[Prospect, float] | None
"""What is after a byte, and the nats that the weight of all paths has grown by; None where there are none."""
Edges: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Transitions on one class of characters, sorted by target: origins, distinct targets, the first of each, nats."""


class Weights(Protocol):
    """An automaton with weights."""

    n_states: int
    """Of how many states a prospect tells."""

    def begin(self) -> tuple[Prospect, float]:
        """What is before the text, and the log-weight of all starts."""
        ...

    def step(self, prospect: Prospect, byte: int) -> Step:
        """One byte more."""
        ...

    def end(self, prospect: Prospect) -> float:
        """The nats that the weight of all paths changes by if the text ends here; -inf where none of them may."""
        ...


class PathWeights:
    """Weighted transitions on characters: a prospect is the share of each state, and how far into a character it is."""

    def __init__(
        self, letters: Alphabet, edges: Sequence[Edges], start: NDArray[np.float64], final: NDArray[np.float64]
    ) -> None:
        self._step, self._edges, self._start, self._final = letters.step, edges, start, final
        self.n_states = len(start)

    def begin(self) -> tuple[Prospect, float]:
        """See `Weights.begin`."""
        total = float(np.logaddexp.reduce(self._start))
        return (0, (self._start - total).tobytes()), total

    def step(self, prospect: Prospect, byte: int) -> Step:
        """See `Weights.step`."""
        within, packed = prospect  # pyright: ignore[reportGeneralTypeIssues]
        move = int(self._step[within, byte])
        if move >= 0:
            return (move, packed), 0.0
        if move == -1:
            return None
        origins, targets, first, weight = self._edges[-2 - move]
        if not len(origins):
            return None
        share = np.full(len(self._start), -np.inf)
        share[targets] = np.logaddexp.reduceat(np.frombuffer(packed)[origins] + weight, first)
        total = float(np.logaddexp.reduce(share))
        return None if total == -np.inf else ((0, (share - total).tobytes()), total)

    def end(self, prospect: Prospect) -> float:
        """See `Weights.end`."""
        within, packed = prospect  # pyright: ignore[reportGeneralTypeIssues]
        return float(np.logaddexp.reduce(np.frombuffer(packed) + self._final)) if within == 0 else -np.inf


class ChoiceWeights:
    """Automata each of which has one weight for all of its texts: a prospect is the state of each, -1 if it is dead."""

    def __init__(self, dfas: Sequence[CharDfa], log_weight: Sequence[float]) -> None:
        self._dfas, self._log_weight = tuple(dfas), np.array(log_weight)
        self.n_states = len(self._dfas)

    def begin(self) -> tuple[Prospect, float]:
        """See `Weights.begin`."""
        return ((0, 0),) * len(self._dfas), float(np.logaddexp.reduce(self._log_weight))

    def step(self, prospect: Prospect, byte: int) -> Step:
        """See `Weights.step`."""
        after = tuple(map(_read, self._dfas, prospect, (byte,) * len(self._dfas)))  # pyright: ignore
        alive = [q >= 0 for q, _ in after]
        if not any(alive):
            return None
        before = [q >= 0 for q, _ in prospect]  # pyright: ignore[reportGeneralTypeIssues]
        return after, 0.0 if alive == before else self._sum(alive) - self._sum(before)

    def end(self, prospect: Prospect) -> float:
        """See `Weights.end`."""
        places = list(prospect)  # pyright: ignore[reportArgumentType]
        ends = [q >= 0 and u == 0 and bool(dfa.accept[q]) for dfa, (q, u) in zip(self._dfas, places, strict=True)]
        return self._sum(ends) - self._sum([q >= 0 for q, _ in places])

    def _sum(self, which: list[bool]) -> float:
        return float(np.logaddexp.reduce(self._log_weight[which], initial=-np.inf))


def _read(dfa: CharDfa, place: tuple[int, int], byte: int) -> tuple[int, int]:
    q, within = place
    move = -1 if q < 0 else int(dfa.alphabet.step[within, byte])
    if move >= 0:
        return q, move
    return (-1, 0) if move == -1 else (int(dfa.delta[q, -2 - move]), 0)


def list_edges(origins: NDArray[np.int64], targets: NDArray[np.int64], weight: NDArray[np.float64]) -> Edges:
    """Transitions on one class of characters, sorted by their targets."""
    order = np.argsort(targets, kind="stable")
    distinct, first = np.unique(targets[order], return_index=True)
    return origins[order], distinct, first, weight[order]
