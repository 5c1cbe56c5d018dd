"""Spans of prompts: from the characters that a user names to the tokens that write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.models.language.editing.contract import Span

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


def locate(span: Span, prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The tokens of `prompt` that write a part of `span`. Raises ArgumentError unless there is one such span."""
    pieces = [vocabulary.tokens[i] if i < vocabulary.size else b"" for i in prompt]
    written, wanted = b"".join(pieces), span.text.encode()
    found = [i for i in range(len(written) - len(wanted) + 1) if wanted and written.startswith(wanted, i)]
    if not found:
        raise ArgumentError(f"the prompt does not hold {quote(span.text)}: {quote(written.decode(errors='replace'))}")
    if span.at is None and len(found) > 1:
        raise ArgumentError(
            f"{quote(span.text)} occurs {len(found)} times in the prompt; say which: Span({quote(span.text)}, at=0)"
        )
    if span.at is not None and not 0 <= span.at < len(found):
        raise ArgumentError(f"{quote(span.text)} occurs {len(found)} times in the prompt; at={span.at} is none of them")
    first = found[span.at or 0]
    ends = np.cumsum([len(piece) for piece in pieces])
    begins = ends - [len(piece) for piece in pieces]
    return np.flatnonzero((ends > first) & (begins < first + len(wanted)) & (ends > begins)).tolist()


class Located:
    """Where spans lie in the prompts of one batch (see `feynkac.models.language.editing.contract.Spans`)."""

    def __init__(self, prompts: Sequence[Sequence[int]], vocabulary: Vocabulary, device: torch.device) -> None:
        self._prompts, self._vocabulary, self._device = prompts, vocabulary, device
        self._tables: dict[Span, Tensor] = {}

    def find(self, span: Span) -> Tensor:
        """(G, P) bool: the tokens of each prompt that belong to the span; none where it does not occur."""
        if span not in self._tables:
            table = torch.zeros(len(self._prompts), max(map(len, self._prompts)), dtype=torch.bool, device="cpu")
            for row, prompt in zip(table, self._prompts, strict=True):
                try:
                    row[locate(span, prompt, self._vocabulary)] = True
                except ArgumentError:  # told when the prompt was made, unless its edits do not name the span
                    continue
            self._tables[span] = table.to(self._device)
        return self._tables[span]


class Anywhere:
    """Stands for spans in the self-check, whose prompts have none: the second token of each prompt."""

    def __init__(self, prompts: int, device: torch.device) -> None:
        self._table = torch.tensor([[False, True]] * prompts, device=device)

    def find(self, span: Span) -> Tensor:
        """(G, 2) bool."""
        return self._table
