"""Linear layers by faster operators: the same numbers, and only where they serve."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from feynkac.models.language.caches import linear


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
