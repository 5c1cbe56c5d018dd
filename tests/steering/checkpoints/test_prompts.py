"""A run of prompts that is cut anywhere and taken up again has the result of one that was not, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import PROMPTS, set_tiny_lm
from resumed import check_case


@pytest.mark.parametrize("name", PROMPTS)
def test_a_run_of_prompts_that_is_resumed_is_the_run_that_was_not_cut(name: str, tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    check_case(name, tmp_path)
