"""Attention on the device against two matrix products there: operators of torch, and the kernel over slots."""

from __future__ import annotations

import pytest
import torch

from feynkac.models.language.caches.operators import attend_by_flash, attend_by_products, attend_efficiently

pytestmark = pytest.mark.gpu
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


def find_rounding(values: torch.Tensor) -> float:
    """What rounding of the shares, and of the result, to the type of the values can be off by."""
    return 2 * torch.finfo(values.dtype).eps * float(values.abs().max()) + 1e-5


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize(
    ("attend", "dtype", "biased"),
    [
        (attend_by_flash, HALF, False),
        (attend_by_flash, BRAIN, False),
        (attend_efficiently, HALF, True),
        (attend_efficiently, BRAIN, True),
        (attend_efficiently, SINGLE, False),
        (attend_efficiently, SINGLE, True),
    ],
)  # fmt: skip
def test_operators_give_attention_and_its_log_mass(device, attend, dtype, biased, size) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, size, device=device).to(dtype) for n in (37, 77, 77))
    bias = torch.randn(2, 1, 37, 77, device=device).to(dtype) if biased else None
    out, mass = attend(query, key, value, bias, size**-0.5)
    wanted, wanted_mass = attend_by_products(query.float(), key.float(), value.float(), bias, size**-0.5)
    torch.testing.assert_close(out.float(), wanted, rtol=0, atol=find_rounding(value))
    torch.testing.assert_close(mass, wanted_mass, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE])
@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize(
    ("group", "n_new", "rows", "time"), [(1, 1, 5, 40), (4, 1, 300, 70), (7, 3, 4, 33), (4, 1, 2, 3000)]
)
def test_the_kernel_over_slots(device, dtype, size, group, n_new, rows, time) -> None:
    from feynkac.models.language.kernels.decode import attend_pool

    torch.manual_seed(0)
    query = torch.randn(rows, 2, group * n_new, size, device=device).to(dtype)
    keys, values = (torch.randn(rows + 3, 2, time, size, device=device).to(dtype) for _ in range(2))
    slots = torch.randperm(rows + 3, device=device)[:rows]
    starts = torch.randint(0, time - n_new + 1, (rows,), dtype=torch.int32, device=device)
    prefix, mass = torch.randn(query.shape, device=device), torch.randn(query.shape[:3], device=device)
    found = attend_pool(query, keys, values, (slots, starts, n_new), (prefix, mass), size**-0.5, time)

    visible = starts[:, None] + torch.arange(group * n_new, device=device) % n_new + 1
    hidden = torch.arange(time, device=device) >= visible[:, None, :, None]
    bias = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
    own, own_mass = attend_by_products(query.float(), keys[slots].float(), values[slots].float(), bias, size**-0.5)
    wanted = torch.lerp(own, prefix, torch.sigmoid(mass - own_mass)[..., None])
    torch.testing.assert_close(found, wanted, rtol=0, atol=find_rounding(values))
