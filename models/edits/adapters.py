"""Adapters of the library peft as edits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.models.edits.activations import write_edit
from feynkac.models.edits.scopes import (
    Scope,
    Strength,
    check_scope,
    is_inside,
    measure,
    name_scope,
    prepare_changes,
    read_strength,
)
from feynkac.models.language.editing import Anatomy, Change, Mechanism, Prepared, Where

_KNOWN = frozenset({
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "fan_in_fan_out",
    "init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size", "ensure_weight_tying",
})  # fmt: skip
"""The settings of peft that leave it at W x + factor B A x, or are seen in the matrices. Others, if on, are refused."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""The beginnings of LoRA's initialisations that take what they begin with out of the base model's own weights."""
_MERGE = "merge it into a copy of the model (merge_and_unload) and make that a CausalLM of its own"


class Matrices(NamedTuple):
    """What LoRA adds at a layer: factor * up (down x)."""

    down: Tensor
    """(r, in)"""
    up: Tensor
    """(out, r)"""
    factor: float


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A LoRA adapter of the library peft as an edit, so that base and adapter run in one batch (Hu et al. 2021).

    `source`: the folder that `save_pretrained` writes (adapter_config.json, adapter_model.safetensors), or a PeftModel
    with one active adapter, which is only read. Its matrices act on activations, with `strength` and `scope` as any
    edit; no weight is merged or copied. Raises ArgumentError for adapters of another kind (DoRA, biases, whole modules
    or embeddings saved beside, weights of the base changed by the initialisation), for one of the output layer, and for
    one of another model.
    """

    source: Any
    strength: Strength = 1.0
    scope: Scope = "all"

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        check_scope(self.scope)
        strength = read_strength(self.strength)
        changes = []
        for name, matrices in self.matrices.items():
            try:
                module = anatomy.model.get_submodule(name)
            except AttributeError:
                raise ArgumentError(f"the adapter changes '{name}', which this model does not have") from None
            weight, (down, up, _) = getattr(module, "weight", None), matrices
            if weight is None or {down.shape[1], up.shape[0]} != set(weight.shape) or len(down) != up.shape[1]:
                raise ArgumentError(f"the adapter's matrices for {name} do not fit it: they belong to another model")
            if module is anatomy.model.get_output_embeddings():
                raise ArgumentError(f"the adapter changes the output layer '{name}', and is no edit; {_MERGE}")
            changes.append(Change(name, self._add(matrices, strength)))
        return Prepared() if strength == 0.0 else prepare_changes(changes, self.scope)

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism | None:
        """See `feynkac.models.language.editing.Mechanical`."""
        strength = read_strength(self.strength)
        if callable(strength):
            return None
        parts = self.matrices.values()
        sizes = [abs(strength * factor) * float(up.float().norm() * down.float().norm()) for down, up, factor in parts]
        return Mechanism((name_scope(self.scope), tuple(len(down) for down, *_ in parts)), tuple(sizes))

    def _add(self, matrices: Matrices, strength: Strength) -> Callable[..., Tensor]:
        down, up, factor = matrices

        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            amount = is_inside(self.scope, where).to(value.dtype) * measure(strength, where) * factor
            return value + amount[..., None].to(value.dtype) * ((given @ down.to(value).T) @ up.to(value).T)

        return act

    @cached_property
    def matrices(self) -> dict[str, Matrices]:
        """By the module's name in the base model."""
        config, tensors = _read_folder(Path(self.source)) if isinstance(self.source, str | Path) else self._read_model()
        sides: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", name)
            if found is None:
                raise ArgumentError(f"the adapter holds '{name}', which is no LoRA matrix of a linear layer; {_MERGE}")
            sides.setdefault(found[1], {})[found[2]] = tensor
        for module, each in sides.items():
            if len(each) < 2:
                lacks = "B" if "A" in each else "A"
                raise ArgumentError(f"the adapter holds '{module}' without its lora_{lacks}: it was not saved whole")
        if not sides:
            raise ArgumentError("the adapter holds no matrices")
        return {
            module: Matrices(each["A"], each["B"], _find_factor(config, module, len(each["A"])))
            for module, each in sides.items()
        }

    def _read_model(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        configs: Any = getattr(self.source, "peft_config", None)
        active: Any = getattr(self.source, "active_adapters", None)
        if not isinstance(configs, Mapping) or active is None:
            raise ArgumentError(f"source is {type(self.source).__name__}; give a folder, or a PeftModel")
        listed: Any = active() if callable(active) else active
        names = list(listed)
        if len(names) != 1:
            raise ArgumentError(f"the adapters {names} are active; activate one, or give a folder for each edit")
        with needing("adapters", "a PeftModel is read by peft"):
            from peft import get_peft_model_state_dict

        config = configs[names[0]].to_dict()
        _check_plain(config)
        own = get_peft_model_state_dict(self.source, adapter_name=names[0], save_embedding_layers=False)
        return config, {name: tensor.detach() for name, tensor in own.items()}


def _check_plain(config: Mapping[str, Any]) -> None:
    """Raises ArgumentError for whatever is more than LoRA on a base model as it is."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ArgumentError(f"only plain LoRA adapters are edits, and this one is {kind}; {_MERGE}")
    refused = [name for name, value in config.items() if name not in _KNOWN and value and (name, value) != _NO_BIAS]
    if refused:
        raise ArgumentError(f"only plain LoRA adapters are edits, and this one has {', '.join(refused)}; {_MERGE}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise ArgumentError(
            f"init_lora_weights={quote(start)} has changed the base model's own weights; save the adapter as plain "
            "LoRA with save_pretrained(path_initial_model_for_weight_conversion=...)"
        )


_NO_BIAS = ("bias", "none")


def _find_factor(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r of a module, which patterns name by the end of its name, as regular expressions."""
    patterns = config.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?(?:{pattern})", module))
    alpha = next(own, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as cause:
        raise ArgumentError(
            f"cannot read an adapter from '{folder}': it must hold adapter_config.json and adapter_model.safetensors"
        ) from cause
    _check_plain(config)
    return config, tensors
