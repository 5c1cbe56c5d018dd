"""Tensors that are not a user's stand where the model does, whatever device torch takes by default."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import feynkac as fk
from feynkac.models import diffusion as fd, edits as fe
from feynkac.potentials import diffusion as fp

HOME = Path(__file__).parents[2]
MAKERS = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros",
}  # fmt: skip
LANGUAGE = (
    "models/edits",
    "models/language",
    "potentials/constraints",
    "potentials/rewards",
    "potentials/twists",
    "programs",
)
OTHERS = ("models/diffusion", "potentials/diffusion")
"""Rooms that read tensors of a user by `as_tensor`, which are left where they are."""


def list_makers(path: Path, makers: set[str]) -> list[str]:
    """The lines where a tensor is made on no device that is named."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in makers]
    torchs = [call for call in made if isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"]
    return [
        f"{path.relative_to(HOME)}:{call.lineno}" for call in torchs if "device" not in {k.arg for k in call.keywords}
    ]


@pytest.mark.parametrize(("places", "makers"), [(LANGUAGE, MAKERS), (OTHERS, MAKERS - {"as_tensor"})])
def test_every_tensor_is_made_on_a_device_that_is_named(places, makers) -> None:
    files = [file for place in places for file in sorted((HOME / place).rglob("*.py"))]
    files = [file for file in files if places is OTHERS or "diffusion" not in file.parts]
    assert len(files) > 40
    assert [line for file in files for line in list_makers(file, makers)] == []


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


def test_a_default_device_of_torch_changes_no_edit(tiny_lm, request) -> None:
    lm = tiny_lm("a", "b")

    def run() -> tuple[list[str], float]:
        direction = fe.fit_direction(fe.capture(lm, ["ab", "aab"]), fe.capture(lm, ["b", "bb"]))
        edited = lm.edited(fe.Add(direction, layer=0))
        result = fk.steer(edited.prompt("a", max_tokens=3), fk.regex("[ab]*b"), particles=4, seed=0)
        return result.texts, result.log_evidence

    before = run()
    request.getfixturevalue("nowhere")
    assert run() == before


@pytest.mark.parametrize("through", ["x0hat", "denoiser"])
def test_a_default_device_of_torch_changes_no_sampler(through, request) -> None:
    prior = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.3)
    seen = fp.observed(fp.linear(torch.ones(1, 2)), torch.ones(1), noise=1.0)
    sampler = fd.DiffusionSampler(prior, fd.ddpm(4), (2,), proposal=fd.Guided(seen, through=through))

    def run() -> fk.Result:
        return fk.steer(sampler, seen, particles=4, seed=0)

    before = run()
    request.getfixturevalue("nowhere")
    assert run().log_evidence == before.log_evidence
