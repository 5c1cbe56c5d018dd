"""What the tests of discrete diffusion compare with: laws written down from the papers' formulas, by brute force."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np

Tokens = tuple[int, ...]
Law = dict[Tokens, float]


class WildDenoiser:
    """Any probabilities at all for any canvas and time, some of them zero: no posterior of anything."""

    def __init__(self, k: int, seed: int = 0, *, time_independent: bool = False, zeros: bool = True) -> None:
        self.k, self.seed, self.zeros, self.time_independent = k, seed, zeros, time_independent
        self.asked: list[Tokens] = []

    def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
        self.asked += [tuple(canvas) for canvas in tokens.tolist()]
        with np.errstate(divide="ignore"):
            return np.log(np.array([self.p(tuple(canvas), t) for canvas in tokens.tolist()]))

    def p(self, canvas: Tokens, t: float) -> np.ndarray:
        """(L, K)"""
        time = 0 if self.time_independent else round(1000 * t)
        p = np.random.default_rng([self.seed, time, *canvas]).dirichlet(np.ones(self.k), len(canvas))
        if self.zeros and self.k > 1 and sum(canvas) % 3 == 0:
            p[0, 0], p[0, 1] = 0.0, p[0, 0] + p[0, 1]
        return p


def masked_law(p: Callable, length: int, k: int, alpha: list[float], remask: float = 0.0) -> Law:
    """MDLM (Sahoo et al. 2024, equation 7) and ReMDM (Wang et al. 2025, equation 6), position by position."""
    steps, now = len(alpha) - 1, {(k,) * length: 1.0}
    for i in range(steps):
        at, to = alpha[i], alpha[i + 1]
        sigma = remask * min(1.0, (1 - to) / at) if at else 0.0
        stay = (1 - to - sigma * at) / (1 - at) if at < 1 else 0.0

        def options(canvas: Tokens, i: int = i, sigma: float = sigma, stay: float = stay) -> list[dict[int, float]]:
            table = p(canvas, 1 - i / steps)
            return [
                {**{v: (1 - stay) * row[v] for v in range(k)}, k: stay} if x == k else {x: 1 - sigma, k: sigma}
                for x, row in zip(canvas, table, strict=True)
            ]

        now = _pushed(now, options, lambda canvas: remask == 0.0 and k not in canvas)
    return now


def uniform_law(p: Callable, length: int, k: int, alpha: list[float]) -> Law:
    """D3PM with uniform transitions: sum over x_0 of p(x_0 | x_t) q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)."""
    steps = len(alpha) - 1
    now = dict.fromkeys(itertools.product(range(k), repeat=length), k**-length)
    for i in range(steps):
        at, to = alpha[i], alpha[i + 1]

        def noisy(clean: int, seen: int, a: float) -> float:
            return a * (clean == seen) + (1 - a) / k

        def options(canvas: Tokens, i: int = i, at: float = at, to: float = to) -> list[dict[int, float]]:
            table = p(canvas, 1 - i / steps)
            return [
                {
                    s: sum(
                        row[c] * noisy(s, x, at / to) * noisy(c, s, to) / noisy(c, x, at) for c in range(k) if row[c]
                    )
                    for s in range(k)
                }
                for x, row in zip(canvas, table, strict=True)
            ]

        now = _pushed(now, options, lambda canvas: False)
    return now


def unmask_law(p: Callable, length: int, k: int, per_step: int, order: str) -> Law:
    """Every order in which positions can be revealed, `per_step` at once."""
    now, steps = {(k,) * length: 1.0}, -(-length // per_step)
    for i in range(steps):
        after: Law = defaultdict(float)
        for canvas, mass in now.items():
            hidden = [j for j, x in enumerate(canvas) if x == k]
            table = p(canvas, 1 - i * per_step / length)
            chosen = list(itertools.combinations(hidden, min(per_step, len(hidden))))
            if order == "left":
                chosen = chosen[:1]
            elif order == "confident":
                surest = sorted(hidden, key=lambda j, table=table: -table[j].max())
                chosen = [tuple(surest[:per_step])]
            for places in chosen:
                for values in itertools.product(range(k), repeat=len(places)):
                    new = list(canvas)
                    for j, v in zip(places, values, strict=True):
                        new[j] = v
                    after[tuple(new)] += (
                        mass / len(chosen) * math.prod(table[j][v] for j, v in zip(places, values, strict=True))
                    )
        now = after
    return now


def _pushed(now: Law, options: Callable, finished: Callable) -> Law:
    after: Law = defaultdict(float)
    for canvas, mass in now.items():
        if finished(canvas):
            after[canvas] += mass
            continue
        for new in itertools.product(*(each.items() for each in options(canvas))):
            if p := mass * math.prod(q for _, q in new):
                after[tuple(v for v, _ in new)] += p
    return after


class WildPotential:
    """Guesses that mean nothing on the way; at the end a score that forbids one sequence."""

    def __init__(self, forbidden: Tokens = ()) -> None:
        self.forbidden = forbidden

    def level(self, t: int, state, rows: np.ndarray) -> np.ndarray:
        return np.array(
            [1.3 * math.cos(2 * t + 3.1 * sum(j * x for j, x in enumerate(c, 1))) for c in self._of(state, rows)]
        )

    def final(self, state, rows: np.ndarray) -> np.ndarray:
        return np.array([self.score(canvas) for canvas in self._of(state, rows)])

    def score(self, canvas: Tokens) -> float:
        return -math.inf if canvas == self.forbidden else 0.9 * sum(canvas) - 0.5 * canvas[0]

    def _of(self, state, rows: np.ndarray) -> list[Tokens]:
        return [tuple(canvas) for canvas in state.tokens_now[rows].tolist()]
