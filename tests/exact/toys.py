"""Models so small that their target is known by brute force, and the two assertions that everything must pass.

Each toy stands for a family: `Text` for autoregressive models that end at random times, `Chain` for reverse
diffusions of fixed length, `Tempered` for samplers that move but do not extend.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from feynkac.base.memory import Memory
from feynkac.smc.engine import Step, smc
from feynkac.smc.testing import Choices, enumerate_runs, expectation

Outcome = tuple[int, ...]
EOS = 2


@dataclass(frozen=True)
class Toy:
    """A run to be checked, and its truth."""

    model: Any
    potential: Any
    truth: dict[Outcome, float]
    """Unnormalised target mass p(x) exp(final(x)) of every outcome."""
    moves: Any = ()

    def run(self, *, n: int, resample: Any, rng: Any, engine: Callable[..., Iterator[Step]] = smc) -> Step:
        *_, last = engine(self.model, self.potential, n=n, resample=resample, rng=rng, moves=self.moves)
        return last

    def masses(self, step: Step, rows: slice = slice(None)) -> np.ndarray:
        """(S,) the weight that a population gives to each outcome, in the order of `truth`."""
        found = dict.fromkeys(self.truth, 0.0)
        for outcome, log_w, done in zip(
            step.state.outcomes()[rows], step.log_weight[rows], step.done[rows], strict=True
        ):
            if log_w != -np.inf:  # NaN is kept, so that no comparison hides it
                assert done, "a row that is alive at the end has finished"
                found[outcome] += math.exp(log_w)
        return np.array(list(found.values()))


def sum_over_runs(run: Callable[[Choices], Any]) -> Any:
    """The mean of a number, or of numbers, that `run(rng)` returns: all runs are walked, and they must be all."""
    total, mean = 0.0, np.zeros(())
    for p, found in enumerate_runs(run):
        total, mean = total + p, mean + p * np.asarray(found, dtype=np.float64)
    assert abs(total - 1.0) < 1e-12
    return mean


def weigh_sample(step: Step, samples: Sequence[Any]) -> np.ndarray:
    """(S,) the weight that a population of one particle gives to each of `samples`; what has weight is one of them."""
    weight = math.exp(step.log_weight[0])
    return (
        weight * np.eye(len(samples))[samples.index(step.state.samples([0])[0])] if weight else np.zeros(len(samples))
    )


def find_kernel(sweep: Callable[[Choices, Any], Any], paths: Sequence[Any]) -> np.ndarray:
    """(P, P) how probable it is that `sweep(rng, path)` leads from each of `paths` to each; it must lead to one."""
    return np.array(
        [sum_over_runs(lambda rng, path=path: np.eye(len(paths))[paths.index(sweep(rng, path))]) for path in paths]
    )


def assert_exact(
    toy: Toy, resample: Any, n: int, *, engine: Callable[..., Iterator[Step]] = smc, read: Any = None
) -> None:
    """E[Z] = Z, and E[sum_i w_i f(x_i)] = Z E[f] for the indicator f of every outcome, hence for every f."""
    read = read or toy.masses
    assert_equal_masses(
        expectation(lambda rng: read(toy.run(n=n, resample=resample, rng=rng, engine=engine))),
        np.array(list(toy.truth.values())),
    )


class BiasFound(AssertionError):
    """Two measures differ: `z` is the relative bias of the total, `f` the largest one of any outcome over the total."""

    def __init__(self, z: float, f: float) -> None:
        super().__init__(f"E[Z]/Z - 1 = {z:.2e}, bias of f = {f:.2e}")
        self.z, self.f = z, f


def assert_equal_masses(mean: np.ndarray, truth: np.ndarray) -> None:
    """Two measures on the outcomes are one, to 1e-12 of the total. Raises BiasFound."""
    z = truth.sum()
    bias_z, bias_f = mean.sum() / z - 1, np.abs(mean - truth).max() / z
    if not (abs(bias_z) < 1e-12 and bias_f < 1e-12):
        raise BiasFound(bias_z, bias_f)


# --- autoregressive text -------------------------------------------------------------------------------------------

# Rows: after token 0, after token 1, at the start. Columns: token 0, token 1, end.
P = np.array([[0.5, 0.2, 0.3], [0.0, 0.6, 0.4], [0.45, 0.35, 0.2]])
Q = np.array([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.25, 0.5, 0.25]])


@dataclass(frozen=True)
class Problem:
    """One autoregressive problem: `p` is the law, `q` the proposal, texts have at most `limit` tokens."""

    p: np.ndarray = field(default_factory=P.copy)
    q: np.ndarray = field(default_factory=Q.copy)
    limit: int = 3
    at_limit: Literal["truncate", "end"] = "truncate"

    def law(self) -> dict[Outcome, float]:
        """The mass of every text under the declared law."""
        return {
            text: self._mass(text)
            for length in range(self.limit + 1)
            for text in itertools.product(range(EOS), repeat=length)
        }

    def _mass(self, text: Outcome) -> float:
        before = (EOS, *text)
        mass = math.prod(self.p[a, b] for a, b in itertools.pairwise(before))
        cut = len(text) == self.limit and self.at_limit == "truncate"
        return mass * (1.0 if cut else self.p[before[-1], EOS])


class Texts:
    """A population of texts; dead rows draw nothing."""

    def __init__(self, texts: list[Outcome], ended: np.ndarray, dead: np.ndarray, problem: np.ndarray) -> None:
        self.texts, self.ended, self.dead, self.problem = texts, ended, dead, problem

    def __len__(self) -> int:
        return len(self.texts)

    def fork(self, rows: np.ndarray) -> Texts:
        return type(self)([self.texts[row] for row in rows], self.ended[rows], self.dead[rows], self.problem[rows])

    def keep(self) -> Texts:
        return self.fork(np.arange(len(self)))

    def concat(self, others: Sequence[Texts]) -> Texts:
        parts = [self, *others]
        arrays = (np.concatenate([getattr(each, name) for each in parts]) for name in ("ended", "dead", "problem"))
        return type(self)([text for each in parts for text in each.texts], *arrays)

    def retire(self, rows: np.ndarray) -> None:
        self.dead[rows] = True

    def outcomes(self) -> list[Outcome]:
        return self.texts


class TextModel:
    """Problems in one batch: `sizes[k]` rows work on `problems[k]`."""

    weigh_forced_end = True
    population = Texts

    def __init__(self, problems: Sequence[Problem], sizes: Sequence[int] | None = None) -> None:
        self.problems, self.sizes = problems, sizes

    def init(self, n: int, rng: Any) -> Texts:
        problem = np.repeat(np.arange(len(self.problems)), self.sizes or n)
        return self.population([()] * n, np.zeros(n, bool), np.zeros(n, bool), problem)

    def step(self, t: int, state: Texts, rng: Any) -> tuple[Texts, np.ndarray]:
        still = state.ended | state.dead
        return self._extend(state, rng.categorical(self._log_q(state, still)), still)

    def replay(self, t: int, state: Texts, rng: Any, reference: Outcome) -> tuple[Texts, np.ndarray]:
        still = state.ended | state.dead
        log_q = self._log_q(state, still)
        log_q[0] = np.where(np.arange(3) == ([*reference, EOS][t] if not still[0] else EOS), 0.0, -np.inf)
        return self._extend(state, rng.categorical(log_q), still)

    def trace(self, state: Texts, row: int) -> Outcome:
        return state.texts[row]

    def _log_q(self, state: Texts, still: np.ndarray) -> np.ndarray:
        log_q = np.full((len(state), 3), -np.inf)
        log_q[still, EOS] = 0.0
        for row in np.flatnonzero(~still):
            log_q[row] = np.log(self.problems[state.problem[row]].q[self._last(state, row)])
        return log_q

    def _last(self, state: Texts, row: int) -> int:
        return (EOS, *state.texts[row])[-1]

    def _extend(self, state: Texts, tokens: np.ndarray, still: np.ndarray) -> tuple[Texts, np.ndarray]:
        inc, texts, ended = np.zeros(len(state)), list(state.texts), state.ended.copy()
        for row in np.flatnonzero(~still):
            problem, last, token = self.problems[state.problem[row]], self._last(state, row), int(tokens[row])
            with np.errstate(divide="ignore"):
                inc[row] = np.log(problem.p[last, token]) - np.log(problem.q[last, token])
            if token == EOS:
                ended[row] = True
                continue
            texts[row] = (*texts[row], token)
            if len(texts[row]) == problem.limit:
                ended[row] = True
                if problem.at_limit == "end" and self.weigh_forced_end:
                    inc[row] += np.log(problem.p[token, EOS])
        return type(state)(texts, ended, state.dead, state.problem), inc

    def done(self, state: Texts) -> np.ndarray:
        return state.ended


def text_score(text: Outcome) -> float:
    """The final potential: no empty text, never two 1s in a row."""
    if not text or (1, 1) in itertools.pairwise(text):
        return -math.inf
    return 1.1 * sum(text) - 0.4 * len(text)


class TextPotential:
    """Wild guesses on the way, one promise of death, and the true score at the end."""

    def level(self, t: int, state: Texts, rows: np.ndarray) -> np.ndarray:
        return np.array([self._guess(t, state.texts[row]) for row in rows])

    def final(self, state: Texts, rows: np.ndarray) -> np.ndarray:
        return np.array([text_score(state.texts[row]) for row in rows])

    def _guess(self, t: int, text: Outcome) -> float:
        promise = -math.inf if (1, 1) in itertools.pairwise(text) else 0.0
        return promise + 1.7 * math.cos(3 * len(text) + text[-1]) - 0.8 * sum(text) * t


def text_truth(problem: Problem) -> dict[Outcome, float]:
    return {text: mass * math.exp(text_score(text)) for text, mass in problem.law().items()}


def text(limit: int = 3, at_limit: Literal["truncate", "end"] = "truncate") -> Toy:
    problem = Problem(limit=limit, at_limit=at_limit)
    return Toy(TextModel([problem]), TextPotential(), text_truth(problem))


# --- reverse chain -------------------------------------------------------------------------------------------------

CHAIN_P = np.array([[0.6, 0.4], [0.3, 0.7]])
CHAIN_Q = np.array([[0.5, 0.5], [0.45, 0.55]])
REWARD = np.array([0.9, -0.6])


@dataclass
class Latents:
    """Latents with their past as one mutable list a row, as a user's program might keep it."""

    pasts: list[list[int]]
    memory: Memory
    steps: int

    def __len__(self) -> int:
        return len(self.pasts)

    def fork(self, rows: np.ndarray) -> Latents:
        return replace(self, pasts=[list(self.pasts[row]) for row in rows], memory=self.memory.fork(rows))

    def keep(self) -> Latents:
        return self.fork(np.arange(len(self)))

    def concat(self, others: Sequence[Latents]) -> Latents:
        pasts = [past for each in (self, *others) for past in each.pasts]
        return replace(self, pasts=pasts, memory=self.memory.concat([each.memory for each in others]))

    def outcomes(self) -> list[Outcome]:
        return [tuple(past) for past in self.pasts]


class ChainModel:
    """A reverse diffusion of `steps` steps over two latent values, proposed from another transition."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def init(self, n: int, rng: Any) -> Latents:
        return Latents([[] for _ in range(n)], Memory(n), self.steps)

    def step(self, t: int, state: Latents, rng: Any) -> tuple[Latents, np.ndarray]:
        return self.replay(t, state, rng, None)

    def replay(self, t: int, state: Latents, rng: Any, reference: Outcome | None) -> tuple[Latents, np.ndarray]:
        last = np.array([past[-1] if past else 0 for past in state.pasts])
        log_q = np.log(CHAIN_Q[last])
        if reference is not None:
            log_q[0] = np.where(np.arange(2) == reference[t], 0.0, -np.inf)
        x = rng.categorical(log_q)
        for past, value in zip(state.pasts, x, strict=True):
            past.append(int(value))
        return state, np.log(CHAIN_P[last, x] / CHAIN_Q[last, x])

    def trace(self, state: Latents, row: int) -> Outcome:
        return tuple(state.pasts[row])

    def done(self, state: Latents) -> np.ndarray:
        return np.array([len(past) >= state.steps for past in state.pasts])


class MaxReward:
    """Guides by the best reward so far, and is judged by the last: FK steering's MAX with its true target."""

    def level(self, t: int, state: Latents, rows: np.ndarray) -> np.ndarray:
        best = state.memory.array("best", -np.inf)
        best[rows] = np.maximum(best[rows], REWARD[[state.pasts[row][-1] for row in rows]])
        return 1.5 * best[rows]

    def final(self, state: Latents, rows: np.ndarray) -> np.ndarray:
        return 1.5 * REWARD[[state.pasts[row][-1] for row in rows]]


def chain(steps: int = 3) -> Toy:
    truth = {
        path: math.prod(CHAIN_P[a, b] for a, b in itertools.pairwise((0, *path))) * math.exp(1.5 * REWARD[path[-1]])
        for path in itertools.product(range(2), repeat=steps)
    }
    return Toy(ChainModel(steps), MaxReward(), truth)


# --- tempering -----------------------------------------------------------------------------------------------------

PRIOR = np.array([0.7, 0.3])
LOG_LIKELIHOOD = np.array([-0.9, 1.2])


@dataclass
class Points:
    x: np.ndarray
    t: int = -1

    def __len__(self) -> int:
        return len(self.x)

    def fork(self, rows: np.ndarray) -> Points:
        return Points(self.x[rows], self.t)

    def keep(self) -> Points:
        return self

    def concat(self, others: Sequence[Points]) -> Points:
        return Points(np.concatenate([self.x, *(each.x for each in others)]), self.t)

    def outcomes(self) -> list[Outcome]:
        return [(int(x),) for x in self.x]


class IdentityModel:
    """Draws from the prior and then stays: all motion is in the moves."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def init(self, n: int, rng: Any) -> Points:
        return Points(rng.categorical(np.tile(np.log(PRIOR), (n, 1))))

    def step(self, t: int, state: Points, rng: Any) -> tuple[Points, np.ndarray]:
        return Points(state.x, t), np.zeros(len(state))

    def done(self, state: Points) -> np.ndarray:
        return np.full(len(state), state.t == self.steps - 1)


class Likelihood:
    """Level lambda_t log L with lambda_t rising to 1."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def at(self, t: int, x: np.ndarray) -> np.ndarray:
        return (t + 1) / self.steps * LOG_LIKELIHOOD[x]

    def level(self, t: int, state: Points, rows: np.ndarray) -> np.ndarray:
        return self.at(t, state.x[rows])

    def final(self, state: Points, rows: np.ndarray) -> np.ndarray:
        return LOG_LIKELIHOOD[state.x[rows]]


class Metropolis:
    """Proposes the other value and accepts it for the target so far."""

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    def __call__(
        self, t: int, state: Points, level: np.ndarray, alive: np.ndarray, rng: Any
    ) -> tuple[Points, np.ndarray]:
        other = 1 - state.x
        proposed = self.likelihood.at(t - 1, other)
        ratio = np.exp(np.log(PRIOR[other]) + proposed - np.log(PRIOR[state.x]) - level)
        accept = np.array([bool(u < r) for u, r in zip(rng.uniform(len(state)), ratio, strict=True)])
        return Points(np.where(accept, other, state.x), state.t), np.where(accept, proposed, level)


def tempered(steps: int = 3, moves: int = 1) -> Toy:
    likelihood = Likelihood(steps)
    truth = {(x,): float(PRIOR[x] * np.exp(LOG_LIKELIHOOD[x])) for x in range(2)}
    return Toy(IdentityModel(steps), likelihood, truth, moves=(Metropolis(likelihood),) * moves)
