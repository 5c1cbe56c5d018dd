"""Sampling laws by enumeration: whatever reads a prompt's law sees the one that transformers' own processors make."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import transformers
from test_language_model import Remembered, last, remember
from test_proposals import Critic
from toys import find_kernel, sum_over_runs, weigh_sample

import feynkac as fk
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.proposals import MASKED, Drafted, Tempered
from feynkac.models.language.proposals.foreseen import Foreseen
from feynkac.potentials.base import product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import killing


def like_the_last(ids, scores):
    """A user's processor: one nat more for the token that came last, written in place as users do."""
    scores[torch.arange(len(ids)), ids[:, -1]] += 1.0
    return scores


# Temperatures are powers of two, so that float32 holds one over each.
LAWS = {
    "top k": dict(top_k=2),
    "top p": dict(top_p=0.6, temperature=2.0),
    "min p": dict(min_p=0.8, temperature=0.5),
    "repetition": dict(repetition_penalty=1.7),
    "n-grams": dict(no_repeat_ngram_size=2, temperature=2.0),
    "a processor": dict(logits_processor=[like_the_last]),
    "all of them": dict(
        temperature=0.5, top_k=3, top_p=0.97, min_p=0.02, repetition_penalty=0.8, no_repeat_ngram_size=3,
        logits_processor=[like_the_last],
    ),
}  # fmt: skip


def processors(**law):
    """Those of `generate`, in its order."""
    some = [
        ("repetition_penalty", transformers.RepetitionPenaltyLogitsProcessor),
        ("no_repeat_ngram_size", transformers.NoRepeatNGramLogitsProcessor),
    ]
    own = law.get("logits_processor", [])
    others = [
        ("temperature", transformers.TemperatureLogitsWarper),
        ("top_k", transformers.TopKLogitsWarper),
        ("top_p", transformers.TopPLogitsWarper),
        ("min_p", transformers.MinPLogitsWarper),
    ]
    made = [[kind(law[name]) for name, kind in kinds if name in law] for kinds in (some, others)]
    return transformers.LogitsProcessorList([*made[0], *own, *made[1]])


def next_law(lm, ids, **law):
    """(V,) the probabilities behind token ids, in float64 from the very logits that the runs see."""
    logits = Remembered(lm.model, [], 0)._look_up([tuple(ids)]).clone()
    scores = processors(**law)(torch.tensor([list(ids)]), logits)[0].double().numpy()
    return np.exp(scores - np.logaddexp.reduce(scores))


def list_texts(lm, prompt, limit, at_limit, **law):
    """The probability of every token sequence; those without any are left out."""
    start = lm.prompt(prompt).prompts[0].tokens
    texts, front = {}, {(): 1.0}
    for k in range(limit + 1):
        longer = {}
        for text, mass in front.items():
            if k == limit and at_limit == "truncate":
                texts[text] = mass
                continue
            p = next_law(lm, (*start, *text), **law)
            texts[text] = mass * p[0]
            longer |= {(*text, v): mass * p[v] for v in range(1, len(p))}
        front = longer
    return {text: p for text, p in texts.items() if p > 0.0}


@pytest.fixture(scope="module")
def make(tiny_lm):
    """Makes the models of these tests, each once, so that they share the logits of their few texts."""
    return functools.cache(tiny_lm)


def proposals(make):
    other = make("a", "b", seed=8)
    return {
        "masked": MASKED,
        "tempered": Tempered(1.7),
        "mixture": Drafted(other, 0.6),
        "another model": Drafted(other, 1.0),
        "critic": Critic(),
    }


CASES = [
    *((law, "masked", at_limit) for law in LAWS for at_limit in ("truncate", "end")),
    *(("all of them", proposal, "truncate") for proposal in ("tempered", "mixture", "critic")),
    *((law, "another model", "end") for law in ("top k", "top p")),
]


@pytest.mark.parametrize(("law", "proposal", "at_limit"), CASES)
def test_evidence_and_posterior_are_those_of_the_declared_law(make, monkeypatch, law, proposal, at_limit) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x, over all runs of two particles, behind a mask."""
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    potential = product(fk.regex("[ab]?b*"), fk.reward(lambda text: 0.5 * text.count("b")))
    masks = [factor for factor in potential.factors if isinstance(factor, TokenConstraint)]
    target = {}
    for tokens, p in list_texts(lm, "a", 2, at_limit, **LAWS[law]).items():
        if (text := lm.vocabulary.text(tokens)) not in ("aa", "ba"):
            target[text] = p * math.exp(0.5 * text.count("b"))
    task = lm.prompt("a", max_tokens=2, at_limit=at_limit, proposal=proposals(make)[proposal], **LAWS[law])

    def run(rng):
        step = last(smc(task.constrain(masks), potential, n=2, resample=killing, rng=rng))
        weights, samples = np.exp(step.log_weight), step.state.texts(range(2))
        masses = weights @ [[sample == text for text in target] for sample in samples]
        return [weights.sum(), *masses]

    z_hat, *masses = sum_over_runs(run)
    mean, z = np.array(masses), sum(target.values())
    assert z_hat == pytest.approx(z, rel=1e-12)
    np.testing.assert_allclose(mean / z, np.array(list(target.values())) / z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_exact_answers_and_scores_are_those_of_the_declared_law(make, monkeypatch, law) -> None:
    remember(monkeypatch)
    lm = make("a", "b", "ab", seed=3)
    texts = list_texts(lm, "ab", 3, "end", **LAWS[law])
    task = lm.prompt("ab", max_tokens=3, at_limit="end", **LAWS[law])
    truth = {}
    for tokens, p in texts.items():
        truth[text] = truth.get(text := lm.vocabulary.text(tokens), 0.0) + p
    result = fk.steer(task, algorithm="exact")
    assert result.log_evidence == pytest.approx(math.log(sum(truth.values())), abs=1e-12)
    total = sum(truth.values())
    assert result.posterior() == pytest.approx({text: p / total for text, p in truth.items()}, rel=1e-12)
    asked = ["", "a", "ab", "bab", "aab"]
    np.testing.assert_allclose(
        np.exp(lm.score(task, asked, spellings="all")), [truth.get(text, 0.0) for text in asked], rtol=1e-12
    )
    usual = [texts.get(tuple(" ab".index(letter) for letter in text), 0.0) for text in asked]
    np.testing.assert_allclose(np.exp(lm.score(task, asked)), usual, rtol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_looking_ahead_along_listed_texts_sees_the_declared_law(make, monkeypatch, law) -> None:
    """E[Z] over all runs of one particle, and the lower bound of the evidence, under the proposal that looks ahead."""
    remember(monkeypatch)
    lm = make("a", "b", "ab", seed=3)
    listed = ["", "a", "ab", "ba"]
    potential = product(fk.choices(listed))
    texts = list_texts(lm, "a", 2, "truncate", **LAWS[law])
    z = sum(p for tokens, p in texts.items() if lm.vocabulary.text(tokens) in listed)
    model = lm.prompt("a", max_tokens=2, **LAWS[law]).constrain(potential.factors)
    assert isinstance(model._shares[0].proposal, Foreseen)
    usual = sum(texts.get(ids, 0.0) for ids in ((), (1,), (1, 2), (2, 1)))
    least = math.log(usual) if usual else -math.inf

    def run(rng):
        step = last(smc(model, potential, n=1, resample=killing, rng=rng))
        assert step.state.bound_evidence(0, np.flatnonzero(step.log_weight > -np.inf)) >= least - 1e-12
        return np.exp(step.log_weight).sum()

    z_hat = sum_over_runs(run)
    assert z_hat == pytest.approx(z, rel=1e-6)  # the look-ahead holds its own logits in float32


@pytest.mark.parametrize("law", ["top p", "min p"])
def test_conditional_smc_keeps_the_posterior_of_the_declared_law(make, monkeypatch, law) -> None:
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    texts = list_texts(lm, "a", 2, "end", **LAWS[law])
    task = lm.prompt("a", max_tokens=2, at_limit="end", **LAWS[law])
    potential = product(fk.reward(lambda text: text.count("b")))
    paths = [(*text, 0) for text in texts]
    pi = np.array([p * math.exp(text.count(2)) for text, p in texts.items()])
    pi /= pi.sum()

    def sweep(rng, path):
        step = last(csmc(task, potential, np.array(path), n=2, rng=rng))
        return tuple(task.trace(step.state, select(step, rng)).tolist())

    kernel = find_kernel(sweep, paths)
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-12)


@pytest.mark.parametrize("law", [dict(top_k=2), dict(top_p=0.9), dict(min_p=0.1), dict(no_repeat_ngram_size=2)])
def test_a_context_whose_law_leaves_tokens_out_proposes_for_no_other(make, law) -> None:
    lm = make("a", "b", seed=3)

    @fk.program
    def draft(p, lm):
        text, ahead = lm.context("a", top_k=2), lm.context("a", **law, temperature=0.5)
        return p.sample(text.draft(ahead, 1))

    @fk.program
    def propose(p, lm):
        text, ahead = lm.context("a"), lm.context("a", **law)
        return str(p.sample(text.next_token(), proposal=ahead.next_token()))

    for program in (draft, propose):
        with pytest.raises(fk.FeynkacError, match=r"leaves out some that .* may go on with"):
            fk.steer(program(lm), particles=2, seed=0)


def test_drafts_for_a_context_of_some_law_are_weighed_by_it(make, monkeypatch) -> None:
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    law = dict(top_k=2, temperature=0.5)

    @fk.program
    def draft(p, lm):
        return p.sample(lm.context("a", **law).draft(lm.context("a", repetition_penalty=1.5), 2)) or "."

    texts = list_texts(lm, "a", 2, "truncate", **law)
    truth = {lm.vocabulary.text(tokens) or ".": p for tokens, p in texts.items()}

    def run(rng):
        step = last(smc(draft(lm), product(), n=1, resample=killing, rng=rng))
        return weigh_sample(step, list(truth))

    found = dict(zip(truth, sum_over_runs(run), strict=True))
    assert found == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_programs_draw_observe_and_mask_by_the_declared_law(make, monkeypatch, law) -> None:
    """All runs of a program that draws a token, observes that the next is no end, draws it, and observes a text."""
    remember(monkeypatch)
    lm = make("a", "b", seed=3)

    @fk.program
    def draw(p, lm):
        text = lm.context("a", **LAWS[law])
        first = p.sample(text.next_token())
        if text.ended:
            return "."
        p.observe(text.mask([1, 2]), True)
        second = p.sample(text.next_token())
        text.observe_text("b")
        return lm.vocabulary.text([first.id, second.id])

    start = lm.prompt("a").prompts[0].tokens
    p1 = next_law(lm, start, **LAWS[law])
    truth = {".": p1[0]}
    for a in (1, 2):
        p2 = next_law(lm, (*start, a), **LAWS[law])
        for b in (1, 2):
            mass = p1[a] * p2[b] and p1[a] * p2[b] * next_law(lm, (*start, a, b), **LAWS[law])[2]
            truth[lm.vocabulary.text([a, b])] = mass
    model = draw(lm)

    def run(rng):
        step = last(smc(model, product(), n=1, resample=killing, rng=rng))
        return weigh_sample(step, list(truth))

    found = dict(zip(truth, sum_over_runs(run), strict=True))
    assert found == pytest.approx(truth, rel=1e-6, abs=1e-12)
