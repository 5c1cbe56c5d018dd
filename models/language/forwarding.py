"""The distinct histories of a population, forwarded up to where their next tokens are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.models.language import texts
from feynkac.models.language.kept import Kept
from feynkac.models.language.texts import Texts

if TYPE_CHECKING:
    from torch import Tensor


class Forwarded(NamedTuple):
    """U histories, of R rows."""

    logits: Tensor
    """(U, V)"""
    context: NDArray[np.int64]
    """(R,) which of them each row has."""
    parents: Rows | None
    """(U,) the histories of the pass before that they extend; None where they are the prompts."""
    tokens: NDArray[np.int64] | None
    """(U,) by which token each."""


def forward(state: Texts, rows: Rows) -> Forwarded:
    """Forward each distinct history of `rows` once, by the token that is pending; at first the prompts."""
    if (state.pending[rows] == texts.NOTHING).all():
        logits = state.contexts.start()
        state.count_forwarded(range(len(state.prompts)), [len(prompt.tokens) for prompt in state.prompts])
        return Forwarded(logits, state.context[rows], None, None)
    key = state.context[rows] * state.vocabulary.size + state.pending[rows]
    distinct, first, context = np.unique(key, return_index=True, return_inverse=True)
    parents, tokens = np.divmod(distinct, state.vocabulary.size)
    if (kept := state.companions.get(Kept)) is None:
        logits = state.contexts.extend(parents, tokens)
    else:
        logits, parents = kept.extend(parents, tokens)
    state.count_forwarded(state.group[rows[first]], np.ones(len(distinct), np.int64))
    return Forwarded(logits, context, parents, tokens)
