"""A masked language model as a denoiser: the canvas stands between tokens that are always the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from feynkac.models.discrete.denoiser import LogProbs, Tokens

if TYPE_CHECKING:
    from feynkac.models.discrete.masked_lm import MaskedLM

_CELLS = 1 << 22
"""Probabilities that are worked out in float64 at once: 32 MB."""


class Framed:
    """The laws of a masked language model about a canvas with `before` and `after` (model ids) around it.

    A whole table (U, L, K) for each call: for proteins and other small alphabets.
    """

    time_independent = True

    def __init__(self, lm: MaskedLM, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        self.lm = lm
        self.before = before
        self.after = after

    def log_probs(self, tokens: Tokens, t: float) -> LogProbs:
        """(U, L, K) nats, normalised in float64 over the clean tokens."""
        laws = [self._find_law(logits.flatten(0, 1)) for _, logits in self._forward(tokens)]
        return torch.cat([law.cpu() for law in laws]).numpy().reshape(*tokens.shape, -1)

    def _find_law(self, logits: torch.Tensor) -> torch.Tensor:
        """(M, K) nats of the clean tokens from logits (M, V) of all."""
        return self._scale(logits).double().log_softmax(-1)

    def _scale(self, logits: torch.Tensor) -> torch.Tensor:
        """(M, K) of its own, in the type of the model, and at least in float32."""
        scaled = logits[:, self.lm.ids].to(torch.promote_types(logits.dtype, torch.float32))
        return scaled.div_(self.lm.temperature).masked_fill_(self.lm.barred, -torch.inf)

    def _forward(self, tokens: Tokens) -> Iterator[tuple[slice, torch.Tensor]]:
        """The canvases (U, L) in parts: which they are, and their logits (B, L, V) of all tokens of the model."""
        start, stop = len(self.before), len(self.before) + tokens.shape[1]
        width = stop + len(self.after)
        size = self.lm.find_batch(width)
        for begin in range(0, len(tokens), size):
            part = slice(begin, min(begin + size, len(tokens)))
            ids = np.empty((part.stop - begin, width), np.int64)
            ids[:, :start], ids[:, stop:] = self.before, self.after
            ids[:, start:stop] = self.lm.write_ids(tokens[part])
            yield part, self.lm.forward(ids)[:, start:stop]


class RankedFrame(Framed):
    """The same, of which only the `top` likeliest tokens of each position are kept (see `Ranks`)."""

    def __init__(self, lm: MaskedLM, before: tuple[int, ...], after: tuple[int, ...], top: int) -> None:
        super().__init__(lm, before, after)
        self.n_ranked = top

    def rank(self, tokens: Tokens, t: float) -> tuple[Tokens, NDArray[np.float64], NDArray[np.float64]]:
        """See `feynkac.base.capabilities.Ranks`."""
        likeliest = np.zeros((*tokens.shape, self.n_ranked), np.int64)
        log_p, log_rest = np.full(likeliest.shape, -np.inf), np.full(tokens.shape, -np.inf)
        likeliest[..., 0], log_p[..., 0] = tokens, 0.0
        for part, logits in self._forward(tokens):
            rows, places = np.nonzero(tokens[part] == self.lm.vocabulary.size)
            for some in _split(len(rows), self.lm.vocabulary.size):
                row, place = rows[some], places[some]
                found = self._rank(logits[row, place])
                here = (row + part.start, place)
                likeliest[here], log_p[here], log_rest[here] = (each.cpu().numpy() for each in found)
        return likeliest, log_p, log_rest

    def _rank(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scaled = self._scale(logits)
        top = scaled.topk(self.n_ranked, dim=-1)
        rest = scaled.scatter_(-1, top.indices, -torch.inf).double().logsumexp(-1)
        near = top.values.double()
        total = torch.logaddexp(near.logsumexp(-1), rest)
        return top.indices, near - total[:, None], rest - total

    def log_probs_at(self, tokens: Tokens, t: float, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `feynkac.base.capabilities.Ranks`."""
        result = np.empty((len(tokens), self.lm.vocabulary.size))
        for part, logits in self._forward(tokens):
            for some in _split(part.stop - part.start, self.lm.vocabulary.size):
                here = np.arange(part.start, part.stop)[some]
                law = self._find_law(logits[here - part.start, places[here]])
                result[here] = law.cpu().numpy()
        return result


def _split(n: int, k: int) -> Iterator[slice]:
    """Parts of `n` positions of `k` tokens each, none of which has much more than _CELLS."""
    size = max(1, _CELLS // k)
    for begin in range(0, n, size):
        yield slice(begin, begin + size)
