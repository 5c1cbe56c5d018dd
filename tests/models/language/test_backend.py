"""Another backend is one class: everything that steers a `CausalLM` steers it as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models.language.language_model import LanguageModel

LAW = np.log(np.array([[0.2, 0.5, 0.3], [0.3, 0.1, 0.6], [0.5, 0.3, 0.2]], np.float32))
"""LAW[last token]: the next one's log-probability; token 0 ends a text, 1 is "a" and 2 is "b"."""


class Bigrams(LanguageModel):
    """A table of bigrams."""

    window, device, n_logits = 50, torch.device("cpu"), 3

    def open(self, prompts: Any, max_new: int) -> Any:
        return BigramContexts(prompts)


class BigramContexts:
    def __init__(self, prompts: Any) -> None:
        self.texts, self.forwarded = [list(prompt) for prompt in prompts], 0

    @property
    def lengths(self) -> Any:
        return np.array([len(text) for text in self.texts])

    def start(self) -> torch.Tensor:
        return torch.tensor(LAW[[text[-1] for text in self.texts]])

    def extend(self, parents: Any, tokens: Any) -> torch.Tensor:
        return self.append(parents, [[token] if token >= 0 else [] for token in tokens.tolist()])

    def append(self, parents: Any, tokens: Any, *, every: bool = False) -> torch.Tensor:
        self.texts = [self.texts[i] + list(some) for i, some in zip(parents, tokens, strict=True)]
        self.forwarded += sum(map(len, tokens))
        shown = [token for some in tokens for token in (some if every else some[-1:])]
        return torch.tensor(LAW[shown])


@pytest.fixture
def bigrams(tiny_lm: Any) -> Bigrams:
    return Bigrams(tiny_lm("a", "b").tokenizer, eos=[0])


def test_a_backend_is_steered(bigrams: Bigrams) -> None:
    """Texts of at most two tokens behind "a" that match: "b" 0.6 x 0.5, "bb" 0.6 x 0.2; no draw is wasted on others."""
    result = fk.steer(bigrams.prompt("a", max_tokens=2), fk.regex("b+"), particles=4000, seed=0, algorithm="importance")
    z = 0.6 * 0.5 + 0.6 * 0.2
    assert result.log_evidence == pytest.approx(np.log(z), abs=1e-6)
    found = result.posterior()["b"]
    assert abs(found - 0.3 / z) < 4 * np.sqrt(0.3 / z * 0.12 / z / 4000)  # false alarm 6e-5


def test_a_backend_runs_programs(bigrams: Bigrams) -> None:
    @fk.program
    def two(p: Any) -> str:
        text = bigrams.context("a")
        p.condition("b" in p.sample(text.next_token()))
        return str(text)

    assert set(fk.steer(two(), particles=4, seed=0, on_death="return").posterior()) == {"b"}
    with pytest.raises(fk.ModelError, match="window holds 50"):
        bigrams.prompt("a" * 60)
