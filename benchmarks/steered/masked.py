"""What steered masked diffusions of texts are compared with, at equal numbers of particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.models.discrete import DiscreteDiffusion
from steered.published import Published, run_masked
from steered.runs import Texts

Method = Callable[[int, int], Texts]
"""(N, runs) to what the method returns."""
Score = Callable[[str], float]


def baselines(
    pool: NDArray[np.object_], model: DiscreteDiffusion, score: Score, scale: float, log_psi: Score, blind: Method
) -> dict[str, Method]:
    """All that does without our weights: `pool` has samples of `model`, `blind` is guided, its weights are left out."""
    return {
        "base model": plain(pool),
        "best of N": best_of(pool, score),
        "guidance without weights": unweighted(blind),
        "published FK, difference": fk_steering(model, score, scale),
        "published FK, difference, adaptive": fk_steering(model, score, scale, adaptive=True),
        "published FK, max": fk_steering(model, score, scale, potential="max"),
        "importance sampling": importance(pool, log_psi),
    }


def plain(pool: NDArray[np.object_]) -> Method:
    """Samples of the base model, from a `pool` of them."""
    return lambda n, runs: _even(_blocks(pool, n))


def best_of(pool: NDArray[np.object_], score: Score) -> Method:
    """The one text of N with the highest score."""

    def go(n: int, runs: int) -> Texts:
        texts = _blocks(pool, n)
        top = [max(range(n), key=lambda i, row=row: score(row[i])) for row in texts]
        return _even(texts[np.arange(len(texts)), top][:, None])

    return go


def importance(pool: NDArray[np.object_], log_psi: Score) -> Method:
    """Samples of the base model, weighted by `log_psi`, in nats."""

    def go(n: int, runs: int) -> Texts:
        texts = _blocks(pool, n)
        return np.array([[log_psi(text) for text in row] for row in texts]), texts

    return go


def fk_steering(model: DiscreteDiffusion, score: Score, scale: float, **options: Any) -> Method:
    """The published weights (`published.py`), of every other step."""
    return lambda n, runs: _even(run_masked(model, score, scale, Published(every=2, **options), (runs, n)))


def unweighted(method: Method) -> Method:
    """What a `method` draws, with even weights."""
    return lambda n, runs: _even(method(n, runs)[1])


def _blocks(pool: NDArray[np.object_], n: int) -> NDArray[np.object_]:
    return pool[: len(pool) // n * n].reshape(-1, n)


def _even(texts: NDArray[np.object_]) -> Texts:
    return np.zeros(texts.shape), texts
