"""The examples of the README of diffusion models run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

README = Path(__file__).parents[3] / "models" / "diffusion" / "README.md"


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {"pipe": stable_diffusion()}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
        assert np.isfinite(names["result"].log_evidence)
    assert names["result"].samples[0].shape == (3, 16, 16)
