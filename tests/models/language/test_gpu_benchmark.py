"""The benchmark of GPUs: its logic, with a tiny model on the CPU, and its count of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import gpu

    return gpu


def test_it_runs_to_its_end_on_a_cpu(gpu, capsys, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "time_generated", lambda *arguments: None)  # as where memory runs out
    gpu.main(["--smoke"])
    table, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    rows = json.loads(line)["gpu"]
    assert [(row["particles"], row["prompt"]) for row in rows] == [(4, 8), (4, 40), (8, 8), (8, 40)]
    assert all(row["step"] > 0 and row["generate"] is None for row in rows)
    assert table.count("out of memory") == 4


@pytest.mark.parametrize("name", ["135M", "1B", "8B"])
def test_its_floors_count_the_weights_that_a_step_reads(gpu, name) -> None:
    """All but the embedding, of which a step reads a few rows, and the norms' vectors."""
    import torch
    from transformers import AutoModelForCausalLM

    shape = gpu.SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.make_config())
    read = [p.numel() for key, p in model.named_parameters() if p.ndim == 2 and "embed" not in key]
    assert shape.weights == sum(read)
    cache = 2 * 2 * shape.layers * shape.key_heads * shape.size
    assert shape.count_bytes(10, 100, 5) == 2 * sum(read) + cache * 150 + 4 * 10 * shape.vocabulary
