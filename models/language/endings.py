"""Where texts end: at an end of sequence, a stop string or the limit, or because no token is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rows
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language import texts
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.proposals.columns import Columns
from feynkac.models.language.texts import Texts


class Endings:
    """The ends of the texts of some prompts, whose constraints' automata are `columns`."""

    def __init__(self, prompts: tuple[Prompt, ...], vocabulary: Vocabulary, columns: Columns) -> None:
        self._prompts, self._vocabulary, self._columns = prompts, vocabulary, columns
        self.limits = np.array([prompt.max_tokens for prompt in prompts])
        """(G,) tokens that a text of each prompt may have."""
        self._truncates = np.array([prompt.at_limit == "truncate" for prompt in prompts])
        self._stops = np.array([bool(prompt.stop) for prompt in prompts])

    def append(self, state: Texts, rows: Rows, tokens: NDArray[np.int64], log_prob: LogW) -> None:
        """Write the drawn tokens with their nats, and note which texts have ended."""
        if state.length.max() + 1 >= state.ids.shape[1]:
            wider = state.widen(state.ids.shape[1] + texts.EXTEND)
            state.ids, state.token_log_prob = wider.ids, wider.token_log_prob
        state.log_prob[rows] += log_prob
        dead = tokens < 0
        state.ended[rows[dead]] = texts.DEAD
        at = rows[~dead], state.length[rows[~dead]]
        state.ids[at], state.token_log_prob[at] = tokens[~dead], log_prob[~dead]
        at_end = np.isin(tokens, self._vocabulary.eos)
        state.ended[rows[at_end]] = texts.BY_EOS
        longer = rows[~dead & ~at_end]
        tokens = tokens[~dead & ~at_end]
        state.length[longer] += 1
        state.pending[longer] = tokens
        state.automata[longer] = self._columns.advance(state.automata[longer], tokens, state.group[longer])
        group = state.group[longer]
        cut = (state.length[longer] == self.limits[group]) & self._truncates[group]
        state.ended[longer[cut]] = texts.AT_LIMIT
        for row in longer[self._stops[group]]:
            if self._has_stop(state, row):
                state.ended[row] = texts.BY_STOP

    def _has_stop(self, state: Texts, row: int) -> bool:
        stops = self._prompts[state.group[row]].stop
        written = self._vocabulary.bytes(state.ids[row, : state.length[row]])
        return any(stop in written for stop in stops)
