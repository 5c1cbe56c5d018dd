"""The truth that steered shapes are tested against: importance sampling from the network itself, without the engine.

    pip install 'feynkac[diffusion]'
    python benchmarks/train/shapes_truth.py

About 2 ms of one core for each sample. Chunk k has seed k. Prints a JSON line for every fortieth of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from steered.concepts import SCHEDULE, SHAPE, TRUTH, find_target, painted
from train import shapes

CHUNK = 500


def drawn(seed: int, painter: shapes.Painter) -> Tensor:
    """(CHUNK, 3, 8, 8) samples of the network without a prompt, by its chain written out."""
    source, denoiser = torch.Generator().manual_seed(seed), painted(painter)
    x = SCHEDULE.start * torch.randn(CHUNK, *SHAPE, generator=source)
    for step in SCHEDULE.transitions:
        x0hat = denoiser.x0hat(x, step.before)
        mean = step.after.alpha * x0hat + step.c * (x - step.before.alpha * x0hat) / step.before.sigma
        x = mean + step.std * torch.randn(x.shape, generator=source)
    return x


def main() -> None:
    """Draw, weigh, save what there is after every fortieth of it, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=TRUTH)
    args = parser.parse_args()
    torch.set_num_threads(1)
    painter = shapes.load()
    chunks, kept = -(-args.samples // CHUNK), []
    for seed in range(chunks):
        with torch.no_grad():
            kept.append(drawn(seed, painter))
        if (seed + 1) % max(chunks // 40, 1) and seed + 1 < chunks:
            continue
        found = find_target(torch.cat(kept))
        np.savez_compressed(args.out, **found)
        shown = ("samples", "log_evidence", "log_evidence_se", "ess")
        print(json.dumps({key: round(float(found[key]), 4) for key in shown}), flush=True)


if __name__ == "__main__":
    main()
