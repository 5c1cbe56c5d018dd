"""A small transformer that fills in a canvas, with its vocabulary in one file.

It is not told the time: under masked diffusion the posterior of the clean tokens given the visible ones is the same
at every noise level (Ou et al. 2025, "Your absorbing discrete diffusion secretly models the conditional
distributions of clean data"), so that its output can be kept for as long as a canvas stays as it is.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.numbers import read_positive, read_whole
from feynkac.base.paths import read_path
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.kernel import Kernel
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.model import DiscreteDiffusion

FORMAT = "feynkac canvas 1"


class CanvasTransformer(nn.Module):
    """Logits (B, L, K) of the clean token of every position, from tokens (B, L) of which K stands for a mask."""

    def __init__(self, tokens: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.shape = {"tokens": tokens, "length": length, "width": width, "layers": layers, "heads": heads}
        self.embed = nn.Embedding(tokens + 1, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, length) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm; attention knows distances by rotation (Su et al. 2021)."""

    rotation: Tensor

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        half = width // heads // 2
        angle = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(half) / half)
        self.register_buffer("rotation", torch.stack([angle.cos(), angle.sin()]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2).float()
            for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )
        # In half precision the gradient of attention over so few positions takes longer than all else on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(self._rotate(q), self._rotate(k), v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))

    def _rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        cos, sin = self.rotation.to(x.dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class NetworkDenoiser:
    """A `LogitsDenoiser` from a network that maps tokens (U, L) to logits (U, L, K), `batch` canvases at a time.

    It runs a copy in evaluation mode, on the same parameters where they are on `device` already; the network that was
    given is left as it is. The logits are divided by `temperature`: below 1, p is the law of a more decided sampler.
    Raises ArgumentError.
    """

    time_independent = True

    def __init__(self, network: nn.Module, *, batch: int = 512, device: str = "cpu", temperature: float = 1.0) -> None:
        if not isinstance(network, nn.Module):
            raise ArgumentError(f"NetworkDenoiser({quote(network)}): give a network of torch")
        self.temperature = read_positive("temperature", temperature, "; it divides the logits")
        self.batch = read_whole("batch", batch, 1)
        try:
            self.network = _copy_for(network, device)
        except Exception as cause:  # of a device that is not there, say
            raise ArgumentError(f"NetworkDenoiser: no copy on device={quote(device)}: {cause}") from cause
        self.device = device

    @torch.inference_mode()
    def log_probs(self, tokens: NDArray[np.int64], t: float) -> NDArray[np.float64]:
        """(U, L, K) nats, normalised in float64."""
        parts = [
            F.log_softmax(self.network(part.to(self.device)).double() / self.temperature, dim=-1).cpu()
            for part in torch.from_numpy(tokens).split(self.batch)
        ]
        return torch.cat(parts).numpy()


def _copy_for(network: nn.Module, device: str) -> nn.Module:
    """A copy of `network` in evaluation mode; its tensors share the memory of those that are on `device` already."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to(device), p.requires_grad) for p in network.parameters()}
    memo |= {id(buffer): buffer.to(device) for buffer in network.buffers()}
    return copy.deepcopy(network, memo).eval()


def save(network: CanvasTransformer, pieces: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Write weights (float16), shape and vocabulary; an empty string among the K `pieces` ends the text."""
    weights = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, path, {"format": FORMAT, "shape": json.dumps(network.shape), "pieces": json.dumps(list(pieces))})


def load(path: str | os.PathLike[str]) -> tuple[CanvasTransformer, Vocabulary]:
    """The network (float32) and the vocabulary that `save` wrote. Raises ModelError for any other file."""
    path = read_path("path", path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except Exception as cause:
        raise ModelError(f"{path} is no safetensors file: {cause}") from cause
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError("it is of another format")
        network = CanvasTransformer(**json.loads(metadata["shape"]))
        network.load_state_dict(weights)
        pieces = json.loads(metadata["pieces"])
        ends = tuple(i for i, piece in enumerate(pieces) if not piece)
        return network.eval(), Vocabulary(tuple(piece.encode() for piece in pieces), ends)
    except Exception as cause:  # whatever its shape, its weights and its texts are, if they are none of ours
        raise ModelError(f"{path} was not written by feynkac.models.discrete.network.save: {cause}") from cause


def open_model(
    path: str | os.PathLike[str], kernel: Kernel | None = None, *, temperature: float = 1.0, **options: Any
) -> DiscreteDiffusion:
    """The masked diffusion in a file that `save` wrote, by default revealed token by token in random order.

    `temperature`: see `NetworkDenoiser`. `options`: those of `DiscreteDiffusion` (proposal, given). Raises ModelError.
    """
    network, vocabulary = load(path)
    length = network.shape["length"]
    denoiser = NetworkDenoiser(network, temperature=temperature)
    return DiscreteDiffusion(denoiser, vocabulary, length, kernel or Unmask(length), **options)
