"""What programs over tiny models must agree with: the masses of all outcomes, by brute force, to float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from feynkac.potentials import product
from feynkac.smc.engine import smc
from feynkac.smc.resample import systematic
from feynkac.smc.testing import expectation

FLOAT32 = 2e-6
END = ""  # how an end of sequence is written below


def masses(model: Any, outcomes: Iterable[Any], n: int = 1, potential: Any = None) -> np.ndarray:
    """(S,) the expected weight of each outcome, over every random choice of a run with `n` particles."""
    outcomes = list(outcomes)

    def measured(rng: Any) -> np.ndarray:
        *_, last = smc(model, potential or product(), n=n, resample=systematic, rng=rng)
        found = dict.fromkeys(outcomes, 0.0)
        for value, w in zip(last.state.samples(range(n)), last.log_weight, strict=True):
            if w > -np.inf:
                found[value] += math.exp(w)
        return np.array(list(found.values()))

    return expectation(measured)


def law(lm: Any, prompt: str, temperature: float = 1.0) -> Callable[[str, str], float]:
    """The probability of a next token (or END) behind the prompt and a text of one-character tokens."""
    import torch

    ids = {token.decode(): i for i, token in enumerate(lm.vocabulary.tokens)} | {END: 0}
    known: dict[str, Any] = {}

    def p(text: str, token: str) -> float:
        if text not in known:
            with torch.inference_mode():
                logits = lm.model(torch.tensor([[ids[c] for c in prompt + text]])).logits[0, -1].double()
            known[text] = torch.softmax(logits / temperature, -1)
        return float(known[text][ids[token]])

    return p


def texts(p: Callable[[str, str], float], letters: str, limit: int) -> dict[str, float]:
    """The probability of each text of up to `limit` letters, cut there."""
    found = {}
    for text in ("".join(t) for n in range(limit + 1) for t in itertools.product(letters, repeat=n)):
        mass = math.prod(p(text[:i], c) for i, c in enumerate(text))
        found[text] = mass * (p(text, END) if len(text) < limit else 1.0)
    return found


def agree(model: Any, truth: dict[Any, float], n: int = 1, potential: Any = None) -> None:
    np.testing.assert_allclose(masses(model, truth, n, potential), list(truth.values()), rtol=0, atol=FLOAT32)


def chatty(lm: Any) -> Any:
    """The same model, to which a user's message is its prompt."""
    lm.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return lm
