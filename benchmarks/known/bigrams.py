"""A language model of one letter a token whose next letter depends on the last alone, so that its evidence is known."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from feynkac.models.language.caches.plain import append_one_by_one
from feynkac.models.language.language_model import LanguageModel

LETTERS = string.ascii_lowercase + string.ascii_uppercase[:13]
"""Tokens 1 to 39; token 0 ends a text."""


class Bigrams(LanguageModel):
    """Peaked at random, as a trained model is; a text ends with a chance of 6 % at each step."""

    def __init__(self, seed: int = 1) -> None:
        random, n = np.random.default_rng(seed), self.n_logits
        logits = 2.0 * random.normal(size=(n, n)) + random.normal(size=n)
        logits[:, 0] = np.logaddexp.reduce(logits[:, 1:], axis=1) + np.log(0.06 / 0.94)
        self.log_p = (logits - np.logaddexp.reduce(logits, axis=1)[:, None]).astype(np.float32)
        super().__init__(_make_tokenizer(), eos=[0])

    @property
    def window(self) -> int:
        return 500

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def n_logits(self) -> int:
        return 1 + len(LETTERS)

    def open(self, prompts: Any, max_new: int) -> Any:
        return _Contexts(torch.tensor(self.log_p), prompts)

    def sum_texts(self, start: str, limit: int, reward: dict[str, float], forbidden: str = "", least: int = 0) -> float:
        """Log of sum p(text) exp(reward) over texts of `least` to `limit` letters, none of them forbidden, in nats."""
        tilt = np.array([0.0, *(reward.get(letter, 0.0) for letter in LETTERS)])
        allowed = np.array([False, *(letter not in forbidden for letter in LETTERS)])
        step, end = np.exp(self.log_p.astype(float) + tilt) * allowed, np.exp(self.log_p[:, 0].astype(float))
        value = np.ones(self.n_logits)
        for length in range(limit - 1, -1, -1):
            value = step @ value + (end if length >= least else 0.0)
        return float(np.log(value[1 + LETTERS.index(start)]))


class _Contexts:
    """See `feynkac.models.language.protocols.Contexts`."""

    def __init__(self, log_p: torch.Tensor, prompts: Any) -> None:
        self._log_p, self._last, self.forwarded = log_p, np.array([prompt[-1] for prompt in prompts]), 0

    def start(self) -> torch.Tensor:
        return self._log_p[self._last]

    def extend(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> torch.Tensor:
        self._last = np.where(tokens >= 0, tokens, self._last[parents])
        self.forwarded += int((tokens >= 0).sum())
        return self._log_p[tokens[tokens >= 0]]

    def append(self, parents: NDArray[np.int64], tokens: Any, *, every: bool = False) -> torch.Tensor:
        return append_one_by_one(self.extend, parents, tokens, every)


def _make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(BPE(vocab={"</s>": 0} | {letter: i for i, letter in enumerate(LETTERS, 1)}, merges=[]))
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
