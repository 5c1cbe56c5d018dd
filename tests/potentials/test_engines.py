"""A constraint engine of ten lines, written from the README of `engines/`, steers a language model."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import TokenAutomaton, TokenConstraint, pack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.constraints.tokenwise import TokenFactor
from feynkac.smc.engine import smc
from feynkac.smc.resample import never
from feynkac.smc.testing import expectation

FLOAT32 = 2e-5
"""Relative error of a sum of products of a few float32 probabilities, from forwards of different batches."""
LIMIT = 3


class EvenAutomaton:
    """A state is the parity of the number of a's so far."""

    start = 0

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.odd = np.array([token.count(b"a") % 2 for token in vocabulary.tokens])
        self.rows = pack(np.stack([vocabulary.with_text | vocabulary.ends, vocabulary.with_text]))

    def masks(self, states: np.ndarray) -> np.ndarray:
        return np.where(states[:, None] >= 0, self.rows[states], np.uint32(0))

    def advance(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return np.where(states >= 0, states ^ self.odd[tokens], -1)

    def accepts(self, states: np.ndarray) -> np.ndarray:
        return states == 0


class Even(TokenFactor):
    """Texts with an even number of a's."""

    def compile(self, vocabulary: Vocabulary) -> EvenAutomaton:
        return EvenAutomaton(vocabulary)


class EvenByHand:
    """The same without the base class: what a model masks by, and what a potential weighs by."""

    name = "an even number of a's"

    def __init__(self) -> None:
        self.automata: dict[int, EvenAutomaton] = {}

    def automaton(self, vocabulary: Vocabulary) -> EvenAutomaton:
        return self.automata.setdefault(id(vocabulary), EvenAutomaton(vocabulary))

    def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))

    def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
        return np.where([text.count("a") % 2 == 0 for text in state.texts(rows)], 0.0, -np.inf)


def find_law(lm: Any, prompt: str) -> dict[str, float]:
    """Each text's probability, by plain forwards over all token sequences up to the limit; token 0 ends a text."""
    import torch

    start, law = lm.prompt(prompt).prompts[0].tokens, {}
    for n in range(LIMIT + 1):
        for tokens in itertools.product(range(1, lm.vocabulary.size), repeat=n):
            with torch.inference_mode():
                logits = lm.model(torch.tensor([[*start, *tokens]])).logits[0].double()
            p = torch.softmax(logits[len(start) - 1 :], dim=-1).numpy()
            mass = math.prod(p[i, token] for i, token in enumerate(tokens))
            text = lm.vocabulary.text(tokens)
            law[text] = law.get(text, 0.0) + mass * (1.0 if n == LIMIT else p[n, 0])
    return law


@pytest.mark.parametrize(
    ("engine", "masked"),
    [(lambda: Even("an even number of a's"), True), (EvenByHand, True), (EvenByHand, False)],
    ids=["TokenFactor", "by hand", "by hand, not masked"],
)
def test_an_engine_of_ones_own_steers_a_language_model(tiny_lm: Any, engine: Any, masked: bool) -> None:
    lm, constraint = tiny_lm("a", "ab", seed=3), engine()
    assert isinstance(constraint, TokenConstraint) and isinstance(constraint.automaton(lm.vocabulary), TokenAutomaton)
    model = lm.prompt("a", max_tokens=LIMIT)
    model = model.constrain([constraint]) if masked else model
    target = {text: p for text, p in find_law(lm, "a").items() if text.count("a") % 2 == 0}
    dead_ends = []

    def find_masses(rng: Any) -> np.ndarray:
        *_, last = smc(model, constraint, n=1, resample=never, rng=rng)
        dead_ends.append(last.log_z == -math.inf)
        found = dict.fromkeys(target, 0.0)
        for text, log_w in zip(last.state.texts(np.arange(1)), last.log_weight, strict=True):
            if log_w > -np.inf:
                found[text] += math.exp(log_w)
        return np.array(list(found.values()))

    np.testing.assert_allclose(expectation(find_masses), list(target.values()), rtol=FLOAT32)
    assert sum(target.values()) < 0.9 and any(dead_ends)


def test_an_engine_of_ones_own_is_masked_by_steer(tiny_lm: Any) -> None:
    result = fk.steer(tiny_lm("a", "b", seed=1).prompt("a", max_tokens=12), Even("even"), particles=16, seed=0)
    assert all(text.count("a") % 2 == 0 for text in result.posterior()) and result.ess > 1.0
