"""Small models of transformers that read texts, with random weights."""

from __future__ import annotations

from typing import Any

import pytest

TEMPLATE = "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}{% endfor %}"


def make_tokenizer(pad: bool = True, template: bool = False, specials: bool = True) -> Any:
    """One token for each of a few characters, [CLS] before and [SEP] behind a text if `specials`."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"ab <>ua?"]
    words = Tokenizer(WordLevel({name: i for i, name in enumerate(dict.fromkeys(names))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if specials:
        words.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    known = {"pad_token": "[PAD]"} if pad else {}
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]", **known)
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    if template:
        made.chat_template = TEMPLATE
    return made


def make_bert(kind: str = "BertForSequenceClassification", **settings: Any) -> Any:
    """A BERT of two small layers, in evaluation mode."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.5, pad_token_id=0, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(config).eval()


def make_llama(pad_token_id: int | None = None, **settings: Any) -> Any:
    """A decoder that scores texts by their last token."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5, pad_token_id=pad_token_id, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForSequenceClassification(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer


@pytest.fixture(scope="session")
def bert() -> Any:
    return make_bert


@pytest.fixture(scope="session")
def llama() -> Any:
    return make_llama
