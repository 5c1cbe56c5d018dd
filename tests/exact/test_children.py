"""Optimal resampling over all children: every run of small populations on a tiny language model, to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_language_model import last, remember
from test_proposals import TEMPERATURE, law

import feynkac as fk
from feynkac.base.masks import TokenConstraint
from feynkac.potentials.base import product
from feynkac.smc.branching import branching_smc
from feynkac.smc.testing import enumerate_runs

WEIGHTS = {text: math.exp(0.9 * text.count("b") - 0.4 * text.count("ab")) for text in ("a", "ab", "b", "aa", "ba", "")}
POTENTIALS = {
    "a mask": (lambda: [fk.regex("a|ab|b|ba")], lambda text: float(text in {"a", "ab", "b", "ba"})),
    "a mask and a reward": (
        lambda: [fk.regex("a|ab|b|aa|ba"), fk.reward(lambda text: 0.9 * text.count("b") - 0.4 * text.count("ab"))],
        lambda text: WEIGHTS[text] if text in {"a", "ab", "b", "aa", "ba"} else 0.0,
    ),
    "a reward at the end": (
        lambda: [fk.reward(lambda text: 2.0 * text.count("b"), every="end")],
        lambda text: math.exp(2.0 * text.count("b")),
    ),
    "a constraint on whole texts": (lambda: [fk.constraint(lambda text: len(text) != 1)], lambda t: float(len(t) != 1)),
    "nothing": (list, lambda text: 1.0),
}


SIZES = ((1, 1, 2), (2, 1, 2), (2, 2, 2), (1, 1, 3), (2, 2, 3))
"""Rows that are extended, islands, and rows that are kept for each."""


def target_of(lm, limit, at_limit, weigh) -> dict[str, float]:
    target: dict[str, float] = {}
    for tokens, p in law(lm, limit, at_limit).items():
        text = lm.vocabulary.text(tokens)
        target[text] = target.get(text, 0.0) + p * weigh(text)
    return target


def assert_proper(task, potential, target, n, islands, width) -> None:
    """E[sum w 1{x}] = Z P(x) for every text x, hence E[Z] = Z."""
    model = task.constrain([factor for factor in potential.factors if isinstance(factor, TokenConstraint)])

    def run(rng):
        step = last(branching_smc(model, potential, n=n, rng=rng, islands=islands, width=width))
        state: Any = step.state
        weights, samples = np.exp(step.log_weight), state.texts(range(n * width))
        return np.array([weights @ [sample == text for sample in samples] for text in target])

    total, mean = 0.0, np.zeros(len(target))
    for p, found in enumerate_runs(run):
        total, mean = total + p, mean + p * found
    assert total == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(mean, list(target.values()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("case", POTENTIALS)
def test_every_run_over_all_children_is_properly_weighted(tiny_lm, monkeypatch, case, at_limit) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    make, weigh = POTENTIALS[case]
    task = lm.prompt("a", max_tokens=2, at_limit=at_limit, temperature=TEMPERATURE)
    for sizes in SIZES:
        assert_proper(task, product(*make()), target_of(lm, 2, at_limit, weigh), *sizes)


def test_scores_say_which_children_are_kept_and_never_what_they_weigh(tiny_lm, monkeypatch) -> None:
    """A guide that is wrong, by nats, and different behind each context."""
    import torch

    class Misleading:
        def guide(self, frontier):
            return torch.tensor([[0.3, -1.2, 2.0], [1.0, 0.0, -0.7]])[np.arange(len(frontier.logits)) % 2]

    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    make, weigh = POTENTIALS["a mask and a reward"]
    task = lm.prompt("a", max_tokens=2, temperature=TEMPERATURE).heed([Misleading()])
    for sizes in SIZES:
        assert_proper(task, product(*make()), target_of(lm, 2, "truncate", weigh), *sizes)


def test_a_guess_that_is_noise_leaves_equal_histories_their_own_weights(tiny_lm, monkeypatch) -> None:
    """Two rows with one history and different levels: what counts is the weight that each has without its guess."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)

    class Noisy:
        def level(self, t, state, rows):
            return 0.7 * np.arange(len(rows))

        def final(self, state, rows):
            return np.zeros(len(rows))

    assert_proper(
        lm.prompt("a", max_tokens=2, temperature=TEMPERATURE), product(Noisy()),
        target_of(lm, 2, "truncate", lambda text: 1.0), 2, 1, 2,
    )  # fmt: skip


def test_the_last_step_sums_over_all_children(tiny_lm) -> None:
    """Rao-Blackwell: where one token is left, the evidence of a mask is exact for a single particle."""
    lm = tiny_lm("a", "b", "e", seed=1)
    for text in ("a", "b"):
        task = lm.prompt(text, max_tokens=1)
        exact = fk.steer(task, fk.regex("[ab]"), algorithm="exact").log_evidence
        for seed in range(3):
            result = fk.steer(task, fk.regex("[ab]"), algorithm="optimal", particles=1, seed=seed)
            assert result.log_evidence == pytest.approx(exact, abs=1e-6)
            assert result.diagnostics.spread == pytest.approx(0.0, abs=1e-12)


def test_where_all_children_fit_nothing_is_left_to_chance(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e", seed=1)
    task = lm.prompt("a", max_tokens=3)
    exact = fk.steer(task, fk.choices(["ab", "ba", "aab"]), algorithm="exact")
    result = fk.steer(task, fk.choices(["ab", "ba", "aab"]), algorithm="optimal", particles=4, seed=0)
    assert result.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6)
    for text, share in exact.posterior().items():
        assert result.posterior()[text] == pytest.approx(share, abs=1e-6)
    assert not result.warnings
