"""Texts that are led along the tokens of others: what stays behind a block that is drawn anew.

Masks need no logits, so that a text which cannot take its tokens is known before anything is forwarded; the others go
through the model in one pass, all positions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import has
from feynkac.base.contract import LogW, Rows
from feynkac.models.language import texts
from feynkac.models.language.draws.next_token import score_tokens
from feynkac.models.language.kept import Kept
from feynkac.models.language.laws.law import shape
from feynkac.models.language.protocols import Drops, find_hidden
from feynkac.models.language.texts import Texts

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.prompted import Prompted

PASS = 512
"""Tokens that one pass takes: their logits are all in memory at once."""


def retrace(model: Prompted, steps: int, state: Texts, of: Texts) -> list[tuple[Texts, LogW]]:
    """`state` after each of so many steps, and their (N,) increments (see `feynkac.base.capabilities.Retraces`)."""
    walked = _walk(model, steps, state, of)
    lost = state.running & (walked[-1].ended == texts.DEAD)
    for each in walked:
        each.ended[lost] = texts.DEAD
    increments = np.zeros((steps, len(state)))
    increments[0, lost] = -np.inf
    rows = np.flatnonzero(state.running & ~lost)
    if len(rows):
        _score(model, state, walked, rows, increments)
    for each, so_far in zip(walked, np.cumsum(increments, axis=0), strict=True):
        each.log_prob += so_far
        _write(state, each, rows, increments)
    return list(zip(walked, increments, strict=True))


def _write(before: Texts, after: Texts, rows: Rows, increments: NDArray[np.float64]) -> None:
    """Let each token that `rows` have taken since `before` know its nats, of the (steps, N) increments."""
    taken = (after.length + (after.ended == texts.BY_EOS) - before.length)[rows]
    row, step = np.nonzero(np.arange(len(increments)) < taken[:, None])
    after.token_log_prob[rows[row], before.length[rows[row]] + step] = increments[step, rows[row]]


def _walk(model: Prompted, steps: int, state: Texts, of: Texts) -> list[Texts]:
    """The texts after each step, as far as masks know; those that cannot take just these tokens come to be dead."""
    total = of.length + (of.ended == texts.BY_EOS)
    walked = []
    for _ in range(steps):
        state = state.copy()
        walked.append(state)
        if not len(rows := np.flatnonzero(state.running)):
            continue
        at = state.length[rows]
        tokens = np.where(at < total[rows], of.ids[rows, np.minimum(at, of.ids.shape[1] - 1)], -1)
        known = np.flatnonzero(tokens >= 0)
        if len(known):
            tokens[known[~_allow(model, state, rows[known], tokens[known])]] = -1
        model.endings.append(state, rows, tokens, np.zeros(len(rows)))
        state.ended[rows[~state.running[rows] & (at + 1 < total[rows])]] = texts.DEAD
    return walked


def _allow(model: Prompted, state: Texts, rows: Rows, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(R,) whether masks and lazy constraints allow a token each behind `rows`."""
    states, group = state.automata[rows], state.group[rows]
    mask = model.mask(states, state.length[rows], group, lazily=True)
    allowed = (mask[np.arange(len(rows)), tokens // 32] >> (tokens % 32).astype(np.uint32) & 1).astype(np.bool_)
    if model.columns.lazy:
        some = np.flatnonzero(allowed)
        allowed[some] = model.columns.check(states[some], tokens[some], group[some])
    return allowed


def _score(
    model: Prompted, before: Texts, walked: Sequence[Texts], rows: Rows, increments: NDArray[np.float64]
) -> None:
    """Forward the tokens of `rows` (R,), and write what they weigh and where they stand into increments and texts."""
    tokens = _list_tokens(before, walked[-1], rows)
    context, pending = before.context[rows], before.pending[rows, None]
    read = np.where(tokens >= 0, np.concatenate([pending, tokens[:, :-1]], axis=1), -1)
    size = max(1, PASS // len(rows))
    for start in range(0, tokens.shape[1], size):
        some = slice(start, start + size)
        passed = _forward(before, rows, context, read[:, some])
        context = passed.context
        at = np.argwhere(tokens[:, some] >= 0)
        increments[at[:, 1] + start, rows[at[:, 0]]] = _weigh(model, before, passed, rows, tokens, start, at)
        for s, state in enumerate(walked[some]):
            passed.settle(state, s, rows)
    before.companions[texts.HIDDEN] = walked[-1].companions[texts.HIDDEN]
    walked[-1].companions = before.companions


def _list_tokens(before: Texts, after: Texts, rows: Rows) -> NDArray[np.int64]:
    """(R, S) what `rows` have taken between two populations, ends of sequence among it; -1 behind the last token."""
    total = (after.length + (after.ended == texts.BY_EOS))[rows, None]
    at = before.length[rows, None] + np.arange((total[:, 0] - before.length[rows]).max())
    return np.where(at < total, after.ids[rows[:, None], np.minimum(at, after.ids.shape[1] - 1)], -1)


@dataclass(frozen=True)
class _Passed:
    """What one pass has left: C contexts, F logits."""

    logits: Tensor
    hidden: Tensor | None
    context: NDArray[np.int64]
    """(R,) where each row stands now."""
    first: NDArray[np.int64]
    """(C,) the number of the first logits of each context."""
    length: NDArray[np.int64]
    """(C,) how many it has."""

    def settle(self, state: Texts, s: int, rows: Rows) -> None:
        """Let the `rows` of a population stand behind token `s` of this pass."""
        state.context[rows] = self.context
        if has(state.contexts, Drops):
            state.dropped[rows] = state.contexts.dropped[self.context]
        last = np.maximum(np.minimum(s, self.length - 1), 0)
        hidden = None if self.hidden is None else self.hidden[np.minimum(self.first + last, len(self.hidden) - 1)]
        state.companions = {**state.companions, texts.HIDDEN: hidden}


def _forward(state: Texts, rows: Rows, context: NDArray[np.int64], read: NDArray[np.int64]) -> _Passed:
    """One pass over the tokens `read` (R, S), -1 behind the last one, each distinct history once."""
    keys = [(c, tuple(some[some >= 0].tolist())) for c, some in zip(context.tolist(), read, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    length = np.array([len(some) for _, some in numbers])
    logits = state.companions[Kept].append(np.array([c for c, _ in numbers]), [some for _, some in numbers])
    stands = np.array([numbers[key] for key in keys])
    state.count_forwarded(state.group[rows[np.unique(stands, return_index=True)[1]]], length)
    return _Passed(logits, find_hidden(state.contexts), stands, np.cumsum(length) - length, length)


def _weigh(
    model: Prompted,
    state: Texts,
    passed: _Passed,
    rows: Rows,
    tokens: NDArray[np.int64],
    start: int,
    at: NDArray[np.int64],
) -> LogW:
    """(A,) nats, log p of the tokens at `at` (A, 2): the number of a row, and of a token behind the first `start`."""
    number = passed.first[passed.context[at[:, 0]]] + at[:, 1]
    heads = at[np.unique(number, return_index=True)[1]]
    group = state.group[rows[heads[:, 0]]]

    def find_history(u: int) -> NDArray[np.int64]:
        row, s = heads[u]
        written = state.ids[rows[row], : state.length[rows[row]]]
        return state.prompts[group[u]].find_history(np.concatenate([written, tokens[row, : start + s]]))

    laws = [state.prompts[g].law for g in group]
    logits = shape(passed.logits, laws, find_history)
    scale = np.array([1.0 / law.temperature for law in laws], np.float32)
    return score_tokens(logits, scale, number, tokens[at[:, 0], at[:, 1] + start], True)
