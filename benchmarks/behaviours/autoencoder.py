"""A sparse autoencoder of one layer, trained in seconds; for this comparison only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SPARSE, FEATURES, STEPS, BATCH = 16, 512, 200, 256


class TopK(torch.nn.Module):
    """z = the largest `SPARSE` of E (x - b), not below 0; x' = D z + b (Gao et al. 2024)."""

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        rows = torch.nn.functional.normalize(torch.randn(FEATURES, len(mean)), dim=1)
        self.rows, self.columns = torch.nn.Parameter(rows), torch.nn.Parameter(rows.T.clone())
        self.mean, self.scale = torch.nn.Parameter(mean), scale

    def encode(self, x: Tensor) -> Tensor:
        """(..., K) features."""
        z = ((x - self.mean) / self.scale) @ self.columns
        best = z.topk(SPARSE, dim=-1)
        return torch.zeros_like(z).scatter(-1, best.indices, best.values.relu())

    def decode(self, feature_acts: Tensor) -> Tensor:
        """(..., W) activations."""
        return feature_acts @ self.rows * self.scale + self.mean


def train(values: Tensor, seed: int = 0) -> tuple[TopK, float]:
    """An autoencoder of (n, W) activations, and the share of the variance of every tenth that it leaves unexplained."""
    torch.manual_seed(seed)
    held, used = values[::10], values[torch.arange(len(values)) % 10 != 0]
    found = TopK(used.mean(0), float((used - used.mean(0)).norm(dim=1).mean() / values.shape[1] ** 0.5))
    optimiser = torch.optim.Adam(found.parameters(), lr=2e-3)
    for _ in range(STEPS):
        batch = used[torch.randint(len(used), (BATCH,))]
        loss = ((found.decode(found.encode(batch)) - batch) / found.scale).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            found.rows.copy_(torch.nn.functional.normalize(found.rows, dim=1))
    found.requires_grad_(False)
    left = (found.decode(found.encode(held)) - held).square().sum() / (held - used.mean(0)).square().sum()
    return found, float(left)


def capture_tokens(lm: Any, texts: list[str], layer: int, tokens: int) -> Tensor:
    """(n, W) activations behind the first tokens of texts, but the very first; shorter texts are left out."""
    from feynkac.models.edits import capture

    long = [text for text in texts if len(lm.begin(text)) >= tokens]
    return capture(lm, long, layer, at=range(1, tokens)).at[layer].flatten(0, 1)


def pick_feature(found: TopK, toward: Tensor, away: Tensor) -> tuple[int, float]:
    """The feature that differs most between two groups of activations, and a value that it has when it is high."""
    high, low = found.encode(toward), found.encode(away)
    feature = int(((high.mean(0) - low.mean(0)) / (torch.cat([high, low]).std(0) + 0.1)).argmax())
    return feature, float(high[:, feature].max())
