"""Twenty problems with a known evidence, from easy to hopeless, and one whose mass no particle is likely to meet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from known.models import Score, Tilted, Tokens, independent, observe_chain


@dataclass(frozen=True)
class Known:
    """A problem, how it is run, and what following the advice of a warning changes in it."""

    name: str
    model: Any
    potential: Score = field(default_factory=Score)
    particles: int = 64
    islands: int = 1
    advised: Any = None
    """The model or the potential that the warning asks for; None where there is nothing to doubt."""

    @property
    def log_z(self) -> float:
        return self.model.log_z


def end_reward(length: int, reward: float) -> Tokens:
    """Tokens of which each tenth earns `reward` nats."""
    return independent([0.1, 0.9], [reward, 0.0], length)


def stay(length: int, chance: float, otherwise: float = -np.inf) -> Tokens:
    """Survival: each step succeeds with this chance, and costs `otherwise` if it does not."""
    return independent([chance, 1.0 - chance], [0.0, otherwise], length)


def experts(strength: float, length: int = 30) -> Tokens:
    """A product of two laws over twenty tokens; the second counts with this power."""
    first, second = (np.random.default_rng(seed).dirichlet(np.ones(20)) for seed in (1, 2))
    return independent(first, strength * np.log(second), length)


def climb(to: float) -> Tokens:
    """A chain that mostly stays where the score is lowest; the highest score is seldom visited and easily lost."""
    move = np.log([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.5, 0.1, 0.4]])
    return Tokens(np.log([0.98, 0.01, 0.01]), move, np.array([-2.0, -0.5, to]), 25)


def follow_advice(problem: Known) -> Known:
    """The same problem with a guided proposal, or with a potential that foresees."""
    if isinstance(problem.advised, Score):
        return replace(problem, potential=problem.advised)
    return replace(problem, model=problem.advised)


def needle() -> Known:
    """A sticky token with little mass of its own, which outweighs the others only after many steps."""
    move = np.log([[0.98, 0.01, 0.01], [0.9, 0.09, 0.01], [0.9, 0.01, 0.09]])
    return Known("needle", Tokens(np.log([0.98, 0.01, 0.01]), move, np.array([-3.0, -3.0, -1.0]), 25), particles=32)


def make_problems() -> list[Known]:
    """The twenty, easy ones first."""
    blind, foreseen = Score(foresee=False), Score(foresee=True)
    chains = {noise: observe_chain(steps, noise) for steps, noise in ((10, 1.0), (20, 0.3), (20, 0.05), (20, 0.01))}
    rare = stay(40, 0.1448, -6.0)
    easy = [
        Known("chain seen well", chains[1.0]),
        Known("reward at the end, weak", end_reward(5, 0.5), blind, 32),
        Known("survival, likely", stay(10, 0.9), particles=32),
        Known("tilt by 0.5", Tilted(0.5, log_z=0.125), particles=32),
        Known("narrow proposal, by a tenth", Tilted(width=0.9), particles=32),
        Known("acceptance of 30 % at the end", independent([0.3, 0.7], [0.0, -20.0], 1)),
        Known("experts that nearly agree", experts(0.3), islands=4),
    ]
    medium = [
        Known("chain seen sharply", chains[0.3], particles=128),
        Known("reward at the end, moderate", end_reward(5, 1.5), blind, 128, 4),
        Known("survival, half", stay(20, 0.5), particles=128),
        Known("tilt by 1", Tilted(1.0, log_z=0.5)),
        Known("experts that disagree", experts(1.0), particles=128, islands=4),
        Known("climb", climb(0.0), particles=128),
    ]
    hard = [
        Known("chain seen very sharply", chains[0.05], advised=replace(chains[0.05], guided=True)),
        Known("reward at the end, strong", end_reward(5, 4.1), blind, 32, advised=foreseen),
        Known("survival, a tenth", stay(20, 0.1), advised=replace(stay(20, 0.1), guided=True)),
        Known("experts that conflict", experts(2.0), foreseen, 32, 2, advised=replace(experts(2.0), guided=True)),
        Known("tilt by 5", Tilted(5.0, log_z=12.5), particles=128),
    ]
    hopeless = [
        Known("rare-event chain", rare, foreseen, 32, 4, advised=replace(rare, guided=True)),
        Known("reward at the end of twenty", end_reward(20, 3.0), blind, 32, advised=foreseen),
    ]
    return [*easy, *medium, *hard, *hopeless]
