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
from feynkac.potentials.base import Factor
from feynkac.potentials.twists import MarkovLevel, MarkovTwist
from feynkac.potentials.twists.chains import fit_chain
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, systematic
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.problems import read_problems
from feynkac.steering.twists import Listener

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


def test_each_problem_of_a_batch_has_its_twist(bigrams) -> None:
    chain = fk.TokenChain(bigrams.vocabulary, np.arange(3), np.exp(LAW))
    tasks = [bigrams.prompt("a", max_tokens=LIMIT, at_limit=at_limit) for at_limit in ("truncate", "end")]
    problems = [(task, pattern := fk.regex(PATTERN), MarkovTwist(chain, pattern)) for task in tasks]
    for result, at_limit in zip(fk.steer(problems, particles=5, seed=0), ("truncate", "end"), strict=True):
        np.testing.assert_allclose(result.log_weights + math.log(5), evidence(bigrams, at_limit), atol=5e-6)


def test_a_right_level_alone_lowers_the_variance(bigrams) -> None:
    """The mean and the variance of Z over all runs of two particles that draw from the model itself."""
    chain, pattern = fk.TokenChain(bigrams.vocabulary, np.arange(3), np.exp(LAW)), fk.regex("(a|b)*bb")
    task = bigrams.prompt("a", max_tokens=3)

    def moments(*potentials) -> tuple[float, float]:
        batch = read_problems(task, potentials)

        def run(rng):
            steps = smc(batch.join(), batch.weigh(), n=[2], resample=adaptive(systematic, ess=1.0), rng=rng)
            return math.exp(last(steps).log_z)

        runs = list(enumerate_runs(run))
        mean = sum(p * z for p, z in runs)
        return mean, sum(p * z * z for p, z in runs) - mean**2

    mean, variance = moments(pattern)
    assert (found := moments(pattern, MarkovLevel(chain, pattern)))[0] == pytest.approx(mean, rel=1e-5)
    assert found[1] < 0.05 * variance


NEVER = np.array([[0.5, 0.5, 0.0]])
"""A chain that takes "b" to be impossible."""


KINDS = ["random", "of another automaton", "blind", "to a power", "to a negative power", "level", "level to a power"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_twist_changes_no_expectation(tiny_lm, monkeypatch, kind) -> None:
    """E[Z] = Z over all runs of two particles, whatever psi is."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    wrong = fk.TokenChain(lm.vocabulary, np.array([0, 1, 0]), np.random.default_rng(0).dirichlet(np.ones(3), size=2))
    pattern, other = fk.regex("b*a?"), fk.regex("(ab)*")
    twist = {
        "random": MarkovTwist(wrong, pattern),
        "of another automaton": MarkovTwist(wrong, other),
        "blind": MarkovTwist(fk.TokenChain(lm.vocabulary, np.zeros(3, int), NEVER), pattern),
        "to a power": MarkovTwist(wrong, pattern) ** 0.5,
        "to a negative power": MarkovTwist(wrong, pattern) ** -1,
        "level": MarkovLevel(wrong, other),
        "level to a power": MarkovLevel(wrong, pattern) ** 2,
    }[kind]
    batch = read_problems(lm.prompt("a", max_tokens=3), (pattern, twist))
    allowed = {"", "a", "b", "ba", "bb", "bba", "bbb"}
    z = sum(p for tokens, p in law(lm, "a", 3, "truncate").items() if lm.vocabulary.text(tokens) in allowed)

    def run(rng):
        step = last(smc(batch.join(), batch.weigh(), n=[2], resample=adaptive(systematic, ess=0.99), rng=rng))
        return math.exp(step.group(0).log_z)

    total, mean = 0.0, 0.0
    for p, found in enumerate_runs(run):
        total, mean = total + p, mean + p * found
    assert total == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx(z, rel=2e-5)  # the model's float32


def test_a_chain_is_learnt_from_the_laws_that_the_model_had(bigrams) -> None:
    """Behind one token the law is always the same, and so is its average."""
    listener = Listener()
    fk.steer(bigrams.prompt("a", max_tokens=LIMIT), listener, particles=50, algorithm="importance", seed=0)
    chain = fit_chain(bigrams.vocabulary, listener.laws, listener.counts, prior=0.0, floor=0.0)
    np.testing.assert_allclose(chain.law[chain.classes[1:]], np.exp(LAW[1:]), atol=1e-6)


def test_a_learnt_twist_is_worth_four_times_the_particles(bigrams) -> None:
    """Of the variance it leaves a four hundredth; a fourth is asked for."""
    pattern, task = fk.regex(PATTERN), bigrams.prompt("a", max_tokens=LIMIT)
    twist = fk.markov_twist(task, pattern, runs=200, seed=1)
    ours = fk.steer([task] * 50, pattern, twist, particles=4, seed=2)
    plain = fk.steer([task] * 50, pattern, particles=4, seed=2, on_death="return")
    spread = [np.var(np.exp([result.log_evidence for result in results])) for results in (ours, plain)]
    assert spread[0] < spread[1] / 4


@pytest.mark.parametrize("algorithm", ["importance", "beam", "gibbs"])
def test_a_twist_leads_every_algorithm_that_is_led(bigrams, algorithm) -> None:
    pattern = fk.regex(PATTERN)
    twist = MarkovTwist(fk.TokenChain(bigrams.vocabulary, np.arange(3), np.exp(LAW)), pattern)
    task = bigrams.prompt("a", max_tokens=LIMIT)
    result = fk.steer(task, pattern, twist, particles=8, algorithm=algorithm, seed=0)
    assert result.log_evidence == pytest.approx(evidence(bigrams, "truncate"), abs=5e-6)


def test_best_of_n_is_not_led(bigrams) -> None:
    pattern, task = fk.regex(PATTERN), bigrams.prompt("a", max_tokens=LIMIT)
    twist = MarkovTwist(fk.TokenChain(bigrams.vocabulary, np.zeros(3, int), NEVER), pattern)
    led, plain = (fk.steer(task, pattern, *more, particles=8, algorithm="best_of_n", seed=0) for more in ((twist,), ()))
    assert led.texts == plain.texts and (led.log_weights == plain.log_weights).all()


def test_a_twist_takes_nothing_to_be_impossible(bigrams) -> None:
    pattern, task = fk.regex(PATTERN), bigrams.prompt("a", max_tokens=LIMIT)
    blind = MarkovTwist(fk.TokenChain(bigrams.vocabulary, np.zeros(3, int), NEVER), pattern)
    levels = []
    fk.steer(task, pattern, Heard(blind, levels), particles=8, seed=0)
    assert levels and np.isfinite(np.concatenate(levels)).all()


class Heard(Factor):
    """A potential whose levels are written down."""

    def __init__(self, potential, levels) -> None:
        self.potential, self.levels, self.name = potential, levels, "heard"

    def level(self, t, state, rows):
        self.levels.append(self.potential.level(t, state, rows))
        return self.levels[-1]

    def final(self, state, rows):
        return self.potential.final(state, rows)
