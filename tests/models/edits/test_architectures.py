"""The parts of architectures that name them, or build them, in ways of their own; against plain hooks by name."""

from __future__ import annotations

import copy
import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_edited import PROMPTS
from tiny import VOCAB, tiny

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.edits import Add, Apply, Emphasise, ScaleHeads, measure_attention
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere
from feynkac.models.language.lm import CausalLM

_IDS: dict[str, Any] = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0)
_SIZES: dict[str, Any] = dict(
    _IDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64
)
_OPT: dict[str, Any] = dict(
    _IDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
)
CONFIGS: dict[str, Callable[[], Any]] = {
    "opt": lambda: transformers.OPTConfig(**_OPT, word_embed_proj_dim=32),
    "opt that projects": lambda: transformers.OPTConfig(**_OPT, word_embed_proj_dim=16),
    "phi": lambda: transformers.PhiConfig(**_SIZES),
    "neox": lambda: transformers.GPTNeoXConfig(**_SIZES),
    "neo": lambda: transformers.GPTNeoConfig(
        **_IDS, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]], intermediate_size=48,
        max_position_embeddings=64,
    ),
    "deepseek": lambda: transformers.DeepseekV3Config(
        **_SIZES, num_key_value_heads=4, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2,
        q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, v_head_dim=12, qk_nope_head_dim=8,
        moe_intermediate_size=16, first_k_dense_replace=1,
    ),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=64
    ),
}  # fmt: skip


def make(kind: str) -> Any:
    if kind not in CONFIGS:
        return tiny(kind, **({"sliding_window": 64} if kind == "gemma3" else {}))
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()


def check(model: Any, edit: Any, module: str, change: Callable[[Any], Any], side: str = "output") -> None:
    """Prompts of one batch, one more token each, against whole texts one by one with a plain hook."""
    edits = Edits([edit], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
    contexts.start()
    found = contexts.extend(np.arange(4), np.array([7, 9, 3, 5]))
    place = model.get_submodule(module)
    if side == "input":
        handle = place.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    else:
        handle = place.register_forward_hook(
            lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
        )
    texts = [[*prompt, token] for prompt, token in zip(PROMPTS, [7, 9, 3, 5], strict=True)]
    with torch.inference_mode():
        wanted = [model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float() for text in texts]
        handle.remove()
        plain = model(input_ids=torch.tensor([texts[0]]), use_cache=False).logits[0, -1].float()
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)
    assert (wanted[0] - plain).abs().max() > 1e-5


SITES = [
    ("gpt2", "attention", "transformer.h.1.attn"),
    ("gpt2", "mlp", "transformer.h.1.mlp"),
    ("gpt2", "heads", "transformer.h.1.attn.c_proj"),
    ("mixtral", "attention", "model.layers.1.self_attn"),
    ("mixtral", "mlp", "model.layers.1.mlp"),
    ("mixtral", "heads", "model.layers.1.self_attn.o_proj"),
    ("phi", "attention", "model.layers.1.self_attn"),
    ("phi", "mlp", "model.layers.1.mlp"),
    ("phi", "heads", "model.layers.1.self_attn.dense"),
    ("gemma3", "attention", "model.layers.1.self_attn"),
    ("gemma3", "mlp", "model.layers.1.mlp"),
    ("gemma3", "heads", "model.layers.1.self_attn.o_proj"),
    ("gemma3", "embedding", "model.embed_tokens"),
    ("neox", "attention", "gpt_neox.layers.1.attention"),
    ("neox", "mlp", "gpt_neox.layers.1.mlp"),
    ("neox", "heads", "gpt_neox.layers.1.attention.dense"),
    ("opt", "attention", "model.decoder.layers.1.self_attn"),
    ("opt", "heads", "model.decoder.layers.1.self_attn.out_proj"),
    ("opt that projects", "residual", "model.decoder.layers.1"),
    ("opt that projects", "embedding", "model.decoder.embed_tokens"),
    ("opt that projects", "heads", "model.decoder.layers.1.self_attn.out_proj"),
    ("neo", "heads", "transformer.h.1.attn.attention.out_proj"),
    ("deepseek", "heads", "model.layers.1.self_attn.o_proj"),
    ("deepseek", "mlp", "model.layers.1.mlp"),
    ("bloom", "heads", "transformer.h.1.self_attention.dense"),
    ("mpt", "attention", "transformer.blocks.1.attn"),
]


@pytest.mark.parametrize(("kind", "of", "module"), SITES)
def test_a_part_is_edited_as_a_plain_hook_edits_it(kind: str, of: Any, module: str) -> None:
    edit = Apply(lambda h: 1.5 * h + 0.5, layer=None if of == "embedding" else 1, of=of, scope="all")
    check(make(kind), edit, module, lambda h: 1.5 * h + 0.5, "input" if of == "heads" else "output")


@pytest.mark.parametrize(
    ("kind", "module", "size"),
    [
        ("gpt2", "transformer.h.1.attn.c_proj", 8),
        ("gemma3", "model.layers.1.self_attn.o_proj", 16),
        ("opt that projects", "model.decoder.layers.1.self_attn.out_proj", 8),
        ("deepseek", "model.layers.1.self_attn.o_proj", 12),
    ],
)
def test_a_heads_width_is_what_its_output_projection_reads(kind: str, module: str, size: int) -> None:
    factor = torch.ones(4, size)
    factor[2] = 0.25
    model = make(kind)
    assert Anatomy(model).find_head_size(1) == size
    check(model, ScaleHeads({(1, 2): 0.25}), module, lambda h: h * factor.flatten(), "input")
    Edits([Add(torch.ones(4 * size), layer=1, of="heads")], Anatomy(model))
    with pytest.raises(ArgumentError, match=f"layers of {4 * size}"):
        Edits([Add(torch.ones(4 * size + 4), layer=1, of="heads")], Anatomy(model))


def test_the_width_of_a_residual_need_not_be_that_of_the_embedding() -> None:
    model = make("opt that projects")
    Edits([Add(torch.ones(32), layer=1), Add(torch.ones(16), of="embedding")], Anatomy(model))
    for wrong in (Add(torch.ones(16), layer=1), Add(torch.ones(32), of="embedding")):
        with pytest.raises(ArgumentError, match="layers of"):
            Edits([wrong], Anatomy(model))


@pytest.mark.parametrize(
    ("kind", "of", "said"),
    [
        ("bloom", "attention", "adds the residual by itself"),
        ("bloom", "mlp", "adds the residual by itself"),
        ("mpt", "mlp", "adds the residual by itself"),
        ("opt", "mlp", "no feed-forward network"),
        ("mamba", "attention", "no attention"),
        ("mamba", "heads", "no attention"),
    ],
)
def test_a_part_that_a_layer_does_not_have_is_refused_by_name(kind: str, of: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Edits([Apply(lambda h: h, layer=1, of=of)], Anatomy(make(kind)))


def test_modules_that_list_the_tokens_of_all_rows_are_edited_row_by_row() -> None:
    """OPT's feed-forward network is given (rows x tokens, width)."""
    from feynkac.models.edits import Change, Prepared, Steps
    from feynkac.models.edits.scopes import is_inside

    class Doubled:
        def prepare(self, anatomy: Any) -> Prepared:
            def change(value: Any, given: Any, where: Any) -> Any:
                return torch.where(is_inside(Steps(0, 0), where)[..., None], 3.0 * value + 1.0, value)

            return Prepared([Change("model.decoder.layers.1.fc2", change)])

    at = [len(prompt) - 1 for prompt in PROMPTS]
    model = make("opt")
    edits = Edits([Doubled()], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
    found = contexts.start()
    wanted = []
    for prompt, last in zip(PROMPTS, at, strict=True):

        def hook(module: Any, args: Any, out: Any, last: int = last) -> Any:
            new = out.clone()
            new[last] = 3.0 * out[last] + 1.0
            return new

        handle = model.model.decoder.layers[1].fc2.register_forward_hook(hook)
        with torch.inference_mode():
            wanted.append(model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].float())
        handle.remove()
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)


ATTENTIVE = ["opt", "phi", "neox", "neo", "deepseek", "mixtral", "gemma3"]


def with_bias(model: Any, text: list[int], bias: torch.Tensor, monkeypatch: Any) -> torch.Tensor:
    """(V,) logits of a plain pass whose attention scores have `bias` (Q, K) added where their softmax is taken."""
    softmax, other = torch.nn.functional.softmax, copy.deepcopy(model)
    other.set_attn_implementation("eager")

    def biased(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        attends = scores.ndim == 4 and scores.shape[2:] == bias.shape
        return softmax(scores + bias.to(scores) if attends else scores, *args, **kwargs)

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(torch.nn.functional, "softmax", biased)
        return other(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_emphasis_is_a_bias_where_the_softmax_is_taken(kind: str, monkeypatch: Any) -> None:
    """`Anywhere` marks the second token; the first keeps its weight."""
    model = make(kind)
    edits = Edits([Emphasise("anything", alpha=0.01)], Anatomy(model))
    contexts = open_contexts(Twins(model), PROMPTS, 8, [edits] * 4, Anywhere(4, torch.device("cpu")))
    contexts.start()
    found = contexts.extend(np.arange(4), np.array([7, 9, 3, 5]))
    wanted = []
    for prompt, token in zip(PROMPTS, [7, 9, 3, 5], strict=True):
        bias = torch.zeros(len(prompt) + 1, len(prompt) + 1)
        bias[:, 2 : len(prompt)] = math.log(0.01)
        wanted.append(with_bias(model, [*prompt, token], bias, monkeypatch))
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_attention_is_measured_where_each_architecture_keeps_it(kind: str, tiny_lm: Any) -> None:
    characters = (string.ascii_letters + string.digits)[: VOCAB - 1]
    lm = CausalLM(make(kind), tiny_lm(*characters).tokenizer, eos=[0])
    eager = copy.deepcopy(lm.model)
    eager.set_attn_implementation("eager")
    ids = torch.tensor([[*lm.begin("abcde"), *lm.spell("fg")]])
    with torch.inference_mode():
        every = torch.stack(eager(input_ids=ids, use_cache=False, output_attentions=True).attentions)[:, 0]
    marked = [len(lm.begin("abcde")) - 3, len(lm.begin("abcde")) - 2]
    found = measure_attention(lm, "abcde", ["fg"], "cd")[0]
    torch.testing.assert_close(found, every[:, :, -2:, marked].sum(3).mean(2), atol=1e-5, rtol=1e-4)
