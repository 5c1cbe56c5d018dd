"""Edits of parameters: task vectors, heads scaled, adapters; only in the edited model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import as_whole
from feynkac.models.edits.activations import write_edit
from feynkac.models.edits.scopes import (
    Scope,
    Strength,
    check_scope,
    is_inside,
    measure,
    prepare_changes,
    read_factor,
    read_strength,
)
from feynkac.models.language.editing import Anatomy, Change, Prepared, Where


@dataclass(frozen=True, eq=False, repr=False)
class Shift:
    """A difference added to parameters: W + strength * difference (task vectors; Ilharco et al. 2023).

    `differences`: tensors by the dotted names of parameters, such as those of a fine-tuned model less its base; a
    negative strength takes away what was learned, as Safety Arithmetic does (Hazra et al. 2024). `share`: the part of
    the entries to keep, those of largest size in each parameter. Parameters that are tied to it change with it, unless
    they have a difference of their own. What is edited is copied, and the prompts of such a model share no batch with
    those of another. Raises ArgumentError for a parameter that does not exist.
    """

    differences: Mapping[str, Tensor]
    strength: float = 1.0
    share: float = 1.0

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        strength, share = read_factor("the strength of weights", self.strength), read_factor("share", self.share)
        if not 0.0 < share <= 1.0:
            raise ArgumentError(f"share is {share}; it must be above 0 and at most 1")
        if not isinstance(self.differences, Mapping) or not self.differences:
            raise ArgumentError("differences are given as {name of a parameter: tensor}, of at least one")
        if strength == 0.0:
            return Prepared()
        given = {name: torch.as_tensor(difference) for name, difference in self.differences.items()}
        return Prepared(weights={name: self._add(name, value, strength, share) for name, value in given.items()})

    def _add(self, name: str, difference: Tensor, strength: float, share: float) -> Callable[[Tensor], Tensor]:
        def change(weight: Tensor) -> Tensor:
            if weight.shape != difference.shape:
                raise ArgumentError(
                    f"the difference of {name} is {tuple(difference.shape)} and the parameter {tuple(weight.shape)}"
                )
            return weight + strength * _keep_largest(difference.to(weight), share)

        return change


def _keep_largest(values: Tensor, share: float) -> Tensor:
    if share == 1.0:
        return values
    kept = max(1, int(share * values.numel()))
    least = values.abs().flatten().kthvalue(values.numel() - kept + 1).values
    return values.where(values.abs() >= least, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class ScaleHeads:
    """What single heads give, times a factor: 0 takes a head out (Soteria; Banerjee et al. 2025).

    `factors`: by (layer, head). `scope` as in `feynkac.models.edits.scopes`.
    """

    factors: Mapping[tuple[int, int], float]
    scope: Scope = "all"

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        check_scope(self.scope)
        by_layer: dict[int, Tensor] = {}
        if not isinstance(self.factors, Mapping):
            raise ArgumentError(f"factors is {self.factors!r}; give {{(layer, head): factor}}")
        for key, factor in self.factors.items():
            layer, head = key if isinstance(key, tuple) and len(key) == 2 else (None, None)
            number = as_whole(head)
            if layer is None or number is None or not 0 <= number < anatomy.heads:
                raise ArgumentError(f"{key!r} is no (layer, head): this model has heads 0..{anatomy.heads - 1}")
            found = anatomy.read_layer(layer)
            scale = by_layer.setdefault(found, torch.ones(anatomy.heads, anatomy.find_head_size(found)))
            scale[number] = read_factor(f"the factor of {key}", factor)
        changes = [
            Change(anatomy.name_output(layer), self._scale(scale.flatten()), "input")
            for layer, scale in by_layer.items()
        ]
        return prepare_changes(changes, self.scope)

    def _scale(self, scale: Tensor) -> Callable[[Tensor, Tensor, Where], Tensor]:
        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            return torch.where(is_inside(self.scope, where)[..., None], value * scale.to(value), value)

        return act


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A LoRA adapter of the library peft as an edit, so that base and adapter run in one batch (Hu et al. 2021).

    `source`: the folder that `save_pretrained` writes (adapter_config.json, adapter_model.safetensors), or a PeftModel,
    which is only read. Its matrices act on activations, with `strength` and `scope` as any edit; no weight is merged or
    copied. Raises ArgumentError for adapters of another kind (DoRA, whole modules saved beside, a bias), and for one of
    another model.
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
        if strength == 0.0:
            return Prepared()
        changes = []
        for name, (down, up, scale) in self.matrices.items():
            try:
                module = anatomy.model.get_submodule(name)
            except AttributeError:
                raise ArgumentError(f"the adapter changes '{name}', which this model does not have") from None
            weight = getattr(module, "weight", None)
            if weight is None or {down.shape[1], up.shape[0]} != set(weight.shape) or len(down) != up.shape[1]:
                raise ArgumentError(f"the adapter's matrices for {name} do not fit it: they belong to another model")
            changes.append(Change(name, self._add(down, up, scale, strength)))
        return prepare_changes(changes, self.scope)

    def _add(self, down: Tensor, up: Tensor, scale: float, strength: Strength) -> Callable[..., Tensor]:
        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            amount = is_inside(self.scope, where).to(value.dtype) * measure(strength, where) * scale
            return value + amount[..., None].to(value.dtype) * ((given @ down.to(value).T) @ up.to(value).T)

        return act

    @cached_property
    def matrices(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """By the module's name in the base model: A (r, in), B (out, r), and the factor of their product."""
        config, weights = _read_folder(Path(self.source)) if isinstance(self.source, str | Path) else self._read_model()
        refused = [name for name in ("use_dora", "modules_to_save") if config.get(name)]
        if config.get("bias", "none") != "none":
            refused.append("bias")
        if config.get("peft_type", "LORA") != "LORA" or refused:
            raise ArgumentError(f"only plain LoRA adapters are edits; this one has {refused or config['peft_type']}")
        found = {}
        for name, down in weights.items():
            if ".lora_A." not in name:
                if ".lora_B." not in name:
                    raise ArgumentError(f"the adapter holds '{name}', which is no LoRA matrix of a layer")
                continue
            module = name.split(".lora_A.")[0].removeprefix("base_model.model.")
            rank, alpha = down.shape[0], _find_alpha(config, module)
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            up = weights.get(name.replace(".lora_A.", ".lora_B."))
            if up is None:
                raise ArgumentError(f"the adapter holds '{name}' without its lora_B: it was not saved whole")
            found[module] = (down, up, scale)
        if not found:
            raise ArgumentError("the adapter holds no matrices")
        return found

    def _read_model(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        configs, state = getattr(self.source, "peft_config", None), getattr(self.source, "state_dict", None)
        if not isinstance(configs, Mapping) or state is None:
            raise ArgumentError(f"source is {type(self.source).__name__}; give a folder, or a PeftModel")
        active = getattr(self.source, "active_adapter", next(iter(configs)))
        tensors = {name: value.detach() for name, value in state().items() if ".lora_" in name}
        own = {name.replace(f".{active}.", "."): value for name, value in tensors.items() if f".{active}." in name}
        return configs[active].to_dict(), own


def _find_alpha(config: Mapping[str, Any], module: str) -> float:
    """Of a module, which the patterns name by the end of its name, as regular expressions."""
    patterns = config.get("alpha_pattern") or {}
    return next(
        (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?(?:{pattern})", module)),
        config["lora_alpha"],
    )


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as cause:
        raise ArgumentError(
            f"cannot read an adapter from '{folder}': it must hold adapter_config.json and adapter_model.safetensors"
        ) from cause
