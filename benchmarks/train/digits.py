"""Train a diffusion model of scikit-learn's handwritten digits on the CPU: 3,500 steps of about 0.07 core-seconds.

The data are the 1,797 images of 8 x 8 pixels that `sklearn.datasets.load_digits` ships (Alpaydin, Kaynak 1998). What is
saved is an ordinary pipeline folder of diffusers in half precision:

    pip install 'feynkac[diffusion]' scikit-learn
    python benchmarks/train/digits.py

The weights are an exponential average over the steps. Prints one JSON line; its `loss` is the mean squared error of the
noise that the averaged network predicts, over all times, on images held out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

OUT = Path(__file__).with_name("digits")
HELD_OUT = 197


def images() -> Tensor:
    """(1797, 1, 8, 8) digits, from -1 to 1, in a fixed random order."""
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(load_digits().images, dtype=torch.float32)[order, None] / 8.0 - 1.0


def network() -> UNet2DModel:
    """About 700,000 parameters."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def loss_of(unet: UNet2DModel, scheduler: DDIMScheduler, x: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, at a random time for each image."""
    noise, times = torch.randn_like(x), torch.randint(0, scheduler.config["num_train_timesteps"], (len(x),))
    return F.mse_loss(unet(scheduler.add_noise(x, noise, times), times).sample, noise)  # type: ignore[arg-type]


def train(steps: int, batch: int, rate: float, decay: float) -> tuple[DDIMPipeline, float]:
    """The pipeline with averaged weights, and its loss on the images held out."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # at 8 x 8 pixels threads cost more than they save
    data, held_out = images()[HELD_OUT:], images()[:HELD_OUT]
    unet, scheduler = network(), DDIMScheduler(clip_sample=True, clip_sample_range=1.0)
    average = copy.deepcopy(unet).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = loss_of(unet, scheduler, data[torch.randint(0, len(data), (batch,))])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        weight = 1.0 - min(decay, (step + 1) / (step + 10))
        for mean, new in zip(average.parameters(), unet.parameters(), strict=True):
            mean.lerp_(new.detach(), weight)
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        score = sum(loss_of(average, scheduler, held_out).item() for _ in range(20)) / 20
    return DDIMPipeline(average, scheduler), score


def main() -> None:
    """Train, save, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.998)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    began = time.perf_counter()
    pipe, loss = train(args.steps, args.batch, args.rate, args.decay)
    pipe.to(torch.float16).save_pretrained(args.out)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    count = sum(p.numel() for p in pipe.unet.parameters())
    spent = time.perf_counter() - began
    print(
        json.dumps(
            {"steps": args.steps, "loss": round(loss, 4), "parameters": count, "bytes": size, "seconds": round(spent)}
        )
    )


if __name__ == "__main__":
    main()
