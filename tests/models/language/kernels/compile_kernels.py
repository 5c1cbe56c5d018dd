"""Compiles every kernel to machine code of two generations of GPUs, none of which need be here; prints their names."""

from __future__ import annotations

import inspect
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from feynkac.models.language.kernels import decode, draws, trial

NUMBERS = {"scale": "fp32"}
POOL = dict(slots="*i64", starts="*i32", prefix="*fp32", prefix_mass="*fp32", out="*fp32", out_mass="*fp32")
SUMS = dict(peaks="*fp32", sums="*fp64", allowed_peaks="*fp32", allowed_sums="*fp64", blocks="*fp64", out="*fp64")
LAW = dict(SUMS, logits="*fp32", mask="*i32", scale="*fp32", context="*i64", uniforms="*fp64")
TILES = dict(HAS_SLOTS=True, WIDE=False, N_TILES=1, TILE=16)
CASES: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
    *(
        (decode._attend_stretch, POOL | dict.fromkeys(("query", "keys", "values"), kind) | NUMBERS, TILES | sizes)
        for kind, sizes in (
            ("*bf16", dict(TIME=64, SIZE=128, VALUE_SIZE=128)),
            ("*fp16", dict(TIME=32, SIZE=256, VALUE_SIZE=256, N_TILES=2, TILE=64, HAS_SLOTS=False)),
            ("*fp32", dict(TIME=64, SIZE=64, VALUE_SIZE=64, WIDE=True)),
            # Triton compiles numbers that are 1 into the kernel.
            ("*bf16", dict(TIME=64, SIZE=64, VALUE_SIZE=64, n_new=1, group=1, query_one=1, mass_one=1)),
        )
    ),
    (decode._merge_stretches, dict(parts="*fp32", masses="*fp32", out="*fp32"), dict(SPLITS=4, VALUE_SIZE=128)),
    (draws._sum_blocks, LAW, dict(HAS_MASK=True, BLOCK=1024)),
    (draws._sum_blocks, LAW | {"mask": "*fp32"}, dict(HAS_MASK=False, BLOCK=1024, mask_row=1)),
    (draws._add_blocks, SUMS, dict(BLOCKS=256)),
    (draws._add_blocks, SUMS, dict(BLOCKS=1, n_blocks=1)),
    (draws._locate, LAW, dict(BLOCK=1024, BLOCKS=256)),
    (trial._add_one, dict(numbers="*i64"), dict(N=4)),
    (draws._locate, LAW, dict(BLOCK=1024, BLOCKS=1, n_blocks=1, n_contexts=1, pinned=1, mask_row=1)),
]


SHARED = {80: 99 << 10, 90: 227 << 10}
"""Bytes of memory that programs share: the least among GPUs of the generation (8.6 and 8.9 have 99 KB)."""


def compile_for(capability: int) -> None:
    target = GPUTarget("cuda", capability, 32)
    for kernel, types, constants in CASES:
        names = list(inspect.signature(kernel.fn).parameters)
        signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
        source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
        compiled = triton.compile(source, target=target)
        assert compiled.asm["cubin"] and compiled.metadata.shared <= SHARED[capability]
        print(capability, kernel.fn.__name__)


if __name__ == "__main__":
    for capability in SHARED:
        compile_for(capability)
