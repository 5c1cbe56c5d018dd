"""The weights of the published Feynman-Kac steering code, written anew from a description of what it does.

Algorithm 1 of Singhal et al. (2025), "A general framework for inference-time scaling and steering of diffusion models",
is exact. The code that was published beside it (zacharyhorvitz/Fk-Diffusion-Steering) is not, and it is what runs here:

- with adaptive resampling, the weights of a step that does not resample are forgotten, and the effective sample size is
  that of the last increment alone; the last step is always treated so;
- the last weight of MAX and SUM is the largest reward, or their sum, over the product of the weights so far: the target
  is then exp(max) or exp(sum) of the rewards on the way, and not exp(reward of the sample);
- rewards so far start at a floor of 0, so that MAX sees no difference between negative rewards;
- weights are kept below 1e10, resampling is multinomial, and it follows the step whose x0hat it judges by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.models.diffusion import NoiseSchedule
from feynkac.models.diffusion.denoisers import ask
from feynkac.smc.rng import Streams

Numbers = NDArray[np.float64]
CEILING = 1e10


@dataclass
class Published:
    """The populations of several runs: `past` rewards and products of weights `so_far`, both (runs, N)."""

    potential: Literal["difference", "max", "sum"] = "difference"
    adaptive: bool = False
    floor: float = 0.0
    every: int | None = None
    """Steps from one resampling to the next; None resamples at a fifth of the steps' number, as its scripts do."""
    past: Numbers | None = None
    so_far: Numbers | None = None

    def __call__(self, r: Numbers, last: bool, rng: np.random.Generator) -> NDArray[np.int64]:
        """(runs, N) ancestors from the rewards `r` (runs, N) in nats of this step."""
        if self.past is None or self.so_far is None:
            self.past, self.so_far = np.full(r.shape, self.floor), np.ones(r.shape)
        r, weight = self._weighed(r, last)
        keep = np.zeros(len(r), dtype=np.bool_)
        if self.adaptive or last:
            share = weight / weight.sum(axis=1, keepdims=True)
            keep = 1.0 / (share**2).sum(axis=1) >= 0.5 * r.shape[1]
        rows = np.where(keep[:, None], np.arange(r.shape[1]), _multinomial(weight, rng))
        self.past = np.take_along_axis(r, rows, axis=1)
        self.so_far = np.take_along_axis(self.so_far * weight, rows, axis=1)
        return rows

    def asked(self, t: int, steps: int) -> bool:
        """Whether step `t` is followed by a resampling."""
        every = self.every or max(steps // 5, 1)
        return t + 1 == steps or (t > 0 and t % every == 0)

    def _weighed(self, r: Numbers, last: bool) -> tuple[Numbers, Numbers]:
        assert self.past is not None and self.so_far is not None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.potential == "difference":
                weight = np.exp(r - self.past)
            else:
                r = np.maximum(r, self.past) if self.potential == "max" else r + self.past
                weight = np.exp(r) / (self.so_far if last else 1.0)
        weight = np.clip(np.nan_to_num(weight, nan=0.0), 0.0, CEILING)
        return r, np.where(weight.sum(axis=1, keepdims=True) > 0.0, weight, 1.0)


def _multinomial(weight: Numbers, rng: np.random.Generator) -> NDArray[np.int64]:
    cdf = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    u = rng.random(weight.shape)
    return np.minimum((cdf[:, None, :] <= u[:, :, None]).sum(axis=2), weight.shape[1] - 1)


@torch.no_grad()
def run(
    denoiser: object,
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    reward: Callable[[Tensor], Tensor],
    logic: Published,
    sizes: tuple[int, int],
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """(runs, N, ...) samples of `sizes` = (runs, N); `reward`: (R, ...) estimates to (R,) nats."""
    runs, n = sizes
    x = schedule.start * torch.as_tensor(rng.standard_normal((runs * n, *shape))).to(dtype)
    for i, step in enumerate(schedule.transitions):
        said = ask(denoiser, x, step.before)  # type: ignore[arg-type]
        x = step.mean(said.x0hat, said.epshat)
        if step.std > 0.0:
            x = x + step.std * torch.as_tensor(rng.standard_normal(x.shape)).to(dtype)
        if not logic.asked(i, len(schedule)):
            continue
        last = i + 1 == len(schedule)
        r = reward(x if last else said.x0hat).double().numpy().reshape(runs, n)
        rows = logic(r, last, rng) + n * np.arange(runs)[:, None]
        x = x[torch.as_tensor(rows.ravel())]
    return x.reshape(runs, n, *shape)


def run_masked(
    model: Any,
    reward: Callable[[str], float],
    scale: float,
    logic: Published,
    sizes: tuple[int, int],
    samples: int = 4,
) -> NDArray[np.object_]:
    """(runs, N) texts of a masked diffusion, `sizes` = (runs, N).

    Rewards on the way are the log-mean-exp of those of as many completions as `samples`; then they are scaled.
    """
    runs, n = sizes
    streams, groups, rng = Streams(7), [n * runs], np.random.default_rng(7)
    state, every = model.init(n * runs, streams.at("init", 0, groups)), np.arange(n * runs)
    for t in range(model.max_steps):
        before = replace(state, rng=streams.at("move", t, groups))
        state, _ = model.step(t, state, streams.at("propose", t, groups))
        if not logic.asked(t, model.max_steps):
            continue
        last = t + 1 == model.max_steps
        made = [state] if last else [before.complete(every, before.draw_clean(every)) for _ in range(samples)]
        found = np.array([[reward(text) for text in each.texts(every)] for each in made])
        r = scale * np.log(np.exp(found).mean(axis=0)).reshape(runs, n)
        state = state.fork((logic(r, last, rng) + n * np.arange(runs)[:, None]).ravel())
    return np.array(state.texts(every), dtype=object).reshape(runs, n)
