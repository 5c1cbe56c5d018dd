"""What the scripts that train images and paths have in common: AdamW, a warm-up, a cosine, and weights averaged."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def fit(
    net: Net,
    loss_of: Callable[[Net, Net], Tensor],
    steps: int,
    rate: float,
    decay: float,
    clip: float = math.inf,
    told: int = 500,
) -> Net:
    """The exponential average of `net` over its training; `loss_of` sees the network and that average.

    `clip`: the largest norm of a gradient; the loss is printed every `told` steps.
    """
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.0, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = loss_of(net, average)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        weight = 1.0 - min(decay, (step + 1) / (step + 10))
        for mean, new in zip(average.parameters(), net.parameters(), strict=True):
            mean.lerp_(new.detach(), weight)
        if step % told == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    return average


def run(
    doc: str | None, train: Callable[..., tuple[nn.Module, float, Callable[[Path], object]]], out: Path, steps: int,
    decay: float,
) -> None:  # fmt: skip
    """The script of an image model, described by `doc`: train, save to `out`, and print one JSON line.

    `train` of `steps`, `batch`, `rate` and `decay` gives the network, its loss on new images, and what saves it.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=decay)
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # at 8 x 8 pixels threads cost more than they save
    began = time.process_time()
    network, loss, save = train(args.steps, args.batch, args.rate, args.decay)
    save(args.out)
    files = args.out.rglob("*") if args.out.is_dir() else [args.out]
    print(json.dumps({
        "steps": args.steps, "loss": round(loss, 4), "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "seconds": round(time.process_time() - began),
    }))  # fmt: skip
