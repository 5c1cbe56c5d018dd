"""A small judge of word order: whether a phrase is one that somebody wrote, or one with words moved or exchanged.

It stands in for classifiers of linguistic acceptability, such as those trained on CoLA (Warstadt et al. 2019), which FK
steering's text controls reward. `benchmarks/train/acceptability.py` trains it on the reviews.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = Path(__file__).parents[1] / "train" / "acceptability.safetensors"
GAPS, RANK = (1, 2), 16
"""How far apart the words of a pair stand, and the rank of the table of all pairs."""


class Pairs(nn.Module):
    """The logit of a phrase: a sum over its pairs of words, next to each other or with one between."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.left, self.right = (nn.Parameter(0.3 * torch.randn(len(GAPS), words, RANK)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(()))

    def tables(self) -> Tensor:
        """(GAPS, K, K) what each pair of words counts."""
        return self.left @ self.right.mT

    def forward(self, ids: Tensor) -> Tensor:
        """(R,) logits of canvases (R, L), in which 0 stands before the first word and after the last."""
        padded = nn.functional.pad(ids, (1, 1))
        found = [
            (left[padded[:, :-gap]] * right[padded[:, gap:]]).sum((1, 2))
            for gap, left, right in zip(GAPS, self.left, self.right, strict=True)
        ]
        return self.bias + sum(found)


class Judge:
    """log p(acceptable), in nats, of phrases in the words of a vocabulary, each with a space before it."""

    def __init__(self, words: list[str], length: int) -> None:
        pairs = Pairs(len(words))
        pairs.load_state_dict({name: value.float() for name, value in load_file(FILE).items()})
        self._tables: NDArray[np.float32] = pairs.tables().detach().numpy()
        self._bias, self._length = float(pairs.bias.detach()), length
        self._number = {word.strip(): i for i, word in enumerate(words)}

    @functools.cache  # noqa: B019 - one judge lives as long as the benchmark
    def log_prob(self, text: str) -> float:
        ids = np.zeros(self._length + 2, dtype=np.int64)
        said = [self._number[word] for word in text.split()]
        ids[1 : 1 + len(said)] = said
        logit = self._bias + sum(
            table[ids[:-gap], ids[gap:]].sum() for gap, table in zip(GAPS, self._tables, strict=True)
        )
        return -float(np.logaddexp(0.0, -logit))
