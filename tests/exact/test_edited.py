"""Edited models as targets, proposals and experts by enumeration: exact under edits that change the law a lot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from edited_models import Remembered, wild
from test_language_model import last

import feynkac as fk
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.lm import CausalLM
from feynkac.potentials.base import product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic
from feynkac.smc.testing import enumerate_runs


@pytest.fixture
def known(monkeypatch: Any) -> dict[Any, torch.Tensor]:
    found: dict[Any, torch.Tensor] = {}
    monkeypatch.setattr(CausalLM, "_open", lambda lm, prompts, edits, max_new: Remembered(found, lm, prompts, edits))
    return found


def law_of(lm: Any, prompt: str, limit: int, at_limit: str = "truncate") -> dict[tuple[int, ...], float]:
    """The law of texts in float64, from the very logits that the runs see."""
    ids = lm.prompt(prompt).prompts[0].tokens
    store = lm.open([ids], 8)
    texts, front = {}, {(): 1.0}
    for k in range(limit + 1):
        longer = {}
        for text, mass in front.items():
            logits = store._look_up([(ids, lm.variant, *text)])[0].double().numpy()
            p = np.exp(logits - np.logaddexp.reduce(logits))
            texts[text] = mass if k == limit and at_limit == "truncate" else mass * p[0]
            longer |= {(*text, token): mass * p[token] for token in range(1, len(p))}
        front = longer
    return texts


def distance(one: dict[Any, float], other: dict[Any, float]) -> float:
    return sum(abs(p - other[text]) for text, p in one.items()) / 2.0


TEXTS = ("a", "ab", "b", "aa", "ba")


def weigh(text: str) -> float:
    return math.exp(0.5 * text.count("b")) * (text in TEXTS)


def tasks(lm: Any, name: str) -> tuple[Any, Any]:
    """A task, and the function that its target is, of a text's tokens."""
    edited, other = wild(lm), wild(lm, 2)
    own, hers, law = law_of(lm, "a", 2), law_of(edited, "b", 2), law_of(edited, "a", 2)
    if name == "target":
        return edited.prompt("a", max_tokens=2), law.get
    if name == "expert":
        potential = fk.expert(edited.prompt("b"), power=1.5) * fk.expert(other.prompt("a"), power=-0.5)
        third = law_of(other, "a", 2)
        return (lm.prompt("a", max_tokens=2), potential), lambda x: own[x] * hers[x] ** 1.5 * third[x] ** -0.5
    if name == "expert of an edited target":
        return (
            edited.prompt("a", max_tokens=2),
            fk.expert(lm.prompt("a"), power=0.5),
        ), lambda x: law[x] * own[x] ** 0.5
    mix = {"proposal": 0.0, "proposal, mixed": 0.1, "proposal, mostly the target": 0.9}[name]
    proposal = edited.prompt("b", temperature=0.5)
    return lm.prompt("a", max_tokens=2, proposal=proposal, mix=mix), own.get


NAMES = (
    "target", "proposal", "proposal, mixed", "proposal, mostly the target", "expert", "expert of an edited target",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_evidence_and_posterior_are_exact_under_wild_edits(tiny_lm: Any, known: Any, name: str) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x, over all runs of two particles, behind a mask."""
    lm = tiny_lm("a", "b", seed=3)
    assert distance(law_of(lm, "a", 2), law_of(wild(lm), "a", 2)) > 0.15  # else the test could not fail
    given, truth = tasks(lm, name)
    task, own = given if isinstance(given, tuple) else (given, None)
    potential = product(*filter(None, (own, fk.regex("|".join(TEXTS)), fk.reward(lambda text: 0.5 * text.count("b")))))
    target = {
        (text := lm.vocabulary.text(ids)): truth(ids) * weigh(text)
        for ids in law_of(lm, "a", 2)
        if weigh(lm.vocabulary.text(ids))
    }
    masks = [factor for factor in potential.factors if isinstance(factor, TokenConstraint)]
    guides = [factor for factor in potential.factors if hasattr(factor, "guide")]
    for resample in (adaptive(systematic, ess=0.99), killing):

        def run(rng: Any, resample: Any = resample) -> Any:
            model = task.constrain(masks).heed(guides) if guides else task.constrain(masks)
            step = last(smc(model, potential, n=2, resample=resample, rng=rng))
            weights, samples = np.exp(step.log_weight), step.state.texts(range(2))
            return [weights @ [sample == text for sample in samples] for text in target]

        total, mean = 0.0, np.zeros(len(target))
        for p, masses in enumerate_runs(run):
            total += p
            mean += p * np.array(masses)
        z = sum(target.values())
        assert total == pytest.approx(1.0, abs=1e-10)
        assert mean.sum() == pytest.approx(z, rel=1e-6)
        np.testing.assert_allclose(mean / z, np.array(list(target.values())) / z, rtol=0, atol=1e-6)


def test_conditional_smc_keeps_the_posterior_under_an_edited_proposal(tiny_lm: Any, known: Any) -> None:
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("a", max_tokens=1, proposal=wild(lm).prompt("b"), mix=0.2)
    potential, texts = product(fk.reward(lambda text: text.count("b"))), law_of(lm, "a", 1)
    paths = [text or (0,) for text in texts]
    pi = np.array([p * math.exp(lm.vocabulary.text(text).count("b")) for text, p in texts.items()])
    pi /= pi.sum()
    kernel = np.zeros((len(paths), len(paths)))
    for i, path in enumerate(paths):

        def sweep(rng: Any, path: Any = path) -> Any:
            step = last(csmc(task, potential, np.array(path), n=2, rng=rng))
            return tuple(task.trace(step.state, select(step, rng)).tolist())

        for p, end in enumerate_runs(sweep):
            kernel[i, paths.index(end)] += p
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-6)


def test_scores_and_exact_answers_are_those_of_the_edited_law(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", seed=3)
    edited = wild(lm)
    assert not np.allclose(edited.score("a", ["ab"]), lm.score("a", ["ab"]), atol=0.05)
    exact = fk.steer(edited.prompt("a", max_tokens=3), fk.regex("a|b"), algorithm="exact").log_evidence
    wanted = np.logaddexp.reduce(edited.score("a", ["a", "b"]))
    assert exact == pytest.approx(wanted, abs=1e-5)
