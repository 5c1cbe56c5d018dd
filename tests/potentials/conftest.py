"""Populations of texts without a model, and questions put to automata by walking through all token sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from feynkac.base.masks import TokenAutomaton, mask_within, unpack
from feynkac.base.memory import Memory
from feynkac.base.vocabulary import Vocabulary


class Texts:
    """A state of texts made of strings, or of token ids where there is a vocabulary."""

    def __init__(self, rows: Sequence[Any], vocabulary: Vocabulary | None = None, memory: Memory | None = None) -> None:
        self.rows, self.memory = list(rows), memory or Memory(len(rows))
        if vocabulary is not None:
            self.vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, rows: Any) -> list[str]:
        if hasattr(self, "vocabulary"):
            return [self.vocabulary.text(self.rows[i]) for i in rows]
        return [self.rows[i] for i in rows]

    def tokens(self, rows: Any) -> list[np.ndarray]:
        return [np.array(self.rows[i], dtype=np.int64) for i in rows]

    def states(self, constraint: Any, rows: Any) -> None:
        return None

    def fork(self, rows: Any) -> Texts:
        vocabulary = getattr(self, "vocabulary", None)
        return Texts([self.rows[i] for i in rows], vocabulary, self.memory.fork(np.array(rows)))


class Explorer:
    """An automaton asked by brute force."""

    def __init__(self, automaton: TokenAutomaton, vocabulary: Vocabulary) -> None:
        self.automaton, self.vocabulary = automaton, vocabulary
        self.text_ids = [v for v, token in enumerate(vocabulary.tokens) if token and v not in vocabulary.eos]

    def allowed(self, state: int) -> set[int]:
        mask = self.automaton.masks(np.array([state]))
        return set(np.flatnonzero(unpack(mask, 32 * mask.shape[1])[0]).tolist())

    def after(self, state: int, token: int) -> int:
        return int(self.automaton.advance(np.array([state]), np.array([token]))[0])

    def accepts(self, state: int) -> bool:
        return bool(self.automaton.accepts(np.array([state]))[0])

    def sequences(self, depth: int) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """All sequences of up to `depth` tokens with text, and the states on the way; -1 once dead."""
        known: dict[tuple[int, ...], list[int]] = {(): [self.automaton.start]}
        for n in range(depth + 1):
            for sequence in itertools.product(self.text_ids, repeat=n):
                if sequence not in known:
                    states = known[sequence[:-1]]
                    last = states[-1]
                    known[sequence] = [*states, self.after(last, sequence[-1]) if last >= 0 else -1]
                yield sequence, known[sequence]

    def completion(self, state: int, longest: int = 64) -> list[int] | None:
        """Tokens that lead from a state to acceptance, found breadth first through the masks."""
        todo, seen = [(state, [])], {state}
        for here, path in todo:
            if self.accepts(here):
                return path
            for token in sorted(self.allowed(here) - set(self.vocabulary.eos)):
                there = self.after(here, token)
                if there not in seen and len(path) < longest:
                    seen.add(there)
                    todo.append((there, [*path, token]))
        return None

    def check_budget(self, depth: int, farthest: int, exact: bool = True) -> None:
        """Every state within `depth` tokens, under every limit up to `farthest`: completions are counted one by one."""
        eos, need = set(self.vocabulary.eos), dict[int, float]()

        def count(state: int) -> float:
            if state not in need:
                found = self.completion(state)
                need[state] = float("inf") if found is None else len(found)
            return need[state]

        for state in {states[-1] for _, states in self.sequences(depth) if states[-1] >= 0}:
            plain = self.allowed(state)
            for left in range(farthest + 1):
                mask = mask_within(self.automaton, np.array([state]), np.array([left]))
                found = set(np.flatnonzero(unpack(mask, 32 * mask.shape[1])[0]).tolist())
                fits = {v for v in plain - eos if count(self.after(state, v)) <= left - 1}
                assert found == fits | (plain & eos) if exact else fits | (plain & eos) <= found <= plain

    def check(self, oracle: Callable[[bytes], bool], depth: int) -> None:
        """Masks are exact: acceptance is the oracle's, and a token is allowed iff some text accepted by it follows."""
        eos = set(self.vocabulary.eos)
        needed: dict[int, set[int]] = {}
        for sequence, states in self.sequences(depth):
            accepted = oracle(self.vocabulary.bytes(sequence))
            assert self.accepts(states[-1]) == accepted, sequence
            if accepted:
                for state, token in zip(states[:-1], sequence, strict=True):
                    needed.setdefault(state, set()).add(token)
        reached = {(states[-1], sequence) for sequence, states in self.sequences(depth - 1) if states[-1] >= 0}
        for state, sequence in reached:
            allowed = self.allowed(state)
            assert allowed & eos == (eos if self.accepts(state) else set())
            assert allowed - eos <= set(self.text_ids)
            assert needed.get(state, set()) <= allowed
            for token in self.text_ids:
                there = self.after(state, token)
                assert (token in allowed) == (there >= 0)
                if token in allowed:
                    rest = self.completion(there)
                    assert rest is not None
                    assert oracle(self.vocabulary.bytes([*sequence, token, *rest]))


@pytest.fixture(scope="session")
def explore() -> type[Explorer]:
    return Explorer


@pytest.fixture(scope="session")
def population() -> type[Texts]:
    return Texts
