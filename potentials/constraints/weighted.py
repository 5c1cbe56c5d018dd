"""Weighted automata as potentials: a mask of the texts that have weight, times the weight of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Tokenised, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.potentials.base import Factor
from feynkac.potentials.constraints.automata.weights import Prospect, Step, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.vocabulary import Vocabulary

_TEXTS = 8192  # texts whose weights are remembered
_STEPS = 1 << 17  # steps of prospects by a byte that are remembered, fewer where prospects are large: some 40 MB
_SMALL = 32  # states of which a prospect tells in about as many bytes as the rest of a step takes
_ROWS = 256  # weights of all next tokens that are remembered: 50 MB for a vocabulary of 49,152 tokens


class TextWeight(Factor):
    """The log-weight of a text by a weighted automaton.

    `level` is that of all paths of the text so far, from which some path goes on; how they go on is not foreseen. It
    guides the next token of a prompt by how much that changes the level.
    """

    def __init__(self, weights: Weights, name: str) -> None:
        self.name, self._weights = name, weights
        self._walks: PerVocabulary[WeightWalk] = PerVocabulary()

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: the sum over the paths so far; -inf where there is none."""
        walk, sequences = self._find_walk(state, rows)
        return np.array([log_weight for _, log_weight in walk.read(sequences)])

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: the sum over the paths that may end."""
        walk, sequences = self._find_walk(state, rows)
        return np.array([log_weight + walk.end(prospect) for prospect, log_weight in walk.read(sequences)])

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats by which the level changes with each token, and with the end; -inf where no path goes on."""
        import torch

        walk, sequences = self._find_walk(frontier.state, frontier.heads)
        rows = [walk.weigh_tokens(prospect) for prospect, _ in walk.read(sequences)]
        return torch.as_tensor(np.array(rows), device=frontier.logits.device)

    def _find_walk(self, state: State, rows: Rows) -> tuple[WeightWalk, Sequence[NDArray[np.int64]]]:
        texts = require(
            state,
            Tokenised,
            f"'{self.name}' weighs the text of tokens, but {type(state).__name__} has none; use it with a language "
            "model, or weigh with a function: reward(f)",
        )
        walk = self._walks.find(texts.vocabulary, lambda vocabulary: WeightWalk(self._weights, vocabulary))
        return walk, texts.tokens(rows)


class WeightWalk:
    """The prospects of token sequences, remembered so that each step costs one token. Any number of threads may ask."""

    def __init__(self, weights: Weights, vocabulary: Vocabulary) -> None:
        from feynkac.potentials.constraints.automata.trie import find_trie  # imports numba, which takes a while

        self._weights, self._tokens, self._trie = weights, vocabulary.tokens, find_trie(vocabulary)
        self._levels, self._ends, self._eos = self._trie.list_levels(), self._trie.ends, list(vocabulary.eos)
        self._known: OrderedDict[bytes, tuple[Prospect | None, float]] = OrderedDict()
        self._steps: dict[tuple[Prospect, int], Step] = {}
        self._rows: OrderedDict[Prospect, NDArray[np.float32]] = OrderedDict()
        self._most = _STEPS * _SMALL // max(weights.n_states, _SMALL)
        self._lock = RLock()

    def read(self, sequences: Sequence[NDArray[np.int64]]) -> list[tuple[Prospect | None, float]]:
        """The prospect and the log-weight of all paths after each sequence; None and -inf where there are none."""
        with self._lock:
            found = [self._read(np.ascontiguousarray(sequence, dtype=np.int64)) for sequence in sequences]
            while len(self._known) > max(_TEXTS, 2 * len(sequences)):
                self._known.popitem(last=False)
            self._forget()
        return found

    def end(self, prospect: Prospect | None) -> float:
        """The nats that an end adds."""
        return -np.inf if prospect is None else self._weights.end(prospect)

    def weigh_tokens(self, prospect: Prospect | None) -> NDArray[np.float32]:
        """(V,) nats that each token adds, an end of sequence what an end adds; -inf where no path goes on."""
        if prospect is None:
            return np.full(len(self._tokens), -np.inf, dtype=np.float32)
        with self._lock:
            row = self._rows.pop(prospect, None)
            self._rows[prospect] = row = self._weigh(prospect) if row is None else row
            if len(self._rows) > _ROWS:
                self._rows.popitem(last=False)
            self._forget()
        return row

    def _read(self, sequence: NDArray[np.int64]) -> tuple[Prospect | None, float]:
        for back in (0, 1, len(sequence)):
            known = self._known.get(sequence[: len(sequence) - back].tobytes())
            if known is not None or back == len(sequence):
                break
        prospect, log_weight = self._weights.begin() if known is None else known
        for token in sequence[len(sequence) - back :].tolist():
            for byte in self._tokens[token]:
                step = None if prospect is None else self._step(prospect, byte)
                prospect, log_weight = (None, -np.inf) if step is None else (step[0], log_weight + step[1])
        self._known[sequence.tobytes()] = prospect, log_weight
        self._known.move_to_end(sequence.tobytes())
        return prospect, log_weight

    def _weigh(self, prospect: Prospect) -> NDArray[np.float32]:
        """Walk through the trie of the vocabulary, all nodes of a depth at a time."""
        trie = self._trie
        number: dict[Prospect, int] = {prospect: 0}
        met = [prospect]
        at, added = np.full(len(trie.byte) + 1, -1, dtype=np.int64), np.zeros(len(trie.byte) + 1)
        at[-1] = 0
        for nodes, parents in self._levels:
            alive = at[parents] >= 0
            nodes, parents = nodes[alive], parents[alive]
            keys, inverse = np.unique(256 * at[parents] + trie.byte[nodes], return_inverse=True)
            after, grown = np.full(len(keys), -1, dtype=np.int64), np.zeros(len(keys))
            for i, key in enumerate(keys.tolist()):
                if (step := self._step(met[key >> 8], key & 255)) is not None:
                    after[i], grown[i] = number.setdefault(step[0], len(met)), step[1]
                    if after[i] == len(met):
                        met.append(step[0])
            at[nodes], added[nodes] = after[inverse.reshape(-1)], added[parents] + grown[inverse.reshape(-1)]
        row = np.full(trie.size, -np.inf, dtype=np.float32)
        row[trie.token] = np.where(at[self._ends] >= 0, added[self._ends], -np.inf)
        row[self._eos] = self._weights.end(prospect)
        return row

    def _step(self, prospect: Prospect, byte: int) -> Step:
        key = prospect, byte
        if key not in self._steps:
            self._steps[key] = self._weights.step(prospect, byte)
        return self._steps[key]

    def _forget(self) -> None:
        if len(self._steps) > self._most:
            self._steps.clear()
