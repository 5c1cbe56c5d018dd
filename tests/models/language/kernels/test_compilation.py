"""What the interpreter lets pass and the compiler does not: kernels are compiled, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_every_kernel_compiles_to_machine_code(tmp_path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("compile_kernels.py")],
        capture_output=True, text=True, timeout=600, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {"_attend_stretch", "_merge_stretches", "_sum_blocks", "_add_blocks", "_locate", "_add_one"}
    assert {tuple(line.split()) for line in done.stdout.splitlines()} == {
        (c, name) for c in ("80", "90") for name in names
    }
