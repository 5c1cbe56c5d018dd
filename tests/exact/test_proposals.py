"""Proposals of a language model by enumeration: whatever they draw from, the target stays, to rounding of float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from test_language_model import Remembered, last, remember
from toys import find_kernel, sum_over_runs

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.proposals import MASKED, Drafted, Tempered, draw_and_weigh
from feynkac.potentials.base import product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic


@dataclass(frozen=True)
class Critic:
    """A user's proposal: behind a text without "b", token 1 is three times as likely as the model says."""

    def draw(self, frontier):
        logits = frontier.logits.clone()
        for u, text in enumerate(frontier.state.texts(frontier.heads)):
            logits[u, 1] += math.log(3.0) * ("b" not in text)
        return draw_and_weigh(frontier, logits, frontier.scale)


def proposals(tiny_lm):
    other = tiny_lm("a", "b", seed=8)
    return {
        "masked": MASKED,
        "tempered": Tempered(1.7),
        "mixture": Drafted(other, 0.6),
        "another model": Drafted(other, 1.0),
        "critic": Critic(),
    }


NAMES = ("masked", "tempered", "mixture", "another model", "critic")
TEMPERATURE = 0.5  # a power of two, so that float32 holds one over it


def law(lm, limit, at_limit):
    """The law of texts in float64, from the very logits that the runs see."""
    store, start = Remembered(lm.model, [], 0), lm.prompt("a").prompts[0].tokens

    def next_p(text):
        scaled = store._look_up([(*start, *text)])[0].double().numpy() / TEMPERATURE
        return np.exp(scaled - np.logaddexp.reduce(scaled))

    texts, front = {}, {(): 1.0}
    for k in range(limit + 1):
        longer = {}
        for text, mass in front.items():
            p = next_p(text)
            texts[text] = mass if k == limit and at_limit == "truncate" else mass * p[0]
            longer |= {(*text, token): mass * p[token] for token in range(1, len(p))}
        front = longer
    return texts


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_leaves_evidence_and_posterior_alone(tiny_lm, monkeypatch, name, at_limit) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x, over all runs of two particles, behind a mask."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    weigh = {text: math.exp(0.5 * text.count("b")) for text in ("a", "ab", "b", "aa", "ba")}
    target = {
        (text := lm.vocabulary.text(tokens)): p * weigh[text]
        for tokens, p in law(lm, 2, at_limit).items()
        if lm.vocabulary.text(tokens) in weigh
    }
    potential = product(fk.regex("a|ab|b|aa|ba"), fk.reward(lambda text: 0.5 * text.count("b")))
    masks = [factor for factor in potential.factors if isinstance(factor, TokenConstraint)]
    proposal = proposals(tiny_lm)[name]
    task = lm.prompt("a", max_tokens=2, at_limit=at_limit, temperature=TEMPERATURE, proposal=proposal)
    for resample in (adaptive(systematic, ess=0.99), killing):

        def run(rng, resample=resample):
            step = last(smc(task.constrain(masks), potential, n=2, resample=resample, rng=rng))
            weights, samples = np.exp(step.log_weight), step.state.texts(range(2))
            return [weights @ [sample == text for sample in samples] for text in target]

        mean = sum_over_runs(run)
        z = sum(target.values())
        assert mean.sum() == pytest.approx(z, rel=1e-12)
        np.testing.assert_allclose(mean / z, np.array(list(target.values())) / z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES[1:4])
def test_conditional_smc_keeps_the_posterior(tiny_lm, monkeypatch, name) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    texts = law(lm, 1, "truncate")
    task = lm.prompt("a", max_tokens=1, temperature=TEMPERATURE, proposal=proposals(tiny_lm)[name])
    potential = product(fk.reward(lambda text: text.count("b")))
    paths = [text or (0,) for text in texts]
    pi = np.array([p * math.exp(lm.vocabulary.text(text).count("b")) for text, p in texts.items()])
    pi /= pi.sum()

    def sweep(rng, path):
        step = last(csmc(task, potential, np.array(path), n=2, rng=rng))
        return tuple(task.trace(step.state, select(step, rng)).tolist())

    kernel = find_kernel(sweep, paths)
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_weighs_as_the_enumeration_does(tiny_lm, name) -> None:
    """Ordinary runs: E[Z] by a z-test, false alarm 6e-5, and what the other model forwards is counted, too."""
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("a", max_tokens=3, temperature=TEMPERATURE, proposal=proposals(tiny_lm)[name])
    target = sum(p for tokens, p in law(lm, 3, "truncate").items() if lm.vocabulary.text(tokens).endswith("b"))
    results = fk.steer([task] * 400, fk.regex(".*b"), particles=8, seed=2, on_death="return")
    ratio = np.exp([result.log_evidence for result in results]) / target
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(400) + 2e-5
    alone = fk.steer(lm.prompt("a", max_tokens=1, proposal=MASKED), particles=4, seed=0).forwarded_tokens
    proposal = proposals(tiny_lm)[name]
    counted = fk.steer(lm.prompt("a", max_tokens=1, proposal=proposal), particles=4, seed=0).forwarded_tokens
    assert counted == (2 * alone if isinstance(proposal, Drafted) else alone)


def test_proposals_that_cannot_be() -> None:
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ArgumentError, match="must be positive"):
            Tempered(bad)
    for bad in (0.0, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match="above 0 and at most 1"):
            Drafted(None, bad)  # pyright: ignore[reportArgumentType]


def test_another_vocabulary_is_refused(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=2, proposal=Drafted(tiny_lm("a", "b", "e")))
    with pytest.raises(ModelError, match="has 4 tokens and the target 3"):
        fk.steer(task, particles=2, seed=0)
