"""`canonical`: texts in the tokens in which the tokenizer itself would write them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.masks import States, TokenAutomaton, TokenMask, pack, words
from feynkac.potentials.constraints.spelling import Rules, read_rules
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

_ROWS = 4096  # masks remembered: 25 MB for a vocabulary of 49,152 tokens


class Canonical(TokenFactor):
    """See `canonical`."""

    def __init__(self) -> None:
        super().__init__("canonical()")

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        return CanonicalAutomaton(vocabulary, read_rules(vocabulary))

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether the tokenizer writes the text in these tokens."""
        ids = np.asarray(tokens, dtype=np.int64).tolist()
        try:
            text = vocabulary.bytes(ids).decode()
        except UnicodeDecodeError:
            return False
        return vocabulary.tokenizer.encode(text, add_special_tokens=False).ids == ids


@suggest_names()
def canonical() -> Canonical:
    """The texts whose tokens are those in which the tokenizer writes them: encode(decode(tokens)) == tokens.

    A model gives a little of its mass to other spellings, such as "h|ello" for "hello", and constraints that allow few
    texts can make much of it. This takes all of it away (Vieira et al. 2025). Only what is generated counts, not where
    the prompt ends; a text that stops within a character has no spelling.

    For byte-level BPE, such as the tokenizers of GPT-2, SmolLM, Llama 3 and Qwen. The mask leaves out tokens that no
    encoding has, and between letters, where the pre-tokenizer draws no border, all neighbours that are merged
    otherwise; without a pre-tokenizer all of these. The rest, such as white space of which it depends on what follows,
    is checked on whole texts, and weighs zero.

    Raises ConstraintError, when it is compiled, for a vocabulary without its tokenizer, and for tokenizers of other
    kinds.
    """
    return Canonical()


class CanonicalAutomaton:
    """A `TokenAutomaton` that accepts all that may be canonical; a state is the last token and 1, or 0 at the start.

    Any number of threads may ask.
    """

    start = 0

    def __init__(self, vocabulary: Vocabulary, rules: Rules) -> None:
        self._size, self._rules, self._lock = vocabulary.size, rules, Lock()
        self._ends = vocabulary.ends
        self._plain = pack((vocabulary.with_text & rules.reached) | self._ends)
        self._rows: OrderedDict[int, TokenMask] = OrderedDict()

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) the tokens that may come next; a text may end anywhere."""
        masks = np.zeros((len(states), words(self._size)), dtype=np.uint32)
        for i in np.flatnonzero(states >= 0).tolist():
            masks[i] = self._find_row(int(states[i]))
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed."""
        after = np.full(len(states), -1, dtype=np.int64)
        for i in np.flatnonzero((states >= 0) & (tokens >= 0) & (tokens < self._size)).tolist():
            token = int(tokens[i])
            bit = self._find_row(int(states[i]))[token >> 5] >> np.uint32(token & 31) & np.uint32(1)
            if bit and not self._ends[token]:
                after[i] = token + 1
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far may be canonical."""
        return states >= 0

    def _find_row(self, state: int) -> TokenMask:
        with self._lock:
            row = self._rows.pop(state, None)
            if row is None:
                row = self._plain.copy()
                if state:
                    self._rules.forbid(state - 1, row)
            self._rows[state] = row
            if len(self._rows) > _ROWS:
                self._rows.popitem(last=False)
            return row
