"""Runs made without a model: particles that add random words, weighed at random and resampled as the engine does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from feynkac import History, Result, Timing

WORDS = (
    *(" the", " a", " night", " was", " dark", " and", " windy", " storm", ",", " I", " found", " myself", " looking"),
    *(" out", " of", " my", " window", ".\n", " Rain", " began"),
)


def make_run(
    n: int = 8,
    steps: int = 12,
    seed: int = 0,
    *,
    words: Sequence[str] = WORDS,
    islands: int = 1,
    every: bool = False,
    **changes: Any,
) -> Result:
    """N particles that add a word a step, resampled within their islands when half are effective or at `every` step."""
    rng, b = np.random.default_rng(seed), n // islands
    log_weight, levels = np.full(n, -np.log(n)), np.zeros(n)
    texts, roots = [""] * n, np.arange(n)
    told: dict[str, list[Any]] = {field.name: [] for field in dataclasses.fields(History)}
    for t in range(steps):
        rows = np.arange(n)
        if told["ess"] and (every or told["ess"][-1] < n / 2):
            told["resampled"].append(t)
            for start in range(0, n, b):
                rows[start : start + b] = start + resample(log_weight[start : start + b], rng)
                part = log_weight[start : start + b]
                log_weight[start : start + b] = np.logaddexp.reduce(part) - np.log(b)
        added, log_prob = rng.integers(len(words), size=n), -rng.exponential(2.0, size=n)
        texts = [texts[row] + words[word] for row, word in zip(rows, added, strict=True)]
        roots, told["carried"] = roots[rows], [*told["carried"], log_weight.tolist()]
        before, levels = levels[rows], rng.normal(size=n).round(6)
        increments = -rng.exponential(0.3, size=n)
        log_weight = log_weight + increments + levels - before
        share = np.exp(log_weight - log_weight.max())
        told["rows"].append(rows.tolist())
        told["pieces"].append([words[word] for word in added])
        told["log_probs"].append(log_prob.round(6).tolist())
        told["increments"].append(increments.round(6).tolist())
        told["levels"].append(levels.tolist())
        told["log_weights"].append(log_weight.round(6).tolist())
        told["ess"].append(float(share.sum() ** 2 / (share @ share)))
        told["log_evidence"].append(float(np.logaddexp.reduce(log_weight)))
        told["unique_ancestors"].append(len(set(roots.tolist())))
    whole = {
        "samples": texts,
        "log_weights": log_weight,
        "log_evidence": told["log_evidence"][-1],
        "log_evidence_se": None,
        "history": History(**told),
        "timing": Timing(1.25, 1.0, 0.25),
        "forwarded_tokens": n * steps,
        "seed": seed,
        "prompt": "It was a dark and windy night, and",
    }
    return Result(**{**whole, **changes})


def resample(log_weight: Any, rng: np.random.Generator) -> Any:
    """Parents drawn by weight; each that survives keeps its slot."""
    share = np.exp(log_weight - log_weight.max())
    drawn = rng.multinomial(len(share), share / share.sum())
    rows = np.where(drawn > 0, np.arange(len(share)), -1)
    rows[rows < 0] = np.repeat(np.arange(len(share)), np.maximum(drawn - 1, 0))
    return rows


def drop_details(result: Result) -> Result:
    """The result as a version wrote it that knew neither pieces nor weights of steps."""
    kept = ("ess", "log_evidence", "unique_ancestors", "resampled", "rows", "levels", "sweeps")
    history = History(**{name: getattr(result.history, name) for name in kept})
    return dataclasses.replace(result, history=history)
