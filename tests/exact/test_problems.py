"""Problems of one batch with potentials and proposals of their own: each is steered as though it were alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_language_model import last, remember
from test_proposals import TEMPERATURE, law

import feynkac as fk
from feynkac.models.language.proposals import Drafted, Masked, Tempered
from feynkac.potentials.base import Factor
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, systematic
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.problems import read_problems


class LikesB(Factor):
    """`scale` nats for each b, known of every next token: of the tokens </s>, a, b it is the third."""

    name = "likes b"

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def level(self, t, state, rows):
        return self.final(state, rows)

    def final(self, state, rows):
        return np.array([self.scale * text.count("b") for text in state.texts(rows)])

    def guide(self, frontier):
        return torch.tensor([0.0, 0.0, self.scale]).expand_as(frontier.logits)


def problems(tiny_lm, lm):
    """By name: a problem, its weight of each text, and the law of its prompt."""
    other = tiny_lm("a", "b", seed=8)

    def task(**options):
        return lm.prompt("a", max_tokens=2, temperature=TEMPERATURE, **options)

    return {
        "masked": ((task(), fk.regex("a|ab|b")), lambda x: float(x in ("a", "ab", "b"))),
        "listed": ((task(), fk.choices(["ab", "b", ""])), lambda x: float(x in ("ab", "b", ""))),
        "rewarded": ((task(proposal=Tempered(1.7)), fk.reward(lambda x: 0.7 * x.count("a"))),
                     lambda x: math.exp(0.7 * x.count("a"))),
        "drafted": ((task(proposal=Drafted(other, 0.6)), fk.regex("[ab]*b")), lambda x: float(x.endswith("b"))),
        "guided": ((task(), LikesB(1.3), fk.regex("b*|a")), lambda x: math.exp(1.3 * x.count("b")) *
                   float(set(x) <= {"b"} or x == "a")),
        "plain": (task(proposal=Masked()), lambda x: 1.0),
    }  # fmt: skip


def evidence(lm, weigh) -> float:
    return sum(p * weigh(lm.vocabulary.text(tokens)) for tokens, p in law(lm, 2, "truncate").items())


PAIRS = [
    ("masked", "listed"),
    ("drafted", "rewarded"),
    ("guided", "drafted"),
    ("listed", "guided"),
    ("plain", "drafted"),
]


@pytest.mark.parametrize("names", PAIRS)
def test_each_problem_of_a_batch_keeps_its_evidence_and_is_independent(tiny_lm, monkeypatch, names) -> None:
    """E[Z_0] = Z_0, E[Z_1] = Z_1, E[Z_0 Z_1] = Z_0 Z_1 over all runs of one particle each."""
    if "listed" not in names:
        remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    known = problems(tiny_lm, lm)
    batch = read_problems([known[name][0] for name in names], ())
    truth = [evidence(lm, known[name][1]) for name in names]
    model, potential = batch.join(), batch.weigh()

    def run(rng):
        step = last(smc(model, potential, n=[1, 1], resample=adaptive(systematic, ess=0.99), rng=rng))
        z = [math.exp(step.group(g).log_z) for g in range(2)]
        return (*z, z[0] * z[1])

    total, mean = 0.0, np.zeros(3)
    for p, found in enumerate_runs(run):
        total += p
        mean += p * np.array(found)
    assert total == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(mean, [*truth, truth[0] * truth[1]], rtol=2e-6)  # the look-ahead mixes in float32


def test_all_kinds_of_problems_in_one_batch_are_unbiased(tiny_lm) -> None:
    """E[Z] by a z-test for each of six kinds, 300 problems of each in one batch; false alarm 6e-5 each."""
    lm = tiny_lm("a", "b", seed=3)
    known, copies = problems(tiny_lm, lm), 150
    batch = [problem for problem, _ in known.values()] * copies
    results = fk.steer(batch, particles=4, seed=5, on_death="return")
    for k, (_, weigh) in enumerate(known.values()):
        ratio = np.exp([result.log_evidence for result in results[k :: len(known)]]) / evidence(lm, weigh)
        assert abs(ratio.mean() - 1.0) <= 4.0 * ratio.std(ddof=1) / math.sqrt(copies) + 2e-5


def test_a_guide_that_is_right_leaves_no_variance_to_one_token(tiny_lm) -> None:
    """The increment and the level of a token together are the log of the normaliser, whichever is drawn."""
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("a", max_tokens=1)
    p = {lm.vocabulary.text(tokens): mass for tokens, mass in law_at_one(lm).items()}
    truth = math.log(sum(mass * math.exp(2.0 * text.count("b")) for text, mass in p.items()))
    guided = fk.steer(task, LikesB(2.0), particles=8, seed=1)
    np.testing.assert_allclose(guided.log_weights + math.log(8), truth, atol=2e-6)
    unguided = fk.steer(lm.prompt("a", max_tokens=1, proposal=Masked()), LikesB(2.0), particles=8, seed=1)
    assert np.ptp(unguided.log_weights) > 1.0


def law_at_one(lm):
    logits = lm.open([lm.prompt("a").prompts[0].tokens], 1).start()[0].double()
    p = torch.softmax(logits, 0).tolist()
    return {(): p[0], **{(token,): p[token] for token in range(1, len(p))}}


def test_potentials_of_each_are_those_of_all_when_they_are_the_same(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=3)
    tasks = [lm.prompt("a", max_tokens=4), lm.prompt("b", max_tokens=3)]
    pattern, reward = fk.regex("[ab]*b"), fk.reward(lambda text: text.count("a"))
    shared = fk.steer(tasks, pattern, reward, particles=8, seed=3)
    apart = fk.steer([(task, pattern, reward) for task in tasks], particles=8, seed=3)
    mixed = fk.steer([(task, pattern) for task in tasks], reward, particles=8, seed=3)
    for one, *others in zip(shared, apart, mixed, strict=True):
        for other in others:
            np.testing.assert_array_equal(one.log_weights, other.log_weights)
            assert one.texts == other.texts and one.forwarded_tokens == other.forwarded_tokens


@pytest.mark.parametrize("algorithm", ["smc", "importance", "best_of_n", "beam", "gibbs", "exact"])
def test_every_algorithm_gives_each_problem_its_own_target(tiny_lm, algorithm) -> None:
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("a", max_tokens=2, temperature=TEMPERATURE)
    answers = [["a", "ab"], ["b"], ["", "ba", "bb"]]
    particles = 400 if algorithm != "exact" else 1
    results = fk.steer([(task, fk.choices(some)) for some in answers], particles=particles, algorithm=algorithm, seed=0)
    texts = {lm.vocabulary.text(tokens): p for tokens, p in law(lm, 2, "truncate").items()}
    for some, result in zip(answers, results, strict=True):
        z = sum(texts[text] for text in some)
        assert result.log_evidence == pytest.approx(math.log(z), abs=1e-5 if algorithm == "exact" else 0.3)
        for text, share in result.posterior().items():
            assert text in some and share == pytest.approx(texts[text] / z, abs=1e-5 if algorithm == "exact" else 0.15)
