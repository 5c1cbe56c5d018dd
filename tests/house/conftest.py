"""What the pages of docs/ run on here: one small model, which no page may write to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import feynkac as fk

LICENSE = Path(__file__).parents[2] / "LICENSE"
"""A text that stays: tokens learned from the pages would change with each of them, and with them what is written."""


@pytest.fixture(scope="session")
def _small_lm() -> fk.CausalLM:
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
        vocab_size=len(tokenizer), hidden_size=36, intermediate_size=24, num_hidden_layers=20,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fk.CausalLM(LlamaForCausalLM(config), tokenizer, eos=0)


@pytest.fixture
def small_lm(_small_lm: fk.CausalLM) -> Iterator[fk.CausalLM]:
    """A random model with the demo's heads and two thirds of its layers, thin, which chats; its weights must stay."""
    before = {name: value.clone() for name, value in _small_lm.model.state_dict().items()}
    yield _small_lm
    assert all(value.equal(before[name]) for name, value in _small_lm.model.state_dict().items())
