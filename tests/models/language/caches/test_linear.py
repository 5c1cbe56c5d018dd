"""Linear layers by faster operators: the same numbers, and only where they serve."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models.language.caches import linear
from feynkac.models.language.caches.twin import Twins


@pytest.fixture(autouse=True)
def on_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    if linear._by_onednn is None or not torch.backends.mkl.is_available():
        pytest.skip("this torch has other operators")
    monkeypatch.setattr(linear, "is_amd", lambda: True)


def make(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A layer, and its quickened copy on the same weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=bias, dtype=dtype))
    return model, linear.quicken(copy.deepcopy(model))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 24), (1, 24), (1, 1, 24), (2, 24), (3, 24), (2, 2, 24), (5, 24), (3, 70, 24)])
@torch.inference_mode()
def test_every_number_of_rows_gives_what_torch_gives(bias: bool, shape: tuple[int, ...]) -> None:
    model, quick = make(bias)
    x = torch.randn(shape)
    torch.testing.assert_close(quick(x), model(x))
    assert quick(x).is_contiguous() and quick(x).shape == model(x).shape


@torch.inference_mode()
def test_rows_that_do_not_lie_evenly_are_read_right() -> None:
    model, quick = make()
    for x in (
        torch.randn(24, 3).T,
        torch.randn(24, 9).T,
        torch.randn(3, 6, 48)[:, ::2, ::2],
        torch.randn(1, 24).expand(7, 24),
    ):
        torch.testing.assert_close(quick(x), model(x))


@torch.inference_mode()
def test_weights_changed_in_place_are_seen() -> None:
    model, quick = make()
    quick[0].weight.mul_(2.0)
    model[0].weight.mul_(2.0)
    for rows in (1, 9):
        x = torch.randn(rows, 24)
        torch.testing.assert_close(quick(x), model(x))


@pytest.mark.parametrize("rows", [1, 9])
def test_gradients_flow_as_through_torch(rows: int) -> None:
    model, quick = make()
    x = torch.randn(rows, 24, requires_grad=True)
    one, other = (torch.autograd.grad(m(x).square().sum(), x)[0] for m in (model, quick))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.inference_mode()
def test_other_precisions_are_left_to_torch_bit_by_bit(dtype: torch.dtype) -> None:
    model, quick = make(dtype=dtype)
    x = torch.randn(3, 24, dtype=dtype)
    assert torch.equal(quick(x), model(x))


@torch.inference_mode()
def test_autocast_lowers_as_it_would() -> None:
    model, quick = make()
    x = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert quick(x).dtype == torch.bfloat16 and torch.equal(quick(x), model(x))


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    class Other(nn.Linear):
        pass

    patched, model = nn.Linear(4, 4), nn.Sequential(Other(4, 4))
    patched.forward = lambda x: x + 1.0  # as accelerate's hooks do
    model.append(patched)
    before = patched.forward
    linear.quicken(model)
    assert "forward" not in vars(model[0]) and model[1].forward is before


@torch.inference_mode()
def test_hooks_run_as_ever() -> None:
    _, quick = make()
    quick[0].register_forward_hook(lambda module, args, out: out * 0.0)
    assert not quick(torch.randn(2, 24)).any()


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "is_amd", lambda: False)
    model = nn.Sequential(nn.Linear(4, 4))
    assert "forward" not in vars(linear.quicken(model)[0])


def pack(model: nn.Module) -> nn.Module:
    """A quickened copy of a model that multiplies by packed weights."""
    return linear.quicken(copy.deepcopy(model, {id(p): p for p in model.parameters()}), linear.Packing(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 3, 9, 70])
@torch.inference_mode()
def test_packed_weights_give_the_same(dtype: torch.dtype, rows: int) -> None:
    model, _ = make(dtype=dtype)
    x = torch.randn(rows, 2, 24, dtype=dtype)
    torch.testing.assert_close(pack(model)(x), model(x))


@torch.inference_mode()
def test_a_weight_that_is_swapped_is_not_taken_for_the_packed_one() -> None:
    model, _ = make()
    packed, x = pack(model), torch.randn(9, 24)
    packed[0]._parameters["weight"] = model[0].weight * 2.0
    torch.testing.assert_close(packed(x), 2.0 * model(x) - model[0].bias)


def test_a_packed_model_is_the_same_law_and_follows_its_weights(tiny_lm: Any) -> None:
    plain = tiny_lm()
    packed = fk.CausalLM(plain.model, plain.tokenizer, eos=plain._eos, packed=True)
    rows = [lm.score("a", ["b", "abab"])[0] for lm in (plain, packed)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-4)
    twins = packed.find_twins()
    assert packed.find_twins() is twins
    with torch.no_grad():
        plain.model.get_output_embeddings().weight.mul_(3.0)
    assert packed.find_twins() is not twins
    changed = [lm.score("a", ["b", "abab"])[0] for lm in (plain, packed)]
    assert changed[0] == pytest.approx(changed[1], abs=1e-4) and changed[0] != pytest.approx(rows[0], abs=1e-2)


def test_what_cannot_be_packed_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_lm: Any) -> None:
    plain = tiny_lm()
    with pytest.raises(ModelError, match="leave packed out"):
        fk.CausalLM(copy.deepcopy(plain.model).double(), plain.tokenizer, packed=True)
    monkeypatch.setattr("feynkac.models.language.caches.twin._copy_if_possible", lambda model: None)
    with pytest.raises(ModelError, match="can be copied"):
        Twins(plain.model, packed=True)
