"""Train a masked-diffusion model of small drug-like molecules on one core: 8,000 steps of 0.1 seconds.

The data are the SMILES strings of MOSES (Polykovskiy et al. 2020), which the PyPI package `molsets` ships; only its
file is read:

    pip download --no-deps molsets
    python benchmarks/train/molecules.py --data molsets-0.3.1-py3-none-any.whl

Tokens are the atoms, bonds and brackets of SMILES and the commonest neighbours among them joined (byte-pair encoding;
Sennrich et al. 2016): a canvas is then half as long, and most rings and branches close within a token or beside it.

The loss is the any-order bound on -log p(x): the number of hidden positions is uniform, and each canvas counts the mean
of its hidden positions. That is the continuous-time bound of masked diffusion, for every schedule (Shi et al. 2024),
integrated over time. Products of matrices are taken in bfloat16, which current CPUs do several times faster.

The committed weights took 17 core-minutes; their first 3,000 steps were in single precision. The bound on unseen
molecules is 21.5 nats. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import re
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from feynkac.models.discrete.network import CanvasTransformer, save

OUT = Path(__file__).with_name("molecules.safetensors")
LONGEST = 32
"""SMILES pieces (atoms, bonds, brackets) of a molecule."""
LENGTH = 16
"""Tokens of a canvas."""
TOKENS = 128
PIECE = re.compile(r"\[[^\]]+\]|Br|Cl|.")
MEMBER = "moses/dataset/data/{}.csv.gz"
END = 0
RATES = ((0.0, 0.0125, 0.375, 0.625, 1.0), (0.0, 1.0, 1.0, 1 / 3, 0.0))
"""The learning rates, in parts of their peak, over parts of the training."""


def read(wheel: str, part: str) -> list[list[str]]:
    """The molecules of at most LONGEST pieces."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(MEMBER.format(part))).decode().splitlines()[1:]
    split = (PIECE.findall(line.split(",")[0]) for line in lines)
    return [pieces for pieces in split if len(pieces) <= LONGEST]


def flattened(molecules: Sequence[Sequence[str]], tokens: Sequence[str]) -> NDArray[np.int64]:
    """The ids of all pieces in a row, each molecule followed by END."""
    number = {piece: i for i, piece in enumerate(tokens)}
    return np.array([number[piece] for molecule in molecules for piece in (*molecule, "")])


def joined(flat: NDArray[np.int64], a: int, b: int, new: int) -> NDArray[np.int64]:
    """`new` in place of every `a` that a `b` follows, from the left."""
    at = np.flatnonzero((flat[:-1] == a) & (flat[1:] == b))
    if a == b:  # of overlapping pairs every other one
        run_start = np.flatnonzero(np.r_[True, np.diff(at) > 1])
        at = at[(np.arange(len(at)) - np.repeat(run_start, np.diff(np.r_[run_start, len(at)]))) % 2 == 0]
    result = flat.copy()
    result[at] = new
    return np.delete(result, at + 1)


def commonest(flat: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The pair of neighbours within a molecule that is seen most often."""
    inside = (flat[:-1] != END) & (flat[1:] != END)
    a, b = divmod(int(np.bincount(flat[:-1][inside] * k + flat[1:][inside]).argmax()), k)
    return a, b


def tokenised(
    train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The TOKENS tokens, learnt from `train`, and both sets as (M, LENGTH) canvases; longer molecules are left out."""
    tokens = ["", *sorted({piece for molecule in train for piece in molecule})]
    flat, other = flattened(train, tokens), flattened(test, tokens)
    while len(tokens) < TOKENS:
        a, b = commonest(flat, len(tokens))
        flat, other = joined(flat, a, b, len(tokens)), joined(other, a, b, len(tokens))
        tokens.append(tokens[a] + tokens[b])
    return tokens, canvases(flat), canvases(other)


def canvases(flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, LENGTH) ids, filled up with END."""
    ends = np.flatnonzero(flat == END)
    starts = np.r_[0, ends[:-1] + 1]
    starts, ends = starts[ends - starts <= LENGTH], ends[ends - starts <= LENGTH]
    place = starts[:, None] + np.arange(LENGTH)
    return np.where(place < ends[:, None], flat[np.minimum(place, len(flat) - 1)], END)


def loss_of(network: torch.nn.Module, x: torch.Tensor, mask: int) -> torch.Tensor:
    """Mean of -log p(x) over the hidden positions of each canvas, in nats a position; every number hidden as often."""
    length = x.shape[1]
    count = (torch.arange(len(x)) + torch.randint(length, ())) % length + 1
    hidden = torch.rand(x.shape).argsort(dim=1) < count[:, None]
    logits = network(torch.where(hidden, mask, x))
    cost = F.cross_entropy(logits.transpose(1, 2), x, reduction="none")
    return ((cost * hidden).sum(1) / hidden.sum(1)).mean()


def optimisers(network: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for name, p in network.named_parameters() if "blocks" in name and p.ndim == 2]
    others = [p for name, p in network.named_parameters() if not ("blocks" in name and p.ndim == 2)]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(network: CanvasTransformer, data: torch.Tensor, steps: int, batch: int) -> CanvasTransformer:
    """The moving average of the weights."""
    average, began, mask = copy.deepcopy(network), time.perf_counter(), network.shape["tokens"]
    chosen = optimisers(network)
    peak = [group["lr"] for optimiser in chosen for group in optimiser.param_groups]
    for step in range(steps):
        phase = np.interp(step / steps, *RATES)
        for group, top in zip([g for o in chosen for g in o.param_groups], peak, strict=True):
            group["lr"] = float(phase) * top
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(network, data[torch.randint(len(data), (batch,))], mask)
        loss.backward()
        for optimiser in chosen:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        keep = min(0.995, step / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(p, 1.0 - keep)
        if step % 100 == 0:
            print(f"step {step:5d}  {loss.item():.4f} nats a position  {time.perf_counter() - began:.0f} s", flush=True)
    return average.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", required=True, help="the molsets wheel")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(OUT))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokens, *ids = tokenised(read(args.data, "train"), read(args.data, "test"))
    data, held_out = map(torch.from_numpy, ids)
    began = time.perf_counter()
    network = CanvasTransformer(len(tokens), LENGTH, args.width, args.layers, args.width // 16)
    network = train(network, data, args.steps, args.batch)
    with torch.inference_mode():
        bound = math.fsum(loss_of(network, held_out[k : k + 500], len(tokens)).item() for k in range(0, 10_000, 500))
    save(network, tokens, args.out)
    print(json.dumps({
        "molecules": len(data), "tokens": len(tokens), "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": Path(args.out).stat().st_size, "seconds": round(time.perf_counter() - began),
        "held_out_bound_nats": round(bound / 20 * LENGTH, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
