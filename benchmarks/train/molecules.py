"""Train a masked-diffusion model of small drug-like molecules on the CPU: 2,400 steps of about 0.3 core-seconds.

The data are the SMILES strings of MOSES (Polykovskiy et al. 2020), which the PyPI package `molsets` ships; only its
file is read:

    pip download --no-deps molsets
    python benchmarks/train/molecules.py --data molsets-0.3.1-py3-none-any.whl

The loss is the any-order bound on -log p(x): the number of hidden positions is uniform, and each canvas counts the mean
of its hidden positions. That is the continuous-time bound of masked diffusion, for every schedule (Shi et al. 2024),
integrated over time. Prints one JSON line.
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
from torch.nn import functional as F

from feynkac.models.discrete.network import CanvasTransformer, load, save

OUT = Path(__file__).with_name("molecules.safetensors")
LENGTH = 32
PIECE = re.compile(r"\[[^\]]+\]|Br|Cl|.")
MEMBER = "moses/dataset/data/{}.csv.gz"


def read(wheel: str, part: str) -> list[list[str]]:
    """The molecules of at most LENGTH pieces."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(MEMBER.format(part))).decode().splitlines()[1:]
    split = (PIECE.findall(line.split(",")[0]) for line in lines)
    return [pieces for pieces in split if len(pieces) <= LENGTH]


def encode(molecules: Sequence[Sequence[str]], pieces: Sequence[str]) -> np.ndarray:
    """(M, LENGTH) token ids, filled up with the end token 0."""
    number = {piece: i for i, piece in enumerate(pieces)}
    canvas = np.zeros((len(molecules), LENGTH), np.int64)
    for row, molecule in zip(canvas, molecules, strict=True):
        row[: len(molecule)] = [number[piece] for piece in molecule]
    return canvas


def loss_of(network: torch.nn.Module, x: torch.Tensor, mask: int) -> torch.Tensor:
    """Mean of -log p(x) over the hidden positions of each canvas, in nats a position."""
    hidden = torch.rand(x.shape).argsort(dim=1) < torch.randint(1, x.shape[1] + 1, (len(x), 1))
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


def train(network: CanvasTransformer, data: torch.Tensor, steps: int, batch: int, rate: float) -> CanvasTransformer:
    """The moving average of the weights; rates rise for 2 % of the steps and fall linearly over the last half."""
    average, began, mask = copy.deepcopy(network), time.perf_counter(), network.shape["tokens"]
    chosen = optimisers(network)
    peak = [rate * group["lr"] for optimiser in chosen for group in optimiser.param_groups]
    for step in range(steps):
        phase = min(1.0, (step + 1) / (0.02 * steps), 2.0 * (1.0 - step / steps))
        for group, top in zip([g for o in chosen for g in o.param_groups], peak, strict=True):
            group["lr"] = phase * top
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
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=112)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0, help="a factor on all learning rates")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in --out")
    parser.add_argument("--out", default=str(OUT))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    molecules, unseen = read(args.data, "train"), read(args.data, "test")
    pieces = ["", *sorted({piece for molecule in molecules for piece in molecule})]
    data, held_out = (torch.from_numpy(encode(part, pieces)) for part in (molecules, unseen))
    began = time.perf_counter()
    network = CanvasTransformer(len(pieces), LENGTH, args.width, args.layers, args.width // 14)
    if args.resume:
        network = load(args.out)[0].train()
    network = train(network, data, args.steps, args.batch, args.rate)
    with torch.inference_mode():
        bound = math.fsum(loss_of(network, held_out[k : k + 500], len(pieces)).item() for k in range(0, 10_000, 500))
    save(network, pieces, args.out)
    print(json.dumps({
        "molecules": len(molecules), "tokens": len(pieces), "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": Path(args.out).stat().st_size, "seconds": round(time.perf_counter() - began),
        "held_out_bound_nats": round(bound / 20 * LENGTH, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
