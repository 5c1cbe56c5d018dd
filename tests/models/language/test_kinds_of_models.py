"""Models of transformers that write no next tokens: refused by what they are, before a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tiny import tiny
from tokenizers_of_kinds import byte_level, wrap

import feynkac as fk
from feynkac.base.errors import FeynkacError
from feynkac.models.language.caches.opening import find_window

TINY: dict[str, Any] = dict(
    vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)
T5: dict[str, Any] = dict(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
KINDS = [
    (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)), "has an encoder and a decoder"),
    (lambda: transformers.LlamaModel(transformers.LlamaConfig(**TINY)), "LlamaModel gives no logits of next tokens"),
    (lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**TINY, pad_token_id=0)),
     "LlamaForSequenceClassification gives no logits of next tokens"),
    (lambda: transformers.MusicgenForCausalLM(transformers.MusicgenDecoderConfig(
        vocab_size=300, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, num_codebooks=2)),
     "reads several tokens at a time"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return wrap(byte_level())


@pytest.mark.parametrize(("make", "said"), KINDS, ids=[said.split()[0] for _, said in KINDS])
def test_what_writes_no_next_tokens_is_refused_by_what_it_is(tokenizer, make, said) -> None:
    with pytest.raises(FeynkacError, match=said):
        fk.steer(fk.CausalLM(make().eval(), tokenizer).prompt("the cat", max_tokens=2), particles=2, seed=0)


def test_a_window_that_is_no_number_of_tokens_is_none() -> None:
    model = tiny("llama")
    model.config.max_position_embeddings = -1  # as XLNet's
    assert find_window(model) is None


def test_a_layer_with_packed_weights_tells_how_many_logits_there_are(tokenizer) -> None:
    class Packed(torch.nn.Module):  # as torch.ao.quantization makes them
        out_features = 300

        def weight(self) -> None: ...

    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY))
    model.lm_head = Packed()
    assert fk.CausalLM(model, tokenizer).n_logits == 300
