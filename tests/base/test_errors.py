"""Errors: what is told apart by what an error says."""

from __future__ import annotations

import pytest
import torch

from feynkac.base.errors import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), torch.OutOfMemoryError(), MemoryError(),
     RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")],
    ids=repr,
)  # fmt: skip
def test_every_way_to_say_that_memory_ran_out_is_known(error) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("memory")]
)
def test_another_error_does_not_say_that_memory_ran_out(error) -> None:
    assert not is_out_of_memory(error)
