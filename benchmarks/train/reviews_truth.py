"""The truth that steered reviews are compared with: importance sampling from the model itself.

    pip install vaderSentiment
    python benchmarks/train/reviews_truth.py

For each control: the log evidence of exp(scale score) in nats, the effective sample size, the law over bins of the
score and of the number of words that have a third of the target each, and exact draws. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from steered.texts import CONTROLS, draw_base, find_target

OUT = Path(__file__).with_name("reviews_truth.npz")
CHUNK, EXACT = 1000, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--samples", type=int, default=20_000)
    args = parser.parse_args()
    began = time.perf_counter()
    texts = np.concatenate([draw_base(CHUNK, 1000 + chunk) for chunk in range(args.samples // CHUNK)])
    found = {control.name: find_target(control, texts, EXACT) for control in CONTROLS}
    np.savez_compressed(OUT, **{f"{name}/{key}": value for name, of in found.items() for key, value in of.items()})
    kept = ("samples", "ess", "log_evidence", "error", "score")
    print(json.dumps({
        **{name: {key: round(float(of[key]), 4) for key in kept} for name, of in found.items()},
        "seconds": round(time.perf_counter() - began),
        "bytes": OUT.stat().st_size,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
