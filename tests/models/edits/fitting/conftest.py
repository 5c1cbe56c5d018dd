"""A tiny language model of any architecture, whose tokens are single characters."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from tiny import VOCAB, tiny

from feynkac.models.language.lm import CausalLM


@pytest.fixture
def make_lm(tiny_lm: Any) -> Callable[..., CausalLM]:
    """`make_lm("gpt2")`: two layers of 32, tokens a..z, A..Z, 0..7."""
    characters = (string.ascii_letters + string.digits)[: VOCAB - 1]

    def make(kind: str = "llama", **changes: Any) -> CausalLM:
        return CausalLM(tiny(kind, **changes), tiny_lm(*characters).tokenizer, eos=[0])

    return make
