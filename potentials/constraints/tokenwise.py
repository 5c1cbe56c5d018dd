"""The base of all constraints over tokens: compiled once a vocabulary, 0 on what they accept and -inf elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import CarriesAutomata, Checks, ForeseesAcceptance, Tokenised, has, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.masks import States, TokenAutomaton
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.potentials.base import Factor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

_REMEMBERED = 8192  # texts whose states a constraint remembers, where the model does not carry them


def read_name(name: str | None, of: str) -> str | None:
    """The `name` that a user gave to what `of` makes, None where it is left out. Raises ArgumentError."""
    if not isinstance(name, str | None):
        raise ArgumentError(f"{of}(name={quote(name)}): give a string")
    return name


class TokenFactor(Factor):
    """A constraint that can mask a model's next token.

    A subclass needs `compile`; everything else follows from the automaton. One constraint may be used by any number of
    runs at once, from several threads. Copies and pickles are compiled anew.
    """

    hard = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._automata: PerVocabulary[TokenAutomaton] = PerVocabulary()
        self._walks: PerVocabulary[Walk] = PerVocabulary()

    def automaton(self, vocabulary: Vocabulary) -> TokenAutomaton:
        """The constraint over the tokens of `vocabulary`, compiled on first use. Raises ConstraintError."""
        return self._automata.find(vocabulary, self.compile)

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        """A new automaton over the tokens of `vocabulary`. Raises ConstraintError.

        Threads share it, so that what it remembers is for it to lock. It must not refer to the vocabulary, or neither
        would ever be freed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compile(vocabulary), which returns its automaton")

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: 0 where some continuation is accepted, as far as the engine can tell, and -inf elsewhere.

        Where the state foresees acceptance (the canvases of a discrete diffusion; texts of a listed constraint), its
        log-probability, or a guess of it.
        """
        foreseen = state.log_accepted(self, rows) if isinstance(state, ForeseesAcceptance) else None
        if foreseen is not None:
            return foreseen
        _, states = self._find_states(state, rows)
        return np.where(states >= 0, 0.0, -np.inf)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: 0 where the text is accepted as it stands, -inf elsewhere."""
        automaton, states = self._find_states(state, rows)
        accepted = automaton.accepts(states)
        if has(self, Checks) and isinstance(state, Tokenised):
            for i in np.flatnonzero(accepted):
                accepted[i] = self.approves(state.vocabulary, state.tokens(rows[[i]])[0])
        return np.where(accepted, 0.0, -np.inf)

    def _find_states(self, state: State, rows: Rows) -> tuple[TokenAutomaton, States]:
        """The states that the model carries along, or else those after the tokens of each row."""
        texts = require(
            state,
            Tokenised,
            f"'{self.name}' constrains tokens, but {type(state).__name__} has none; "
            "use it with a language model, or constrain with a function: constraint(f)",
        )
        automaton = self.automaton(texts.vocabulary)
        carried = state.states(self, rows) if isinstance(state, CarriesAutomata) else None
        if carried is not None:
            return automaton, carried
        walk = self._walks.find(texts.vocabulary, lambda _: Walk(automaton))
        return automaton, walk(texts.tokens(rows))


class Walk:
    """The states of an automaton after whole token sequences, remembered so that each step costs one token.

    Any number of threads may ask.
    """

    def __init__(self, automaton: TokenAutomaton) -> None:
        self._automaton = automaton
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._lock = Lock()

    def __call__(self, sequences: Sequence[NDArray[np.int64]]) -> States:
        """(R,) states after each of R token sequences."""
        sequences = [np.ascontiguousarray(sequence, dtype=np.int64) for sequence in sequences]
        with self._lock:
            states, at = self._recall(sequences)
        length = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        while len(behind := np.flatnonzero((at < length) & (states >= 0))):
            tokens = np.array([sequences[i][at[i]] for i in behind], dtype=np.int64)
            states[behind] = self._automaton.advance(states[behind], tokens)
            at[behind] += 1
        with self._lock:
            self._remember(sequences, states)
        return states

    def _recall(self, sequences: Sequence[NDArray[np.int64]]) -> tuple[States, NDArray[np.int64]]:
        """(R,) the last known state of each sequence, and (R,) the number of tokens before it."""
        states = np.full(len(sequences), self._automaton.start, dtype=np.int64)
        at = np.zeros(len(sequences), dtype=np.int64)
        for i, sequence in enumerate(sequences):
            for back in (0, 1):
                known = self._known.get(sequence[: len(sequence) - back].tobytes())
                if known is not None:
                    states[i] = known
                    at[i] = len(sequence) - back
                    break
        return states, at

    def _remember(self, sequences: Sequence[NDArray[np.int64]], states: States) -> None:
        for sequence, state in zip(sequences, states, strict=True):
            key = sequence.tobytes()
            self._known[key] = int(state)
            self._known.move_to_end(key)
        while len(self._known) > max(_REMEMBERED, 2 * len(sequences)):
            self._known.popitem(last=False)
