"""Independent runs of the engine in one batch, and what is made of their particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.smc import resample as schemes
from feynkac.smc.engine import Step, smc
from feynkac.smc.rng import Streams

Numbers = NDArray[np.float64]
Drawn = tuple[Numbers, Tensor]
"""(runs, N) log-weights in nats and (runs, N, ...) samples."""
Texts = tuple[Numbers, NDArray[np.object_]]
"""(runs, N) log-weights in nats and (runs, N) texts."""
Method = Callable[[int, int], Drawn]
"""(N, runs) to what the method returns."""
SSP = schemes.adaptive(schemes.ssp, 0.5)
"""As `feynkac.steer` resamples by default."""


def engine(model: Any, potential: Any, n: int, runs: int, resample: Any = SSP, seed: int = 0) -> Step:
    """The last population of independent runs with N particles each, which share one batch."""
    joint = model.join([model] * (runs - 1))
    *_, last = smc(joint, potential, n=[n] * runs, resample=resample, rng=Streams(seed))
    return last


def steered(sampler: Any, potential: Any, n: int, runs: int, resample: Any = SSP, seed: int = 0) -> Drawn:
    """What the engine makes of a sampler of latents."""
    last = engine(sampler, potential, n, runs, resample, seed)
    return last.log_weight.reshape(runs, n), last.state.x.reshape(runs, n, *sampler.shape)


def written(model: Any, potential: Any, **options: Any) -> Callable[[int, int], Texts]:
    """(N, runs) to what the engine makes of a model of texts."""

    def go(n: int, runs: int) -> Texts:
        last = engine(model, potential, n, runs, **options)
        texts = np.array(last.state.texts(np.arange(n * runs)), dtype=object)
        return last.log_weight.reshape(runs, n), texts.reshape(runs, n)

    return go


def even(x: Tensor) -> Drawn:
    """Samples without weights."""
    return np.zeros(x.shape[:2]), x


def best(drawn: Drawn, reward: Callable[[Tensor], Tensor]) -> Drawn:
    """The one sample of each run with the highest reward."""
    x = drawn[1]
    top = reward(x.flatten(0, 1)).reshape(x.shape[:2]).argmax(1)
    return np.zeros((len(x), 1)), x[torch.arange(len(x)), top][:, None]


def shares(log_w: Numbers) -> Numbers:
    """(runs, N) weights that add up to 1 in each run, as a user of one run sees them."""
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    return w / w.sum(axis=1, keepdims=True)


def total_variation(p: Numbers, q: Numbers) -> float:
    """Between two laws of the same cells: from 0 to 1."""
    return 0.5 * float(np.abs(p / p.sum() - q / q.sum()).sum())


def quantiles(values: Numbers, share: Numbers, parts: int) -> Numbers:
    """(parts - 1,) edges that cut a weighted sample into parts of equal mass."""
    order = np.argsort(values)
    return values[order][np.searchsorted(np.cumsum(share[order]), np.arange(1, parts) / parts)]


def cells(features: tuple[Numbers, Numbers], edges: list[Numbers], weight: Numbers) -> Numbers:
    """The mass that a weighted sample gives to each pair of bins of two features."""
    one, two = (np.searchsorted(edge, each) for edge, each in zip(edges, features, strict=True))
    width = len(edges[1]) + 1
    return np.bincount(one * width + two, weight, (len(edges[0]) + 1) * width)
