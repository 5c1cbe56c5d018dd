"""Masked-diffusion models of canvases, trained on one core: loss, optimisers, and what scripts of this folder share.

The loss is the any-order bound on -log p(x): the number of hidden positions is uniform, and each canvas counts the mean
of its hidden positions. That is the continuous-time bound of masked diffusion, for every schedule (Shi et al. 2024),
integrated over time. Products of matrices are taken in bfloat16, which current CPUs do several times faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from feynkac.models.discrete.network import CanvasTransformer, save

RATES = ((0.0, 0.0125, 0.375, 0.625, 1.0), (0.0, 1.0, 1.0, 1 / 3, 0.0))
"""The learning rates, in parts of their peak, over parts of the training."""


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


def read_options(doc: str | None, data: str, out: Path, steps: int, width: int, layers: int) -> argparse.Namespace:
    """The options of a script that trains; the random numbers of torch begin at `--seed`."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help=data)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=out)
    for name, value in {"steps": steps, "width": width, "layers": layers, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    return args


def learn(
    what: str,
    tokens: Sequence[str],
    data: torch.Tensor,
    measure: Callable[[CanvasTransformer], list[float]],
    args: argparse.Namespace,
) -> None:
    """Train a network on `data` (M, L), save it with its tokens, and print one JSON line.

    `measure`: the bounds that it reaches on parts of what it has not seen, in nats a position.
    """
    length, began = data.shape[1], time.perf_counter()
    network = CanvasTransformer(len(tokens), length, args.width, args.layers, args.width // 16)
    network = train(network, data, args.steps, args.batch)
    with torch.inference_mode():
        bounds = measure(network)
    save(network, tokens, args.out)
    print(json.dumps({
        what: len(data), "tokens": len(tokens), "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": args.out.stat().st_size, "seconds": round(time.perf_counter() - began),
        "held_out_bound_nats": round(math.fsum(bounds) / len(bounds) * length, 3),
    }))  # fmt: skip
