"""Small models whose normalising constant has a closed form: what runs say of their evidence can be held against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Walkers:
    """N particles with the score that each has gathered so far, in nats."""

    x: NDArray[Any]
    score: Floats
    steps: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def fork(self, rows: NDArray[np.int64]) -> Walkers:
        return replace(self, x=self.x[rows], score=self.score[rows])


@dataclass(frozen=True)
class Score:
    """The potential: the score at the end; on the way it foresees what was gathered so far, or nothing."""

    foresee: bool = True
    name = "score"

    def level(self, t: int, state: Walkers, rows: NDArray[np.int64]) -> Floats:
        return state.score[rows] if self.foresee else np.zeros(len(rows))

    def final(self, state: Walkers, rows: NDArray[np.int64]) -> Floats:
        return state.score[rows]


@dataclass(frozen=True)
class Observed:
    """A stationary Gaussian chain x_t = a x_{t-1} + sqrt(1 - a^2) e_t, seen through Gaussian noise at every step.

    `guided` proposes from p(x_t | x_{t-1}, y_t), the proposal of least variance. The evidence is Kalman's.
    """

    y: tuple[float, ...]
    noise: float
    a: float = 0.9
    guided: bool = False

    def init(self, n: int, rng: Any) -> Walkers:
        return Walkers(np.zeros(n), np.zeros(n))

    def step(self, t: int, state: Walkers, rng: Any) -> tuple[Walkers, Floats]:
        mean = self.a * state.x
        variance = 1.0 if t == 0 else 1.0 - self.a**2
        increment = np.zeros(len(state))
        z, y, r = rng.normal((len(state),)), self.y[t], self.noise**2
        if self.guided:
            gain = variance / (variance + r)
            x = mean + gain * (y - mean) + math.sqrt(variance * r / (variance + r)) * z
            increment = log_normal(y, mean, variance + r) - log_normal(y, x, r)
        else:
            x = mean + math.sqrt(variance) * z
        return Walkers(x, state.score + log_normal(y, x, r), t + 1), increment

    def done(self, state: Walkers) -> NDArray[np.bool_]:
        return np.full(len(state), state.steps == len(self.y))

    @property
    def log_z(self) -> float:
        mean, variance, total = 0.0, 1.0, 0.0
        for t, y in enumerate(self.y):
            if t:
                mean, variance = self.a * mean, self.a**2 * variance + 1.0 - self.a**2
            total += float(log_normal(y, mean, variance + self.noise**2))
            gain = variance / (variance + self.noise**2)
            mean, variance = mean + gain * (y - mean), (1.0 - gain) * variance
        return total


def log_normal(x: Any, mean: Any, variance: float) -> Any:
    """Log-density of a normal."""
    return -0.5 * ((x - mean) ** 2 / variance + math.log(2.0 * math.pi * variance))


def observe_chain(steps: int, noise: float, *, seed: int = 0, **options: Any) -> Observed:
    """An `Observed` chain with observations drawn from itself."""
    rng, a = np.random.default_rng(seed), 0.9
    x, y = rng.standard_normal(), []
    for _ in range(steps):
        y.append(float(x + noise * rng.standard_normal()))
        x = a * x + math.sqrt(1.0 - a * a) * rng.standard_normal()
    return Observed(tuple(y), noise, a, **options)


@dataclass(frozen=True)
class Tokens:
    """A Markov chain of tokens: `start` (K,) and `move` (K, K) are log-probabilities, `score` (K,) nats a token.

    `guided` proposes each token with the score of it in view. The evidence is a product of matrices.
    """

    start: Floats
    move: Floats
    score: Floats
    length: int
    guided: bool = False

    def init(self, n: int, rng: Any) -> Walkers:
        return Walkers(np.full(n, -1), np.zeros(n))

    def step(self, t: int, state: Walkers, rng: Any) -> tuple[Walkers, Floats]:
        log_p = np.broadcast_to(self.start, (len(state), len(self.start))) if t == 0 else self.move[state.x]
        increment = np.zeros(len(state))
        if self.guided:
            log_q = log_p + self.score
            mass = np.logaddexp.reduce(log_q, axis=1)
            x = rng.categorical(log_q)
            increment = mass - self.score[x]
        else:
            x = rng.categorical(log_p)
        return Walkers(x, state.score + self.score[x], t + 1), increment

    def done(self, state: Walkers) -> NDArray[np.bool_]:
        return np.full(len(state), state.steps == self.length)

    @property
    def log_z(self) -> float:
        mass = self.start + self.score
        for _ in range(self.length - 1):
            mass = np.logaddexp.reduce(mass[:, None] + self.move, axis=0) + self.score
        return float(np.logaddexp.reduce(mass))


def independent(p: Any, score: Any, length: int, **options: Any) -> Tokens:
    """`Tokens` that are drawn independently with probabilities `p`."""
    log_p = np.log(np.asarray(p, np.float64))
    return Tokens(log_p, np.tile(log_p, (len(log_p), 1)), np.asarray(score, np.float64), length, **options)


@dataclass(frozen=True)
class Tilted:
    """One step: x ~ N(0, `width`^2), with the score of N(`shift`, 1) against it, scaled by `z` nats."""

    shift: float = 0.0
    width: float = 1.0
    log_z: float = 0.0

    def init(self, n: int, rng: Any) -> Walkers:
        return Walkers(np.zeros(n), np.zeros(n))

    def step(self, t: int, state: Walkers, rng: Any) -> tuple[Walkers, Floats]:
        x = self.width * rng.normal((len(state),))
        score = log_normal(x, self.shift, 1.0) - log_normal(x, 0.0, self.width**2) + self.log_z
        return Walkers(x, score, 1), np.zeros(len(state))

    def done(self, state: Walkers) -> NDArray[np.bool_]:
        return np.full(len(state), state.steps == 1)
