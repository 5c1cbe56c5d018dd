"""What was measured of each law, as means over the questions of a behaviour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from behaviours.texts import BEHAVIOURS
from feynkac.rulers.estimates import Estimate, Sample
from feynkac.rulers.frontier import Frontier
from feynkac.rulers.measured import Measured, Ruler

Floats = NDArray[np.float64]
BEST_OF = (4, 16)
POINTS = 200
RESAMPLED = 400


@dataclass(frozen=True)
class Row:
    """A law: means over the questions, with standard errors; nats a text, but `fluency`, nats a token."""

    name: str
    reward: Estimate
    kl: Estimate
    least: float
    reached: bool
    fluency: float
    distinct: float
    tokens: float
    """Forwarded for each text returned."""

    def flat(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Floor:
    """The least mean KL of any laws, one for each question, with a mean reward: one strength for all of them.

    mean KL >= s m - mean log E[exp(s r)] for every s (Donsker and Varadhan 1975, question by question).
    """

    strengths: Floats
    rewards: Floats
    log_means: Floats

    @classmethod
    def of(cls, rewards: Iterable[Floats]) -> Floor:
        """That of the base, from the rewards of its texts by question."""
        parts = [Frontier(Sample(np.zeros(len(r)), np.arange(len(r)), len(r)), r) for r in rewards]
        ends = max(part.strengths[0] for part in parts), min(part.strengths[1] for part in parts)
        strengths = np.linspace(*ends, POINTS)
        found = [[part.find_point(s) for part in parts] for s in strengths]
        means = np.array([[point.reward.value for point in points] for points in found]).mean(1)
        kls = np.array([[point.kl.value for point in points] for points in found]).mean(1)
        return cls(strengths, means, strengths * means - kls)

    @property
    def kls(self) -> Floats:
        """By strength."""
        return self.strengths * self.rewards - self.log_means

    def find_least(self, reward: float) -> tuple[float, bool]:
        """The least KL, and whether the texts of the base tell it; else it is a bound."""
        least = float((self.strengths * reward - self.log_means).max())
        return least, bool(self.rewards[0] <= reward <= self.rewards[-1])


def average(estimates: list[Estimate]) -> Estimate:
    """The mean of independent estimates."""
    n = len(estimates)
    se = math.sqrt(sum(each.se**2 for each in estimates)) / n
    return Estimate(sum(each.value for each in estimates) / n, se, min(each.parts for each in estimates))


def choose_best(rewards: Floats, n: int) -> tuple[float, float]:
    """Mean reward of the best of `n`, ties broken by lot, and KL to the base: exact for the law of these rewards.

    A text with reward r is chosen with F(r)^n - F(r-)^n in place of F(r) - F(r-) (Beirami et al. 2024).
    """
    values, counts = np.unique(rewards, return_counts=True)
    p = counts / counts.sum()
    q = np.diff(np.concatenate([[0.0], np.cumsum(p)]) ** n)
    some = q > 0.0
    return float(q @ values), float(q[some] @ np.log(q[some] / p[some]))


def make_best(n: int, rewards: list[Floats], base: list[Measured], texts: list[int], floor: Floor) -> Row:
    """The row of the best of `n`, from the texts of the base."""
    rng = np.random.default_rng(0)
    value = np.mean([choose_best(r, n) for r in rewards], axis=0)
    again = [[choose_best(rng.choice(r, len(r)), n) for r in rewards] for _ in range(RESAMPLED)]
    se = np.array(again).mean(1).std(0)
    reward, kl = (Estimate(float(v), float(s), len(rewards[0])) for v, s in zip(value, se, strict=True))
    tokens = n * float(np.mean([row.forwarded_tokens / k for row, k in zip(base, texts, strict=True)]))
    return Row(f"best of {n}", reward, kl, *floor.find_least(reward.value), math.nan, math.nan, tokens)


def read_behaviour(name: str, folder: Path) -> tuple[list[Row], Floor]:
    """All rows of a behaviour, and its frontier, from what `measure` has saved."""
    reward: Callable[[str], float] = BEHAVIOURS[name].reward
    rulers = {
        part: [Ruler.from_json(path) for path in sorted(folder.glob(f"{name}_*_{part}.json"))]
        for part in ("targets", "prompts")
    }
    both = list(zip(rulers["targets"], rulers["prompts"], strict=False))
    scores = [np.array([reward(text) for ruler in pair for text in ruler.base.texts]) for pair in both]
    floor = Floor.of(scores)
    wide = [pair[0] for pair in both]
    rows = [_merge("base", [ruler.base for ruler in wide], [ruler.texts for ruler in wide], floor)]
    for part in (0, 1):
        known = [pair[part] for pair in both]
        for law in known[0].laws:
            if all(any(other.name == law.name and not other.died for other in ruler.laws) for ruler in known):
                found = [ruler[law.name] for ruler in known]
                rows.append(_merge(law.name, found, [ruler.texts for ruler in known], floor))
    bases, texts = [ruler.base for ruler in wide], [ruler.texts for ruler in wide]
    rows += [make_best(n, scores, bases, texts, floor) for n in BEST_OF]
    return sorted(rows, key=lambda row: -row.reward.value), floor


def _merge(name: str, rows: list[Measured], texts: list[int], floor: Floor) -> Row:
    reward = average([row.reward for row in rows])
    return Row(
        name, reward, average([row.kl for row in rows]), *floor.find_least(reward.value),
        float(np.mean([row.fluency.value for row in rows])), float(np.mean([row.distinct_2 for row in rows])),
        float(np.mean([row.forwarded_tokens / n for row, n in zip(rows, texts, strict=True)])),
    )  # fmt: skip
