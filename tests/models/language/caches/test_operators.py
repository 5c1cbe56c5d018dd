"""Which operator attends on which device, and what comes out of it: on tensors without numbers, as no GPU is here."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from feynkac.models.language.caches import devices, operators
from feynkac.models.language.caches.operators import (
    attend,
    attend_by_flash,
    attend_by_products,
    attend_efficiently,
    choose_operator,
)

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.fixture
def gpu(monkeypatch):
    """Tensors of a device of compute capability 9.0, without numbers."""
    monkeypatch.setattr(operators, "find_capability", lambda device: (0, 0) if device.type == "cpu" else (9, 0))
    with FakeTensorMode():
        yield


def make(dtype=BRAIN, size=64, value_size=None, queries=12, keys=33, heads=2, device="cuda"):
    query = torch.empty(1, heads, queries, size, dtype=dtype, device=device)
    key = torch.empty(1, heads, keys, size, dtype=dtype, device=device)
    return query, key, torch.empty(1, heads, keys, value_size or size, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("given", "biased", "wanted"),
    [
        ({"dtype": BRAIN}, False, attend_by_flash),
        ({"dtype": HALF, "size": 96}, False, attend_by_flash),
        ({"dtype": HALF, "size": 256}, False, attend_by_flash),
        ({"dtype": BRAIN}, True, attend_efficiently),
        ({"dtype": BRAIN, "size": 264}, False, attend_efficiently),  # a head that flash attention refuses
        ({"dtype": SINGLE}, False, attend_efficiently),
        ({"dtype": SINGLE, "size": 128}, True, attend_efficiently),
        ({"dtype": DOUBLE}, False, attend_by_products),
        ({"dtype": BRAIN, "size": 60}, False, attend_by_products),  # not a multiple of eight
        ({"dtype": BRAIN, "value_size": 128}, False, attend_by_products),
        ({"dtype": BRAIN, "device": "cpu"}, False, attend_by_products),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("gpu")
def test_the_choice_of_an_operator(given, biased, wanted) -> None:
    assert choose_operator(*make(**given), biased) is wanted


@pytest.mark.usefixtures("gpu")
def test_mixed_precisions_are_served_by_products() -> None:
    query, key, value = make()
    assert choose_operator(query.float(), key, value, False) is attend_by_products


def test_an_old_device_is_served_by_products(monkeypatch) -> None:
    monkeypatch.setattr(operators, "find_capability", lambda device: (7, 5))
    with FakeTensorMode():
        assert choose_operator(*make(), False) is attend_by_products


@pytest.mark.parametrize("queries", [1, 12, 32, 33])
@pytest.mark.parametrize(("dtype", "biased"), [(BRAIN, False), (BRAIN, True), (SINGLE, False), (SINGLE, True)])
def test_shapes_and_types_of_what_operators_give(monkeypatch, queries, dtype, biased) -> None:
    monkeypatch.setattr(operators, "find_capability", lambda device: (9, 0))
    query, key, value = make(dtype, queries=queries, device="meta")
    bias = torch.empty(1, 1, queries, 33, device="meta") if biased else None
    assert choose_operator(query, key, value, biased) is not attend_by_products
    out, mass = attend(query, key, value, bias, 0.125)
    assert out.shape == query.shape and out.dtype == dtype
    assert mass.shape == query.shape[:3] and mass.dtype == torch.float32


def test_rows_of_a_bias_lie_at_multiples_of_sixteen_elements() -> None:
    """The efficient operator loads vectors of them, and refuses others."""
    bias = torch.randn(2, 1, 5, 33)
    aligned = operators._align(bias)
    assert torch.equal(aligned, bias)
    assert all(stride % 16 == 0 for stride in aligned.stride()[:-1]) and aligned.stride(-1) == 1
    assert all(stride % 16 == 0 for stride in aligned.expand(2, 4, 5, 33).stride()[:-1])


def test_the_log_mass_of_products_is_that_of_the_flash_operator() -> None:
    """Natural logarithms of scaled scores, as all of torch's operators tell it; where one can run here."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16) for n in (5, 7, 7))
    out, mass = attend_by_products(query, key, value, None, 0.3)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, scale=0.3)
    torch.testing.assert_close(out, flash[0])
    torch.testing.assert_close(mass, flash[1])


def test_a_bias_of_prompts_keys_is_added_on_devices_as_on_the_host() -> None:
    from feynkac.models.language.caches import attention

    torch.manual_seed(0)
    query, key, value = torch.randn(5, 2, 6, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    for bias in (None, torch.randn(4, 7)):  # of four query heads, with three new tokens each
        out, mass = devices._attend_prefix(query, key, value, bias, 0.3)
        wanted, wanted_mass = attention._attend_prefix(query * 0.3, key, value, bias)
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(mass, wanted_mass[..., 0])


@pytest.mark.parametrize(
    ("dtype", "size", "wanted"), [(BRAIN, 64, True), (SINGLE, 256, True), (DOUBLE, 64, False), (HALF, 512, False)]
)
def test_what_the_kernel_over_slots_serves(monkeypatch, dtype, size, wanted) -> None:
    monkeypatch.setattr(devices, "find_capability", lambda device: (9, 0) if device.type == "cuda" else (0, 0))
    monkeypatch.setattr(devices, "has_kernels", lambda device: True)
    with FakeTensorMode():
        stores = [torch.empty(3, 2, 8, size, dtype=dtype, device="cuda")] * 2
        assert devices.reads_pool(stores) == wanted
        assert not devices.reads_pool([*stores, torch.empty(3, 2, 8, size, dtype=dtype)])
        monkeypatch.setattr(devices, "has_kernels", lambda device: False)
        assert not devices.reads_pool(stores)
