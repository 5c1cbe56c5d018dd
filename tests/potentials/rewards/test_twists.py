"""Guesses on the way without a part in the target: exact over all runs, whatever is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.potentials import constraint, product, reward, twist
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial
from feynkac.smc.testing import expectation


def test_a_twist_guesses_on_the_way_and_is_taken_back(population: Any) -> None:
    state, rows = population(["a", "bb", "a"]), np.arange(3)
    asked: list[list[str]] = []

    def critic(texts: list[str]) -> Any:
        asked.append(texts)
        return np.array([len(text) for text in texts])

    potential = twist(critic, scale=0.5, batch=True)
    assert potential.level(0, state, rows).tolist() == [0.5, 1.0, 0.5]
    assert potential.final(state, rows).tolist() == [0, 0, 0]
    assert asked == [["a", "bb"]]


def test_whatever_a_twist_says_the_target_is_that_of_the_others(tiny_lm: Any) -> None:
    task = tiny_lm("a", "b").prompt(tokens=[1], max_tokens=2)
    others = reward(lambda text: 0.7 * text.count("b"), every="end") * constraint(lambda text: text != "ab")
    truth = np.exp(fk.steer(task, others, algorithm="exact").log_evidence)
    for guess in (lambda text: 3.0 * text.count("a"), lambda text: -3.0 * len(text)):
        potential = product(others, twist(guess))

        def z(rng: Any, potential: Any = potential) -> float:
            *_, last = smc(task, potential, n=2, resample=multinomial, rng=rng)
            return float(np.exp(last.log_z))

        assert expectation(z) == pytest.approx(truth, rel=1e-6)  # float32 logits, forwarded in other batches


def test_a_twist_that_never_speaks_is_refused() -> None:
    with pytest.raises(ArgumentError, match="foresees nothing"):
        twist(len, every="end")
    with pytest.raises(ArgumentError, match=r"twist\(scale="):
        twist(len, scale=float("inf"))


def test_a_twist_of_images_is_taken_back() -> None:
    torch = pytest.importorskip("torch")
    from feynkac.potentials.rewards.decoded import DecodedTwist

    potential = twist(lambda image: image.sum(), scale=2.0, every=2)
    decoded = potential.on_decoded
    assert isinstance(decoded, DecodedTwist) and decoded.every == 2
    assert decoded.final(None, np.arange(3)).tolist() == [0, 0, 0]  # type: ignore[arg-type]
    assert torch is not None
