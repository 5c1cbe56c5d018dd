"""Tensors of the language side stand where the model does, whatever device torch takes by default."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import feynkac as fk

HOME = Path(__file__).parents[2]
MAKERS = (
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "tensor",
    "zeros",
)
PLACES = (
    "models/language",
    "potentials/constraints",
    "potentials/rewards",
    "potentials/twists",
    "programs",
)


def list_makers(path: Path) -> list[str]:
    """The lines where a tensor is made on no device that is named."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS]
    torchs = [call for call in made if isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"]
    return [
        f"{path.relative_to(HOME)}:{call.lineno}" for call in torchs if "device" not in {k.arg for k in call.keywords}
    ]


def test_every_tensor_is_made_on_a_device_that_is_named() -> None:
    files = [file for place in PLACES for file in sorted((HOME / place).rglob("*.py")) if "diffusion" not in file.parts]
    assert len(files) > 100
    assert [line for file in files for line in list_makers(file)] == []


@pytest.fixture
def nowhere():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("kind", ["power", "regex", "optimal"])
def test_a_default_device_of_torch_changes_nothing(tiny_lm, kind, request) -> None:
    lm = tiny_lm("a", "b")

    def run() -> fk.Result:
        potentials = [fk.power(2.0)] if kind == "power" else [fk.regex("[ab]*b")]
        how = {"algorithm": "optimal"} if kind == "optimal" else {}
        return fk.steer(lm.prompt("a", max_tokens=3), *potentials, particles=4, seed=0, **how)

    before = run()
    request.getfixturevalue("nowhere")
    after = run()
    assert (after.texts, after.log_evidence) == (before.texts, before.log_evidence)
