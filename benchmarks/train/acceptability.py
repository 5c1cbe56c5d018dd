"""Train a judge of word order on phrases from reviews: some twenty seconds on one core.

The data are those of `reviews.py`. Half of what the judge sees are phrases as they were written; in the other half one
or two words were exchanged with others of the phrase, or for words drawn by how common they are.

    pip download --no-deps vaderSentiment==0.5
    python benchmarks/train/acceptability.py --data vaderSentiment-0.5.zip

Prints one JSON line; its `accuracy` is that on phrases held out and their corruptions, where chance is 0.5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from reviews import END, read as read_reviews, tokenised
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from steered.acceptability import FILE, Pairs

HELD_OUT = 1000


def corrupt(ids: Tensor, source: torch.Generator) -> Tensor:
    """Canvases (R, L) that differ from `ids`: each has one or two words exchanged."""
    found, rows = ids.clone(), torch.arange(len(ids))
    common = ids[ids != END]
    for turn in range(2):
        length = (found != END).sum(1)
        one, other = ((torch.rand(len(ids), generator=source) * length).long() for _ in range(2))
        drawn = common[torch.randint(len(common), (len(ids),), generator=source)]
        swap = torch.rand(len(ids), generator=source) < 0.5
        here = found[rows, one]
        there = torch.where(swap, found[rows, other], drawn)
        moved = found.clone()
        moved[rows, one] = there
        moved[rows[swap], other[swap]] = here[swap]
        again = turn == 0 or torch.rand(len(ids), generator=source) < 0.5
        found = torch.where(torch.as_tensor(again).reshape(-1, 1), moved, found)
    return found


def pairs_of(data: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Phrases and their corruptions, without those that nothing has changed, and (R,) whether they are phrases."""
    wrong = corrupt(data, source)
    wrong = wrong[(wrong != data).any(1)]
    return torch.cat([data, wrong]), torch.cat([torch.ones(len(data)), torch.zeros(len(wrong))])


def train(words: int, data: Tensor, steps: int, batch: int, source: torch.Generator) -> Pairs:
    """By log loss, with decay of the weights."""
    pairs = Pairs(words)
    optimizer = torch.optim.AdamW(pairs.parameters(), 5e-3, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        ids, right = pairs_of(data[torch.randint(len(data), (batch,), generator=source)], source)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(pairs(ids), right).backward()
        optimizer.step()
        schedule.step()
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", required=True, help="the archive of vaderSentiment 0.5")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source, began = torch.Generator().manual_seed(0), time.perf_counter()
    words, ids = tokenised(read_reviews(args.data))
    shuffled = torch.from_numpy(ids[np.random.default_rng(0).permutation(len(ids))])
    held_out, data = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    judge = train(len(words), data, args.steps, args.batch, source)
    seen, right = pairs_of(held_out, source)
    with torch.inference_mode():
        logits = judge(seen)
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, args.out)
    print(json.dumps({
        "phrases": len(data), "parameters": sum(p.numel() for p in judge.parameters()),
        "accuracy": round(float(((logits > 0) == (right > 0)).float().mean()), 3),
        "loss": round(float(F.binary_cross_entropy_with_logits(logits, right)), 3),
        "bytes": args.out.stat().st_size, "seconds": round(time.perf_counter() - began),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
