"""Twists by closed forms: a right one leaves no variance at all, and a wrong one no bias."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from test_language_model import last, law, remember

import feynkac as fk
from feynkac.models.language.language_model import LanguageModel
from feynkac.potentials.twists import MarkovTwist
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, systematic
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.problems import read_problems
from feynkac.steering.twists import learn_chain

LAW = np.log(np.array([[0.2, 0.5, 0.3], [0.3, 0.1, 0.6], [0.5, 0.3, 0.2]], np.float32))
"""LAW[last token]: the next one's log-probability; token 0 ends a text, 1 is "a" and 2 is "b"."""
PATTERN = "(a|ba)*b"
LIMIT = 7


class Bigrams(LanguageModel):
    """A language model that is a Markov chain."""

    window, device, n_logits = 50, torch.device("cpu"), 3

    def open(self, prompts, max_new):
        return Contexts(prompts)


class Contexts:
    def __init__(self, prompts) -> None:
        self.last, self.forwarded = np.array([prompt[-1] for prompt in prompts]), 0

    @property
    def lengths(self):
        return np.ones(len(self.last), np.int64)

    def start(self):
        return torch.tensor(LAW[self.last])

    def extend(self, parents, tokens):
        self.last = np.where(tokens >= 0, tokens, self.last[parents])
        self.forwarded += int((tokens >= 0).sum())
        return torch.tensor(LAW[tokens[tokens >= 0]])

    def append(self, parents, tokens, *, every=False):
        raise NotImplementedError


@pytest.fixture
def bigrams(tiny_lm) -> Bigrams:
    return Bigrams(tiny_lm("a", "b").tokenizer, eos=[0])


def evidence(bigrams, at_limit: str) -> float:
    """log Z behind "a" by a sum over all texts, in nats."""
    total, p = 0.0, np.exp(LAW.astype(float))
    for length in range(LIMIT + 1):
        for text in itertools.product((1, 2), repeat=length):
            if re.fullmatch(PATTERN, "".join(" ab"[token] for token in text)):
                mass = math.prod(p[before, after] for before, after in zip((1, *text), text, strict=False))
                cut = at_limit == "truncate" and length == LIMIT
                total += mass * (1.0 if cut else p[(1, *text)[-1], 0])
    return math.log(total)


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("resampler", ["systematic", "multinomial", "ssp"])
@pytest.mark.parametrize("particles", [1, 2, 9])
def test_under_the_chain_itself_every_weight_is_the_evidence(bigrams, at_limit, resampler, particles) -> None:
    pattern = fk.regex(PATTERN)
    twist = MarkovTwist(fk.TokenChain(bigrams.vocabulary, np.arange(3), np.exp(LAW)), pattern)
    task = bigrams.prompt("a", max_tokens=LIMIT, at_limit=at_limit)
    for seed in range(3):
        result = fk.steer(task, pattern, twist, particles=particles, resampler=resampler, ess_threshold=1.0, seed=seed)
        truth = evidence(bigrams, at_limit)
        np.testing.assert_allclose(result.log_weights + math.log(particles), truth, atol=5e-6)  # float32 logits
    plain = fk.steer(task, pattern, particles=9, resampler=resampler, ess_threshold=0.0, seed=0)
    assert np.ptp(plain.log_weights) > 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_a_wrong_twist_changes_no_expectation(tiny_lm, monkeypatch, exact) -> None:
    """E[Z] = Z over all runs of two particles, under a chain drawn at random and of an automaton that is another's."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    random = np.random.default_rng(0)
    wrong = fk.TokenChain(lm.vocabulary, np.array([0, 1, 0]), random.dirichlet(np.ones(3), size=2))
    pattern, other = fk.regex("b*a?"), fk.regex("(ab)*")
    twist = MarkovTwist(wrong, pattern if exact else other)
    batch = read_problems(lm.prompt("a", max_tokens=3), (pattern, twist))
    z = sum(p for tokens, p in law(lm, "a", 3, "truncate").items() if lm.vocabulary.text(tokens) in ALLOWED)

    def run(rng):
        step = last(smc(batch.join(), batch.weigh(), n=[2], resample=adaptive(systematic, ess=0.99), rng=rng))
        return math.exp(step.group(0).log_z)

    total, mean = 0.0, 0.0
    for p, found in enumerate_runs(run):
        total, mean = total + p, mean + p * found
    assert total == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx(z, rel=2e-5)


ALLOWED = {"", "a", "b", "ba", "bb", "bba", "bbb"}


def test_a_chain_is_learnt_from_the_laws_that_the_model_had(bigrams) -> None:
    """Behind one token the law is always the same: the average is the law, but for what shrinks and floors it."""
    chain = learn_chain(bigrams.prompt("a", max_tokens=LIMIT), runs=200, seed=0)
    np.testing.assert_allclose(chain.law[chain.classes[1:]], np.exp(LAW[1:]), atol=0.02)
    assert (chain.law > 0).all()
    np.testing.assert_allclose(chain.law.sum(axis=1), 1.0, atol=1e-6)


def test_a_learnt_twist_leaves_little_variance(bigrams) -> None:
    pattern, task = fk.regex(PATTERN), bigrams.prompt("a", max_tokens=LIMIT)
    twist = fk.markov_twist(task, pattern, runs=200, seed=1)
    ours = fk.steer([task] * 50, pattern, twist, particles=4, seed=2)
    plain = fk.steer([task] * 50, pattern, particles=4, seed=2, on_death="return")
    spread = [np.var(np.exp([result.log_evidence for result in results])) for results in (ours, plain)]
    assert spread[0] < spread[1] / 20


@pytest.mark.parametrize("algorithm", ["importance", "beam", "gibbs", "best_of_n"])
def test_a_twist_serves_every_algorithm(bigrams, algorithm) -> None:
    """All but "best_of_n" guide by it; with the exact one the weights of "importance" are the evidence."""
    pattern = fk.regex(PATTERN)
    twist = MarkovTwist(fk.TokenChain(bigrams.vocabulary, np.arange(3), np.exp(LAW)), pattern)
    task = bigrams.prompt("a", max_tokens=LIMIT)
    result = fk.steer(task, pattern, twist, particles=300, algorithm=algorithm, seed=0)
    slack = 0.5 if algorithm == "best_of_n" else 1e-5
    assert result.log_evidence == pytest.approx(evidence(bigrams, "truncate"), abs=slack)


def test_a_twist_takes_nothing_to_be_impossible(bigrams) -> None:
    """A chain that says "never b" has a finite level, and guides by finite numbers, and the evidence is right."""
    never = fk.TokenChain(bigrams.vocabulary, np.zeros(3, int), np.array([[0.5, 0.5, 0.0]]))
    pattern, task = fk.regex(PATTERN), bigrams.prompt("a", max_tokens=2, at_limit="end")
    result = fk.steer(task, pattern, MarkovTwist(never, pattern), particles=2000, seed=0)
    p = np.exp(LAW.astype(float))
    truth = math.log(p[1, 2] * p[2, 0] + p[1, 1] * p[1, 2] * p[2, 0])
    assert np.isfinite(result.log_weights).all()
    assert result.log_evidence == pytest.approx(truth, abs=0.2)
