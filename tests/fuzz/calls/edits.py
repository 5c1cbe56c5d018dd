"""Calls of what looks into a language model, and of what changes it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from calls.world import Call, World
from feynkac.models import edits


def list_edits(world: World) -> dict[str, Call]:
    """Edits of each kind, in a run; what makes vectors for them; files of both."""
    return {**_edits(world), **_directions(world), **_files(world)}


def _edits(world: World) -> dict[str, Call]:
    vector = torch.ones(WIDTH)

    def run(edit: Any) -> None:
        world.run_task(world.lm.edited(edit).prompt("ab", max_tokens=2))

    where = {"layer": 0, "of": "residual", "scope": "response", "strength": 0.5, "when": None}
    heads = {"layer": 0, "heads": [0], "queries": "all"}
    return {
        "Add": Call(edits.Add, {"direction": vector, **where}, run),
        "ProjectOut": Call(edits.ProjectOut, {"direction": vector, **where}, run),
        "Affine": Call(edits.Affine, {"matrix": torch.eye(WIDTH), "offset": vector, **where}, run),
        "Apply": Call(edits.Apply, {"function": lambda x: x, **where}, run),
        "what Apply returns": Call(lambda value: edits.Apply(lambda x: x * value, layer=0), {"value": vector}, run),
        "what a schedule returns": Call(
            lambda value: edits.Add(vector, layer=0, strength=lambda steps: value * steps), {"value": 1.0}, run
        ),
        "Clamp": Call(edits.Clamp, {"features": Identity(), "values": {0: 1.0}, **where}, run),
        "Emphasise": Call(edits.Emphasise, {"spans": "a", "alpha": 0.1, **heads}, run),
        "BiasAttention": Call(edits.BiasAttention, {"bias": torch.zeros(2), **heads}, run),
        "ScaleHeads": Call(edits.ScaleHeads, {"factors": {(0, 0): 0.5}}, run),
        "Shift": Call(edits.Shift, {"differences": {"lm_head.weight": torch.zeros(5, WIDTH)}}, run),
        "SkipLayers": Call(edits.SkipLayers, {"layers": [0]}, run),
        "Adapter": Call(edits.Adapter, {"source": "/no/such/folder"}, run),
        "Steps": Call(edits.Steps, {"first": 0, "last": 1}, lambda steps: run(edits.Add(vector, layer=0, scope=steps))),
        "Span": Call(edits.Span, {"text": "a", "at": 0}, lambda span: run(edits.Emphasise(span))),
        "Probe": Call(
            edits.Probe,
            {"weight": vector, "offset": torch.tensor(0.0), "threshold": 0.5, "layer": 0},
            lambda probe: run(edits.Add(vector, layer=0, when=probe)),
        ),
        "DivergentLM": Call(
            edits.DivergentLM,
            {"plain": world.lm, "edits": [edits.SkipLayers([0])], "most": 1.0},
            lambda lm: world.run_task(lm.prompt("a", max_tokens=2)),
            many="edits",
        ),
    }  # fmt: skip


def _directions(world: World) -> dict[str, Call]:
    lm, texts = world.lm, ["a", "b"]
    seen, other = edits.capture(lm, texts), edits.capture(lm, ["ab", "ba"])
    direction = edits.Direction({0: torch.ones(WIDTH), 1: torch.ones(WIDTH)})
    example = edits.Example("ab", "a", "b", ("a",))

    def add(made: Any) -> None:
        world.run_task(lm.edited(edits.Add(made, layer=0)).prompt("a", max_tokens=2))

    calls: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "capture": (edits.capture, {"lm": lm, "texts": texts, "layers": [0], "at": "last"}),
        "fit_affine": (edits.fit_affine, {"toward": seen, "away": other, "layer": 0}),
        "fit_probe": (edits.fit_probe, {"toward": seen, "away": other, "layer": 0}),
        "fit_prefix": (edits.fit_prefix, {"lm": lm, "pairs": [("ab", "a")], "scope": range(0, 1), "steps": 1}),
        "invert": (edits.invert, {"lm": lm, "sentence": "a", "layer": 0, "steps": 1, "prompt": "b"}),
        "choose_layer": (edits.choose_layer, {"lm": lm, "direction": direction, "prompts": texts}),
        "contrast_layers": (edits.contrast_layers, {"lm": lm, "direction": direction, "prompts": texts}),
        "describe": (edits.describe, {"lm": lm, "direction": direction, "layer": 0, "prompts": texts, "top": 2}),
        "decompose": (
            edits.decompose, {"direction": direction, "features": Identity(), "layer": 0, "terms": 2},
        ),
        "match_features": (edits.match_features, {"one": Identity(), "other": Identity(), "width": WIDTH}),
        "target_features": (
            edits.target_features,
            {"lm": lm, "features": Identity(), "texts": texts, "layer": 0, "read_at": 1, "vectors": 2},
        ),
        "measure_attention": (edits.measure_attention, {"lm": lm, "prompt": "ab", "texts": texts, "span": "a"}),
        "profile_heads": (edits.profile_heads, {"lm": lm, "examples": [example], "alpha": 0.1}),
        "profile_effects": (edits.profile_effects, {"lm": lm, "prompts": texts, "corrupted": [("a", "b")]}),
        "Example": (edits.Example, {"prompt": "ab", "span": "a", "answer": "b"}),
        "Anatomy": (edits.Anatomy, {"model": lm.model}),
    }  # fmt: skip
    return {
        **{name: Call(function, valid) for name, (function, valid) in calls.items()},
        "Direction": Call(edits.Direction, {"vectors": {0: torch.ones(WIDTH)}}, add),
        "Direction.from_pairs": Call(edits.Direction.from_pairs, {"lm": lm, "pairs": [("a", "b"), ("ab", "ba")]}, add),
        "fit_direction": Call(edits.fit_direction, {"toward": seen, "away": other, "method": "difference"}, add),
        "fit_function_vector": Call(edits.fit_function_vector, {"lm": lm, "prompts": texts, "layer": 0}, add),
    }


def _files(world: World) -> dict[str, Call]:
    path, kept = world.folder / "edit.safetensors", edits.Direction({0: torch.ones(WIDTH)})
    edits.save_edits(edits.Add(torch.ones(WIDTH), layer=0), world.folder / "kept.safetensors")
    kept.save(world.folder / "direction.safetensors")
    return {
        "save_edits": Call(edits.save_edits, {"edits": [edits.SkipLayers([0])], "path": path}),
        "load_edits": Call(edits.load_edits, {"path": world.folder / "kept.safetensors"}),
        "save_direction": Call(edits.save_direction, {"direction": kept, "path": path}),
        "load_direction": Call(edits.load_direction, {"path": world.folder / "direction.safetensors"}),
    }


WIDTH = 16
"""Of the tiny model's residual stream."""


class Identity:
    """An autoencoder whose features are the activations themselves."""

    def encode(self, x: Any, /) -> Any:
        return x

    def decode(self, feature_acts: Any, /) -> Any:
        return feature_acts
