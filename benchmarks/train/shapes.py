"""Train a diffusion model of small coloured shapes under prompts on the CPU: 2,500 steps of about 0.04 core-seconds.

The data are drawn here: one of three shapes in one of three colours, somewhere on a background that goes from one grey
to another. A prompt is a pair of words, of a shape and of a colour, either of which may be missing. What is saved is a
PixArt transformer of diffusers (self-attention among 16 patches, cross-attention to the words) in half precision:

    pip install 'feynkac[diffusion]'
    python benchmarks/train/shapes.py

It predicts v = alpha eps - sigma x0, at the times and noise levels of `linear_alphas_bar`. The weights are an
exponential average over the steps. Prints one JSON line; its `loss` is the mean squared error of v on new images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from feynkac.models.diffusion.schedule import linear_alphas_bar

sys.path.insert(0, str(Path(__file__).parents[1]))
from train.averaging import fit, run

OUT = Path(__file__).with_name("shapes.safetensors")
SIZE = 8
SHAPES, COLOURS = ("square", "plus", "cross"), ("red", "green", "blue")
TIMES = 1000
WIDTH = 48


def masks() -> Tensor:
    """(3, 5, 5) which pixels a shape covers."""
    square = torch.zeros(5, 5)
    square[:4, :4] = 1.0
    line = torch.arange(5)
    plus = ((line == 2)[:, None] | (line == 2)[None]).float()
    cross = ((line[:, None] == line[None]) | (line[:, None] == 4 - line[None])).float()
    return torch.stack([square, plus, cross])


def backgrounds(n: int, source: torch.Generator) -> Tensor:
    """(n, 3, 8, 8) greys that change evenly from one side to the other, or from top to bottom."""
    ends = 1.2 * torch.rand(n, 2, 1, 1, generator=source) - 1.0
    ramp = torch.linspace(0.0, 1.0, SIZE).expand(n, 1, SIZE, SIZE)
    turned = torch.rand(n, 1, 1, 1, generator=source) < 0.5
    ramp = torch.where(turned, ramp, ramp.mT)
    return (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * ramp).expand(n, 3, SIZE, SIZE).clone()


def draw(n: int, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(n, 3, 8, 8) images from -1 to 1, (n, 2) their shapes and colours from 1, and what lies below: grounds, masks."""
    words = torch.randint(1, 4, (n, 2), generator=source)
    corner = torch.randint(0, SIZE - 4, (n, 2), generator=source)
    ground, mask = backgrounds(n, source), torch.zeros(n, 1, SIZE, SIZE)
    every, side = torch.arange(n), torch.arange(5)
    rows, columns = corner[:, :1] + side, corner[:, 1:] + side
    mask[every[:, None, None], 0, rows[:, :, None], columns[:, None]] = masks()[words[:, 0] - 1]
    paint = F.one_hot(words[:, 1] - 1, 3).float() * 1.6 - 0.8 + 0.1 * torch.randn(n, 3, generator=source)
    return torch.where(mask > 0, paint.clamp(-1, 1)[:, :, None, None], ground), words, ground, mask


class Painter(nn.Module):
    """About 150,000 parameters."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.words = nn.ModuleList(nn.Embedding(4, WIDTH) for _ in range(2))
        self.network = PixArtTransformer2DModel(
            num_attention_heads=4, attention_head_dim=WIDTH // 4, in_channels=3, out_channels=3, num_layers=layers,
            cross_attention_dim=WIDTH, sample_size=SIZE, patch_size=2,
        )  # fmt: skip

    def forward(self, x: Tensor, times: Tensor, prompt: Tensor) -> Tensor:
        """(R, 3, 8, 8) v of latents (R, 3, 8, 8) at `times` (R,) under prompts (R, 2): a shape, a colour, or 0."""
        return self.network(x, encoder_hidden_states=self.say(prompt), timestep=times, return_dict=False)[0]

    def say(self, prompt: Tensor) -> Tensor:
        """(R, 2, WIDTH) what cross-attention hears of prompts (R, 2)."""
        return torch.stack([embed(word) for embed, word in zip(self.words, prompt.T, strict=True)], 1)


def load(file: Path = OUT) -> Painter:
    """The trained network, in single precision."""
    painter = Painter()
    painter.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return painter.eval().requires_grad_(False)


def loss_of(painter: Painter, n: int, alphas_bar: Tensor, source: torch.Generator) -> Tensor:
    """Mean squared error of v, at a random time for each image and with words left out at random."""
    x, words, _, _ = draw(n, source)
    kept = torch.rand(n, 2, generator=source) < 0.65
    times = torch.randint(0, TIMES, (n,), generator=source)
    noise = torch.randn(x.shape, generator=source)
    alpha, sigma = (each[times, None, None, None] for each in (alphas_bar.sqrt(), (1 - alphas_bar).sqrt()))
    return F.mse_loss(painter(alpha * x + sigma * noise, times, words * kept), alpha * noise - sigma * x)


def train(steps: int, batch: int, rate: float, decay: float) -> tuple[Painter, float, Callable[[Path], None]]:
    """The network with averaged weights, its loss on new images, and what saves it."""
    source, bars = torch.Generator().manual_seed(0), torch.as_tensor(linear_alphas_bar(TIMES), dtype=torch.float32)
    painter = fit(Painter(), lambda net, average: loss_of(net, batch, bars, source), steps, rate, decay, clip=1.0)
    with torch.no_grad():
        score = sum(loss_of(painter, 256, bars, source).item() for _ in range(8)) / 8
    halves = {name: value.half().contiguous() for name, value in painter.state_dict().items()}
    return painter, score, lambda out: save_file(halves, out)


if __name__ == "__main__":
    run(__doc__, train, OUT, steps=2500, decay=0.997)
