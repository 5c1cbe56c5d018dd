"""A twist for constraints that are finite automata: what a Markov chain in the model's place would make of the rest."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from feynkac.base.capabilities import CarriesAutomata, ForcesEnds, LimitsTokens, Outlines, Tokenised, has, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ConstraintError, PotentialError
from feynkac.base.masks import TokenConstraint
from feynkac.potentials.base import Factor
from feynkac.potentials.constraints.tokenwise import Walk
from feynkac.potentials.twists.acceptance import Acceptance, Places
from feynkac.potentials.twists.chains import TokenChain


class MarkovLevel(Factor):
    """A level of log psi nats, and no part in the target (see `markov_twist`).

    psi(state, last token, tokens left) is the probability that `chain` goes on from there to a text that `constraint`
    accepts. Tokens are drawn as without it. `twist ** 0.5` trusts the chain less.
    """

    def __init__(self, chain: TokenChain, constraint: TokenConstraint, *, power: float = 1.0) -> None:
        self.name = f"markov_twist({constraint.name})"
        self.chain, self._constraint, self._exponent = chain, _find_outline(constraint, self.name), power
        automaton = self._constraint.automaton(chain.vocabulary)
        self._acceptance = Acceptance(chain, automaton, self.name)
        self._walk = Walk(automaton)

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, finite: log psi. Raises PotentialError for a state of no texts, or of another model's."""
        return self._exponent * self._acceptance.level(self._locate(state, rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) zeros: what was guessed is taken back."""
        return np.zeros(len(rows))

    def _power(self, exponent: float) -> Factor:
        return type(self)(self.chain, self._constraint, power=self._exponent * exponent)

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(type(self), power=self._exponent)
        return make, (self.chain, self._constraint)  # what is tabulated stays in its process

    def _locate(self, state: State, rows: Rows) -> Places:
        texts = require(
            state,
            Tokenised,
            f"'{self.name}' foresees tokens, but {type(state).__name__} has none; use it with a language model",
        )
        limited = require(state, LimitsTokens, f"'{self.name}' needs a limit, which {type(state).__name__} has not")
        if texts.vocabulary is not self.chain.vocabulary:
            raise PotentialError(f"'{self.name}' was made for the tokens of another model; make one for this model")
        tokens = texts.tokens(rows)
        carried = state.states(self._constraint, rows) if isinstance(state, CarriesAutomata) else None
        states = self._walk(tokens) if carried is None else carried
        last = np.array([each[-1] if len(each) else 0 for each in tokens], np.int64)
        limit = limited.limits(rows)
        left = limit - np.array([len(each) for each in tokens], np.int64)
        end = state.must_end(rows) if isinstance(state, ForcesEnds) else np.zeros(len(rows), np.bool_)
        return Places(states, last, left, limit, end)


class MarkovTwist(MarkovLevel):
    """A Markov level that guides the proposal of prompts, too: they draw from p(v) psi(after v)."""

    def guide(self, frontier: Any) -> Any:
        """(U, V) nats, a tensor: log psi behind each next token."""
        import torch

        device = frontier.logits.device
        found = self._acceptance.guide(self._locate(frontier.state, frontier.heads))
        rows, which, least = (torch.as_tensor(array, device=device) for array in found)
        worth = rows[which].clamp_(min=least[:, None])
        return worth if self._exponent == 1 else worth.mul_(self._exponent)


def _find_outline(constraint: TokenConstraint, name: str) -> TokenConstraint:
    """What has a finite automaton: a constraint, or its outline."""
    outline = constraint.outline if has(constraint, Outlines) else None
    if outline is None:
        raise ConstraintError(
            f"{name}: it has no finite automaton of few states, which a Markov chain could run through; give one that "
            "its texts meet, too, as in markov_twist(..., outline=regex(...))"
        )
    return outline
