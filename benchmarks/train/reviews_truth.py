"""The truth that steered reviews are compared with: importance sampling from the model itself.

    pip install vaderSentiment
    python benchmarks/train/reviews_truth.py

What is saved: the log evidence of exp(SCALE praise) in nats, the effective sample size, the law over bins of praise and
number of words that have a third of the target each, and exact draws. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from steered.runs import cells, quantiles
from steered.texts import PARTS, SCALE, count_words, draw_base, praise

OUT = Path(__file__).with_name("reviews_truth.npz")
CHUNK, EXACT = 1000, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--samples", type=int, default=20_000)
    args = parser.parse_args()
    began = time.perf_counter()
    texts = np.concatenate([draw_base(CHUNK, 1000 + chunk) for chunk in range(args.samples // CHUNK)])
    score, words = (np.array([f(text) for text in texts], dtype=np.float64) for f in (praise, count_words))
    weight = np.exp(SCALE * score)
    share = weight / weight.sum()
    edges = [quantiles(each, share, PARTS) for each in (score, words)]
    found = {
        "samples": len(texts), "ess": 1.0 / (share**2).sum(), "log_evidence": np.log(weight.mean()),
        "praise": share @ score, "praise_edges": edges[0], "word_edges": edges[1],
        "law": cells((score, words), edges, share),
    }  # fmt: skip
    drawn = np.random.default_rng(0).choice(len(texts), EXACT, p=share)
    np.savez_compressed(OUT, texts=texts[drawn].astype(str), **found)
    print(json.dumps({
        **{name: float(found[name]) for name in ("samples", "ess", "log_evidence", "praise")},
        "error": float(weight.std() / weight.mean() / np.sqrt(len(texts))),
        "seconds": round(time.perf_counter() - began),
        "bytes": OUT.stat().st_size,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
