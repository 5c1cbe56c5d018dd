"""Edits that are saved and loaded give the same model; what no file can hold is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_edited import vector
from test_features import Planted

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import (
    Add,
    Affine,
    Apply,
    BiasAttention,
    Clamp,
    Direction,
    Emphasise,
    ProjectOut,
    ScaleHeads,
    Shift,
    SkipLayers,
    Span,
    Steps,
    load_edits,
    save_edits,
)  # fmt: skip


def edits() -> dict[str, Any]:
    v = vector(1, 16)
    return {
        "add": Add({0: v, 1: -v}, strength=0.5, scope=Steps(0, 3), keep_norm=True),
        "a row for each position": Add(torch.stack([v, 2 * v]), layer=-1, scope=range(1, 3)),
        "project out": ProjectOut(torch.stack([v, v.flip(0)]), layer=[0, 1], scope="all", of="attention"),
        "affine": Affine(torch.eye(16).flip(0), v, layer=1, scope=Span("ab", at=0)),
        "emphasise": Emphasise(["b"], alpha=0.2, heads={0: [1, 2]}, queries="response"),
        "bias": BiasAttention(torch.tensor([0.0, 1.0, -1.0]), layer=0),
        "heads": ScaleHeads({(0, 1): 0.0, (1, 2): 1.5}),
        "shift": Shift({"lm_head.weight": torch.ones(3, 16)}, strength=-0.5, share=0.5),
        "skip": SkipLayers(range(1, 2), scope="response"),
    }


@pytest.mark.parametrize("name", list(edits()))
def test_a_loaded_edit_makes_the_same_model_bit_for_bit(tiny_lm: Any, tmp_path: Path, name: str) -> None:
    lm, edit = tiny_lm("a", "b"), edits()[name]
    ids = lm.begin("aab")
    wanted = lm.edited(edit).open([ids], 3).start()
    (loaded,) = load_edits(save_edits(edit, tmp_path / "edit.safetensors"))
    assert type(loaded) is type(edit)
    assert lm.edited(loaded).open([ids], 3).start().equal(wanted)
    assert not wanted.equal(lm.open([ids], 3).start())


def test_all_edits_of_a_model_are_saved_in_their_order(tiny_lm: Any, tmp_path: Path) -> None:
    lm = tiny_lm("a", "b")
    edited = lm.edited(edits()["add"], edits()["project out"], edits()["shift"])
    again = lm.edited(*load_edits(save_edits(edited.edits, tmp_path / "all.safetensors")))
    assert again.open([[1, 2]], 3).start().equal(edited.open([[1, 2]], 3).start())
    assert repr(again.edits[0]).startswith("Add(")


@pytest.mark.parametrize("alone", [True, False])
def test_a_run_goes_on_under_the_edits_that_it_began_with_only(tiny_lm: Any, tmp_path: Path, alone: bool) -> None:
    lm, v = tiny_lm("a", "b"), vector(1, 16)

    def task(*edits: Any) -> Any:
        edited = lm.edited(*edits).prompt("a", max_tokens=4)
        return edited if alone else [lm.prompt("a", max_tokens=4), edited]

    begun = [Add({0: v}, strength=1.0, scope=Steps(0, 3)), Emphasise("a", alpha=0.1)]
    whole = fk.steer(task(*begun), particles=2, seed=0, checkpoint=tmp_path / "run")
    same = [Add({0: v.numpy().copy()}, strength=1, scope=Steps(0, 3)), Emphasise("a", alpha=0.1)]
    again = fk.resume(tmp_path / "run", task(*same))
    assert again.texts == whole.texts if alone else [one.texts for one in again] == [one.texts for one in whole]
    for other in (
        replace(begun[0], strength=2.0),
        replace(begun[0], direction={0: -v}),
        replace(begun[0], scope="all"),
    ):
        with pytest.raises(ArgumentError, match="edits"):
            fk.resume(tmp_path / "run", task(other, begun[1]))


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    v = vector(1, 16)
    for edit in (
        Add(v, layer=0, strength=lambda steps: steps.float()), Add(v, layer=0, when=lambda h: h[..., 0] > 0),
        Apply(lambda h: h, layer=0), Clamp(Planted(16, 4), {0: 1.0}, layer=0),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match="cannot be saved"):
            save_edits(edit, tmp_path / "edit.safetensors")


def test_a_file_without_edits_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    for name, wanted in (("other", "without edits"), ("text", "cannot read edits"), ("none", "cannot read edits")):
        with pytest.raises(ArgumentError, match=wanted):
            load_edits(tmp_path / f"{name}.safetensors")


def test_numbers_and_vectors_of_numpy_are_saved(tmp_path: Path) -> None:
    vector = np.ones(16, np.float32)
    vector.flags.writeable = False
    edit = Add(vector, layer=np.int64(1), strength=np.float32(0.5))  # pyright: ignore[reportArgumentType]
    (loaded,) = load_edits(save_edits(edit, tmp_path / "edit.safetensors"))
    assert loaded.layer == 1 and loaded.strength == 0.5 and loaded.direction.tolist() == [1.0] * 16  # pyright: ignore


def test_edits_that_share_a_vector_are_saved(tmp_path: Path) -> None:
    both = torch.arange(32.0).reshape(2, 16)
    edits = [Add(both[0], layer=0), Add(both[0], layer=1), Add(both[1], layer=1), Add(both.T[:, 0], layer=0)]
    loaded = load_edits(save_edits(edits, tmp_path / "edits.safetensors"))
    for edit, again in zip(edits, loaded, strict=True):
        assert torch.equal(edit.direction, again.direction) and edit.layer == again.layer  # pyright: ignore


def test_a_file_that_was_there_stays_where_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    path = save_edits(Add(torch.ones(16), layer=0), tmp_path / "edit.safetensors")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArgumentError, match="the disk is full"):
        save_edits(Add(torch.zeros(16), layer=0), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    vector = torch.ones(16)
    with pytest.raises(ArgumentError, match="there is no folder"):
        save_edits(Add(vector, layer=0), tmp_path / "nowhere" / "edit.safetensors")
    with pytest.raises(ArgumentError, match="there is no folder"):
        Direction({0: vector}).save(tmp_path / "nowhere" / "direction.safetensors")


def test_a_file_of_vectors_alone_names_what_reads_it(tmp_path: Path) -> None:
    Direction({0: torch.ones(16)}).save(tmp_path / "direction.safetensors")
    with pytest.raises(ArgumentError, match=r"Direction\.load"):
        load_edits(tmp_path / "direction.safetensors")
