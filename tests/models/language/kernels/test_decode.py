"""The kernel over slots against two matrix products, in Triton's interpreter on the CPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from feynkac.models.language.caches.operators import attend_by_products
from feynkac.models.language.kernels import decode
from feynkac.models.language.kernels.decode import attend_pool

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-3}
"""The interpreter multiplies bfloat16 in float32; in float16 the shares of the values are rounded to it."""


def make(dtype, rows, heads, group, n_new, size, time, value_size=None, seed=0):
    """Queries, a pool with three slots more than rows, and a prefix with about the mass of the own tokens."""
    torch.manual_seed(seed)
    slots = rows + 3
    query = torch.randn(rows, heads, group * n_new, size).to(dtype)
    keys = torch.randn(slots, heads, time, size).to(dtype)
    values = torch.randn(slots, heads, time, value_size or size).to(dtype)
    where = torch.randperm(slots)[:rows], torch.randint(0, time - n_new + 1, (rows,), dtype=torch.int32)
    prefix = torch.randn(rows, heads, group * n_new, value_size or size), torch.randn(rows, heads, group * n_new) + 2
    return query, keys, values, (*where, n_new), prefix


def attend_wholly(query, keys, values, where, before, scale):
    (slots, starts, n_new), (prefix, prefix_mass) = where, before
    visible = starts[:, None] + torch.arange(query.shape[2]) % n_new + 1
    hidden = torch.arange(keys.shape[2]) >= visible[:, None, :, None]
    bias = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    own, mass = attend_by_products(query.float(), keys[slots].float(), values[slots].float(), bias, scale)
    return torch.lerp(own, prefix, torch.sigmoid(prefix_mass - mass)[..., None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "heads", "group", "n_new", "size", "time"),
    [
        (3, 2, 2, 1, 64, 40),  # two heads of a group, one new token
        (2, 1, 1, 1, 96, 17),  # no power of two; one query of a tile of sixteen
        (2, 3, 7, 3, 128, 33),  # 21 queries, three tokens at once
        (1, 1, 4, 1, 256, 70),
        (1, 1, 9, 8, 16, 12),  # more queries than one tile holds
    ],
)
def test_ragged_rows_in_slots(dtype, rows, heads, group, n_new, size, time) -> None:
    given = make(dtype, rows, heads, group, n_new, size, time)
    found = attend_pool(*given, size**-0.5, time)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, attend_wholly(*given, size**-0.5), atol=ROUNDING[dtype], rtol=ROUNDING[dtype])


def test_values_of_another_size_than_keys() -> None:
    given = make(torch.float32, 2, 2, 2, 1, 24, 9, value_size=40)
    torch.testing.assert_close(attend_pool(*given, 0.2, 9), attend_wholly(*given, 0.2), atol=2e-6, rtol=2e-6)


def test_long_texts_of_few_rows_are_cut_and_merged() -> None:
    """The shortest row ends in the first stretch, so that the others have nothing of it."""
    query, keys, values, (slots, _, n_new), prefix = make(torch.float32, 2, 1, 2, 2, 64, 700)
    given = query, keys, values, (slots, torch.tensor([3, 690], dtype=torch.int32), n_new), prefix
    assert decode._cut(2, 700, 64)[1] > 2
    torch.testing.assert_close(attend_pool(*given, 0.125, 700), attend_wholly(*given, 0.125), atol=2e-6, rtol=2e-6)


def test_memory_behind_a_rows_tokens_is_not_read() -> None:
    given = _, keys, values, where, _ = make(torch.float32, 2, 1, 2, 2, 64, 40)
    wanted = attend_pool(*given, 0.125, 40)
    for row, start in zip(*where[:2], strict=True):
        keys[row, :, start + 2 :] = values[row, :, start + 2 :] = torch.nan
    assert torch.equal(attend_pool(*given, 0.125, 40), wanted)


def test_queries_prefixes_and_pools_that_do_not_lie_evenly() -> None:
    query, keys, values, where, before = make(torch.float32, 3, 2, 4, 1, 16, 8)
    wanted = attend_pool(query, keys, values, where, before, 0.25, 8)
    prefix, mass = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in before)
    query = query.transpose(2, 3).contiguous().transpose(2, 3)
    pool = [torch.zeros(6, 2, 20, 16) for _ in range(2)]
    for store, given in zip(pool, (keys, values), strict=True):
        store[:, :, :8] = given
    found = attend_pool(query, pool[0][:, :, :8], pool[1][:, :, :8], where, (prefix, mass), 0.25, 8)
    assert torch.equal(found, wanted)


def test_rows_in_their_own_slots() -> None:
    query, keys, values, (_, *where), before = make(torch.float32, 3, 2, 2, 1, 16, 8)
    wanted = attend_pool(query, keys, values, (torch.arange(3), *where), before, 0.25, 8)
    assert torch.equal(attend_pool(query, keys, values, (None, *where), before, 0.25, 8), wanted)
