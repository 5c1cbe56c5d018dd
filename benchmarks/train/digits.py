"""Train a diffusion model of scikit-learn's handwritten digits on the CPU: 3,500 steps of about 0.07 core-seconds.

The data are the 1,797 images of 8 x 8 pixels that `sklearn.datasets.load_digits` ships (Alpaydin, Kaynak 1998). What is
saved is an ordinary pipeline folder of diffusers in half precision:

    pip install 'feynkac[diffusion]' scikit-learn
    python benchmarks/train/digits.py

The weights are an exponential average over the steps. Prints one JSON line; its `loss` is the mean squared error of the
noise that the averaged network predicts, over all times, on images held out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from train.averaging import fit, run

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


def train(steps: int, batch: int, rate: float, decay: float) -> tuple[UNet2DModel, float, Callable[[Path], object]]:
    """The network with averaged weights, its loss on the images held out, and what saves its pipeline."""
    data, held_out = images()[HELD_OUT:], images()[:HELD_OUT]
    scheduler = DDIMScheduler(clip_sample=True, clip_sample_range=1.0)

    def loss_now(unet: UNet2DModel, average: UNet2DModel) -> Tensor:
        return loss_of(unet, scheduler, data[torch.randint(0, len(data), (batch,))])

    unet = fit(network(), loss_now, steps, rate, decay, clip=1.0)
    with torch.no_grad():
        score = sum(loss_of(unet, scheduler, held_out).item() for _ in range(20)) / 20
    return unet, score, DDIMPipeline(unet, scheduler).to(torch.float16).save_pretrained


if __name__ == "__main__":
    run(__doc__, train, OUT, steps=3500, decay=0.998)
