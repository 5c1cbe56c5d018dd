"""What the pages of docs/ run on here: small models, which no page may write to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import feynkac as fk

LICENSE = Path(__file__).parents[2] / "LICENSE"
"""A text that stays: tokens learned from the pages would change with each of them, and with them what is written."""


DEEP, SHALLOW = 20, 3


@pytest.fixture(scope="session")
def _make_lm() -> Callable[[int], fk.CausalLM]:
    return cache(make_random_lm)


def make_random_lm(layers: int) -> fk.CausalLM:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    spelling = Tokenizer(models.BPE())
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["</s>", "<s>"],
        show_progress=False,
    )  # fmt: skip
    spelling.train_from_iterator([LICENSE.read_text(encoding="utf-8")], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelling, eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=36, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fk.CausalLM(LlamaForCausalLM(config), tokenizer, eos=0)


@pytest.fixture
def lm_for(_make_lm: Callable[[int], fk.CausalLM]) -> Iterator[Callable[[str], fk.CausalLM]]:
    """Gives the random model that some code runs on, which chats: its weights must stay.

    It is thin, has the demo's heads, and two thirds of its layers where the code edits any; a few where it does not, as
    all that they do there is to take time.
    """
    given = []

    def choose(code: str) -> fk.CausalLM:
        lm = _make_lm(DEEP if "fe." in code or "layer" in code else SHALLOW)
        given.append((lm.model, {name: value.clone() for name, value in lm.model.state_dict().items()}))
        return lm

    yield choose
    for model, before in given:
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
