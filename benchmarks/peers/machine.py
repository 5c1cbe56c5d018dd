"""The machine in words: what a figure depends on, and nothing that names it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, cores, memory and versions; each row has its own date."""
    told = _read(Path("/proc/cpuinfo"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": told.get("model name", platform.machine()), "cores": os.cpu_count(), "threads": threads,
        "flags": [flag for flag in FLAGS if flag in told.get("flags", "").split()], "memory GiB": round(memory, 1),
        "system": platform.system(), "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }  # fmt: skip


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    pairs = [line.partition(":") for line in file.read_text().splitlines()]
    return {name.strip(): value.strip() for name, _, value in reversed(pairs) if value}
