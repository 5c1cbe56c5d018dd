"""Directions as files: what is written is read again; other tools' files, written by hand; nothing in a file is run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Direction, load_direction, save_direction

VECTORS = {3: torch.arange(4.0), 11: torch.tensor([0.5, -1.0, 2.0, 1e-8])}


def check_vectors(found: Direction) -> None:
    assert sorted(found) == [3, 11] and all(torch.equal(found[layer], VECTORS[layer]) for layer in VECTORS)


def test_a_direction_is_read_as_it_was_saved(tmp_path: Path) -> None:
    direction = Direction(VECTORS, {3: 0.75, 11: 1.0}, "attention", "pca")
    direction.save(tmp_path / "calm.safetensors")
    found = Direction.load(tmp_path / "calm.safetensors")
    check_vectors(found)
    assert found.separation == direction.separation and (found.of, found.method) == ("attention", "pca")
    rows = Direction({0: torch.ones(3, 4)})
    save_direction(rows, tmp_path / "rows.safetensors")
    assert load_direction(str(tmp_path / "rows.safetensors"))[0].shape == (3, 4)


def test_a_control_vector_of_repeng_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "calm.gguf"
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer, vector in VECTORS.items():
        writer.add_tensor(f"direction.{layer}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_vectors(load_direction(path))


@pytest.mark.parametrize("kind", ["F16", "F64", "BF16", "Q8_0"])
def test_a_control_vector_of_every_precision_is_read(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    vector, of, path = np.arange(-16, 16, dtype=np.float32), gguf.GGMLQuantizationType[kind], tmp_path / "calm.gguf"
    data = vector.astype(np.float64) if kind == "F64" else gguf.quantize(vector[None], of)[0]
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_tensor("direction.3", data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.testing.assert_allclose(load_direction(path)[3], vector, atol=16 / 127 / 2 if kind == "Q8_0" else 0.0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_vectors_of_steering_vectors_are_read(tmp_path: Path, wrapped: bool) -> None:
    torch.save({"layer_activations": VECTORS, "layer_type": "decoder_block"} if wrapped else VECTORS, tmp_path / "v.pt")
    check_vectors(load_direction(tmp_path / "v.pt"))


@dataclass
class SteeringVector:
    layer_activations: dict[int, torch.Tensor]


class Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({0: torch.ones(2), 1: Dangerous(tmp_path / "made")}, tmp_path / "v.pt")
    with pytest.raises(ArgumentError, match="would run code"):
        load_direction(tmp_path / "v.pt")
    assert not (tmp_path / "made").exists()
    torch.save(SteeringVector(VECTORS), tmp_path / "whole.pt")
    with pytest.raises(ArgumentError, match=r"torch.save\(steering_vector.layer_activations"):
        load_direction(tmp_path / "whole.pt")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in ("a.safetensors", "a.gguf", "a.pt"):
        (tmp_path / name).write_bytes(b"no such thing, but long enough for a header" * 4)
        with pytest.raises(ArgumentError, match=name):
            load_direction(tmp_path / name)
    save_file({"model.embed": torch.ones(2)}, tmp_path / "model.safetensors")
    for name, given, said in (("list.pt", [torch.ones(2)], "layer: vector"), ("names.pt", {"a": 1}, "layer: vector")):
        torch.save(given, tmp_path / name)
        with pytest.raises(ArgumentError, match=said):
            load_direction(tmp_path / name)
    for name, said in (("model.safetensors", "must be 'layer.0'"), ("none.pt", "no file"), ("v.npz", "ends in none")):
        with pytest.raises(ArgumentError, match=said):
            load_direction(tmp_path / name)
    np.save(tmp_path / "v.npy", np.ones(2))
    with pytest.raises(ArgumentError, match=r"saved as .safetensors"):
        Direction(VECTORS).save(tmp_path / "v.npy")
