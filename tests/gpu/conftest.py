"""Skips the tests of this folder where there is no CUDA device, and where kernels are interpreted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "language"))


@pytest.fixture
def device() -> str:
    """The device of these tests."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton interprets its kernels in this process; run `make test-gpu`")
    return "cuda"
