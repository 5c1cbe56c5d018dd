"""Adapters of peft as edits, against the models that peft makes of them; what is no plain LoRA is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_edited import walk
from test_weights import PROMPTS, opened, plain
from tiny import tiny

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Adapter, Change, Prepared
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),  # of peft
    pytest.mark.filterwarnings("ignore:.*(lora_bias|LoRA tensor|aLoRA|save_embedding_layers|tie_word_embeddings)"),
]


def adapt(seed: int = 3, base: str = "llama", **settings: Any) -> Any:
    """A PeftModel of a tiny model, with matrices that are not 0."""
    model = peft.get_peft_model(copy.deepcopy(tiny(base)), peft.LoraConfig(**settings))
    fill(model, seed)
    return model.eval()


def fill(model: Any, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "delta" in name:
                parameter.normal_(0.0, 0.4)


@pytest.fixture
def adapted() -> Any:
    return adapt(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
        alpha_pattern={r"layers\.1\..*q_proj": 3},
    )  # fmt: skip


def test_an_adapter_of_peft_runs_beside_its_base_in_one_batch(adapted: Any, tmp_path: Path) -> None:
    model = tiny("llama")
    adapted.save_pretrained(tmp_path)
    read, live = [Adapter(tmp_path)], [Adapter(adapted)]
    contexts = opened(model, read, None, live, read)
    walk(contexts, PROMPTS, 4, lambda text, g: plain(model if g == 1 else adapted, text))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["v_proj"], "init_lora_weights": "gaussian", "lora_dropout": 0.3},
        {"target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1], "init_lora_weights": "orthogonal"},
        {"target_modules": ["c_attn", "c_fc"], "base": "gpt2", "fan_in_fan_out": True},
    ],
    ids=str,
)
def test_settings_that_leave_lora_what_it_is_are_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    base = settings.get("base", "llama")
    adapted = adapt(r=4, **settings)
    adapted.save_pretrained(tmp_path)
    contexts = opened(tiny(base), [Adapter(tmp_path)], None, [Adapter(adapted)], None)
    walk(contexts, PROMPTS, 4, lambda text, g: plain(tiny(base) if g % 2 else adapted, text), steps=2)


def test_an_adapter_acts_where_and_how_strongly_it_is_told(adapted: Any) -> None:
    model = tiny("llama")
    contexts = opened(model, [Adapter(adapted, strength=0.0)], None, [Adapter(adapted, scope="prompt")], None)
    logits = contexts.start()
    assert logits[0].equal(logits[2]) is False and logits[0].allclose(plain(model, PROMPTS[0]), atol=1e-4)
    torch.testing.assert_close(logits[2], plain(adapted, PROMPTS[2]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["A", "B"])
def test_an_adapter_that_was_not_saved_whole_is_refused(adapted: Any, tmp_path: Path, side: str) -> None:
    from safetensors.torch import load_file, save_file

    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if f".lora_{side}." in name))
    save_file(tensors, file)
    with pytest.raises(ArgumentError, match=f"without its lora_{side}"):
        refuse(Adapter(tmp_path))


def refuse(edit: Any, model: Any = None) -> None:
    Edits([edit], Anatomy(tiny("llama") if model is None else model))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "this one has bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' has changed"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora' has changed"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
    ],
    ids=str,
)
def test_an_adapter_that_is_more_than_lora_inside_of_the_layers_is_refused_where_it_is_made(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Live and from its folder; nothing of it is left out silently."""
    adapted = adapt(**{"r": 2, "target_modules": ["q_proj"], **settings})
    for source in (adapted, tmp_path):
        if source is tmp_path:
            adapted.save_pretrained(tmp_path)
        with pytest.raises(ArgumentError) as caught:
            refuse(Adapter(source))
        assert said in str(caught.value)
        assert "merge" in str(caught.value) or "save_pretrained" in str(caught.value)


def test_an_adapter_of_another_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    model = peft.get_peft_model(
        copy.deepcopy(tiny("llama")), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    )
    with pytest.raises(ArgumentError, match="plain LoRA"):
        refuse(Adapter(model))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "VERA", "lora_alpha": 1}))
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArgumentError, match="this one is VERA"):
        refuse(Adapter(tmp_path))


def test_one_adapter_of_several_is_taken_only_where_it_alone_is_active(adapted: Any) -> None:
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["k_proj"]))
    fill(adapted, 5)
    adapted.set_adapter("other")
    edit = Adapter(adapted)
    assert {name.rpartition(".")[2] for name in edit.matrices} == {"k_proj"}
    walk(opened(tiny("llama"), *[[edit]] * 4), PROMPTS, 4, lambda text, g: plain(adapted, text), steps=1)
    adapted.base_model.set_adapter(["default", "other"])
    with pytest.raises(ArgumentError, match=r"\['default', 'other'\] are active"):
        refuse(Adapter(adapted))


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_edit_of_the_output_layer_is_refused_where_it_is_made(side: Any) -> None:
    class Louder:
        def prepare(self, anatomy: Anatomy) -> Prepared:
            return Prepared([Change("lm_head", lambda value, given, where: 1.5 * value, side)])

    with pytest.raises(ArgumentError, match="changes the output layer 'lm_head'"):
        refuse(Louder())


def test_an_adapter_that_does_not_fit_is_refused_where_it_is_made(adapted: Any, tiny_lm: Any, tmp_path: Path) -> None:
    lm = tiny_lm("a", "b")
    for edit, said in (
        (Adapter(tmp_path), "it must hold adapter_config.json"),
        (Adapter(3), "give a folder, or a PeftModel"),
        (Adapter(adapted), "they belong to another model"),
        (Adapter(adapted, strength=0.0), "they belong to another model"),
    ):
        with pytest.raises(ArgumentError, match=said):
            lm.edited(edit)
