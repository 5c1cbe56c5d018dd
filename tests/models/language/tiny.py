"""Tiny language models with random weights, one for each kind of cache."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCAB = 61

_LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, pad_token_id=None, bos_token_id=1, eos_token_id=2,
)  # fmt: skip

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "mistral": ("Mistral", dict(sliding_window=16)),
    "gemma2": ("Gemma2", dict(head_dim=16, attn_logit_softcapping=0.1, query_pre_attn_scalar=16)),
    "gemma3": ("Gemma3", dict(head_dim=16, sliding_window=8)),
    "mixtral": ("Mixtral", dict(num_local_experts=3)),
    "granite": ("Granite", dict(logits_scaling=2.0)),
    "llama4": (
        "Llama4Text",
        dict(head_dim=8, intermediate_size_mlp=48, num_local_experts=2, no_rope_layers=[1, 0], attention_chunk_size=16),
    ),
    "minimax": (
        "MiniMax",
        dict(layer_types=["linear_attention", "full_attention"], num_local_experts=2, num_experts_per_tok=1,
             head_dim=8, block_size=8),
    ),
}  # fmt: skip


def tiny(name: str, seed: int = 0, scale: float = 4.0, **changes: Any) -> Any:
    """A model of one architecture, its projections `scale` times as large as usual, for attention with contrast."""
    torch.manual_seed(seed)
    config = _config(name, changes)
    model: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "proj" in parameter_name or "c_attn" in parameter_name:
                parameter.mul_(scale)
    return model


def _config(name: str, changes: dict[str, Any]) -> Any:
    if name in _CONFIGS:
        kind, own = _CONFIGS[name]
        kind = "Gemma3Text" if kind == "Gemma3" else kind
        return getattr(transformers, kind + "Config")(**{**_LLAMA, **own, **changes})
    makers: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2, **changes
        ),
        "bloom": lambda: transformers.BloomConfig(
            vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, **changes
        ),
        "mamba": lambda: transformers.MambaConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8, use_mambapy=False, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, **changes,
        ),
        "mamba2": lambda: transformers.Mamba2Config(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2,
            chunk_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, **changes,
        ),
        "bamba": lambda: transformers.BambaConfig(
            **{**_LLAMA, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
               "mamba_chunk_size": 8, "pad_token_id": 0, **changes}
        ),
        "lfm2": lambda: transformers.Lfm2Config(
            **{**_LLAMA, "layer_types": ["conv", "full_attention"], "pad_token_id": 0, **changes}
        ),
    }  # fmt: skip
    return makers[name]()
