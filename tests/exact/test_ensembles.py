"""Ensembles of next-token laws against brute force: products, contrasts and mixtures, over all runs and all texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_experts import Law, check_exact, list_texts
from test_language_model import remember

import feynkac as fk
from feynkac.models.language.ensembles.rules import Rule
from feynkac.steering.problems import prepare


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("a", "b", seed=3)


@pytest.fixture(scope="module")
def other(tiny_lm):
    return tiny_lm("a", "b", seed=8)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch) -> None:
    remember(monkeypatch)


def make(lm, other, name: str, **options):
    """An ensemble, and its law of the next token behind given ones."""
    one, two, three = Law(lm, "a", 0.5), Law(other, "ab"), Law(lm, "b")
    prompts = [lm.prompt("a", temperature=0.5, **options), other.prompt("ab"), lm.prompt("b")]
    weights = [1.5, -0.5, 0.3] if name == "contrastive" else [1.0, 2.0, 1.0] if name == "mixture" else None
    kind = "mixture" if name == "mixture" else "product"

    def law(ids):
        p, q, r = one.next(ids), two.next(ids), three.next(ids)
        found = {
            "geometric mean": (p * q * r) ** (1 / 3),
            "contrastive": p**1.5 * q**-0.5 * r**0.3,
            "mixture": (p + 2 * q + r) / 4,
            "plausible": (p * q * r) ** (1 / 3) * (p >= 0.7 * p.max()),
        }[name]
        return found / found.sum()

    return fk.ensemble(prompts, weights, kind=kind, plausible=0.7 if name == "plausible" else 0.0), law


def measure(law, ids, ended: bool) -> float:
    p = math.prod(law(ids[:i])[token] for i, token in enumerate(ids))
    return float(p * (law(ids)[0] if ended else 1.0))


NAMES = ("geometric mean", "contrastive", "mixture", "plausible")


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("name", NAMES)
def test_the_law_is_normalised_at_each_token(lm, other, name, at_limit) -> None:
    task, law = make(lm, other, name, max_tokens=3, at_limit=at_limit)
    result = fk.steer(task, algorithm="exact")
    truth = {lm.vocabulary.text(ids): measure(law, ids, ended) for ids, ended in list_texts(3, at_limit)}
    truth = {text: mass for text, mass in truth.items() if mass}
    z = sum(truth.values())
    posterior = result.posterior()
    assert result.log_evidence == pytest.approx(math.log(z), abs=1e-6) and set(posterior) == set(truth)
    np.testing.assert_allclose([posterior[text] for text in truth], [m / z for m in truth.values()], rtol=1e-5)
    assert at_limit == "end" or z == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "weights"), [("product", (1.5, -0.5)), ("product", (0.5, 0.5)), ("mixture", (0.2, 0.8))]
)
def test_laws_combine_to_rounding(kind, weights) -> None:
    logits = torch.randn(2, 5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    laws = list(torch.log_softmax(logits, 2))
    laws[1][:, 3] = -torch.inf
    p, q = (law.exp().numpy() for law in laws)
    with np.errstate(divide="ignore"):
        powers = np.where(q > 0, p ** weights[0] * q ** weights[1], 0.0)
    exact = powers if kind == "product" else weights[0] * p + weights[1] * q
    exact = exact / exact.sum(axis=1, keepdims=True)
    found = Rule(kind, weights).combine(laws).double().exp().numpy()
    np.testing.assert_allclose(found, exact, rtol=2e-6)  # float32 nats


@pytest.mark.parametrize("name", ["contrastive", "mixture"])
def test_constraints_and_rewards_have_the_right_evidence_over_all_runs(lm, other, name) -> None:
    task, _ = make(lm, other, name, max_tokens=2)
    potential = fk.regex("(a|b)*b")
    law = Seen(task)
    target = {
        lm.vocabulary.text(ids): measure(law, ids, ended)
        for ids, ended in list_texts(2, "truncate")
        if ids and lm.vocabulary.text(ids).endswith("b")
    }
    check_exact(prepare(task, potential), potential, target)


class Seen:
    """The float32 law of the next token that a task's runs see."""

    def __init__(self, task) -> None:
        self.task = task

    def __call__(self, ids):
        contexts = self.task.lm.open([self.task.prompts[0].tokens], 4)
        logits = contexts.start()
        if ids:
            logits = contexts.append(np.array([0]), [ids])
        logits = logits[0].double().numpy()
        return np.exp(logits - np.logaddexp.reduce(logits))


def test_scores_and_experts_are_those_of_the_ensemble(lm, other) -> None:
    task, law = make(lm, other, "contrastive")
    texts = ["", "a", "ab", "bba"]
    ids = [tuple(lm.spell(text)) for text in texts]
    exact = np.log([measure(law, each, True) for each in ids])
    np.testing.assert_allclose(task.lm.score(task, texts), exact, atol=1e-5)
    steered = lm.prompt("b", max_tokens=2)
    result = fk.steer(steered, fk.expert(task), algorithm="exact")
    own = Law(lm, "b")
    mass = [own(each, ended) * measure(law, each, ended) for each, ended in list_texts(2, "truncate")]
    assert result.log_evidence == pytest.approx(math.log(sum(mass)), abs=1e-5)


def test_contexts_of_an_ensemble_are_forked_in_every_member(lm, other) -> None:
    task, law = make(lm, other, "geometric mean")
    contexts = task.lm.open([task.prompts[0].tokens] * 2, 8)
    start = contexts.start()
    found = contexts.extend(np.array([1, 0, 0]), np.array([2, 1, -1]))
    every = contexts.append(np.array([2, 0]), [[1, 2], [1]], every=True)
    for logits, ids in (
        (start[0], ()),
        (found[0], (2,)),
        (found[1], (1,)),
        *zip(every, ((1,), (1, 2), (2, 1)), strict=True),
    ):
        np.testing.assert_allclose(logits.exp(), law(ids), rtol=1e-5)


def test_all_members_read_a_text_given_to_the_ensembles_model(lm, other) -> None:
    task = fk.ensemble([lm.prompt("a"), other.prompt("a")], [0.4, 0.6])
    one, two = Law(lm, "bb"), Law(other, "bb")

    def law(ids):
        p = one.next(ids) ** 0.4 * two.next(ids) ** 0.6
        return p / p.sum()

    found = task.lm.score("bb", ["a"], end=False)
    assert found[0] == pytest.approx(math.log(law(())[1]), abs=1e-5)

    @fk.program
    def write(p):
        text = task.lm.context("b")
        text.append("b")
        return str(p.sample(text.gen(max_tokens=1)))

    result = fk.steer(write(), particles=4000, seed=0)
    share = result.posterior().get("a", 0.0)
    p = law(())[1]
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 4000)  # false alarm 6e-7


def test_models_of_different_tokenizers_make_an_ensemble_of_bytes(lm, tiny_lm) -> None:
    two = fk.bytewise(tiny_lm("b", "a", "ab", seed=5), beam=None)
    one = fk.bytewise(lm, beam=None)
    task = fk.ensemble([one.prompt("a", max_tokens=2), two.prompt("a")], kind="mixture")
    singles = [fk.steer(each.prompt("a", max_tokens=1), algorithm="exact").posterior() for each in (one, two)]
    mixed = fk.steer(fk.ensemble([one.prompt("a", max_tokens=1), two.prompt("a")], kind="mixture"), algorithm="exact")
    for text, p in mixed.posterior().items():
        assert p == pytest.approx(sum(each[text] for each in singles) / 2, abs=1e-6)
    assert fk.steer(task, fk.regex("a*"), algorithm="exact").log_evidence < 0
