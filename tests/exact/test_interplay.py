"""Several kinds of constraints, weights, laws and limits at once: the target is their product, text by text."""

from __future__ import annotations

import functools
import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from test_language_model import last, remember
from test_sampling_laws import list_texts
from toys import find_kernel, sum_over_runs

import feynkac as fk
from feynkac.potentials.base import Factor, product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import killing
from feynkac.steering.problems import read_problems

PATHS = [("p", "a", "p", 0.3), ("p", "b", "q", -0.9), ("q", "b", "p", 0.5), ("q", "a", "r", 0.1)]
FINAL: Any = {"p": -0.4, "q": 0.2, "r": 0.0}
CHOICES: Any = {"a*": 0.5, "[ab]*b": -0.3, "b?": 1.0}


def weigh_path(text: str) -> float:
    """Each text has one path at most."""
    state, nats = "p", 0.0
    for char in text:
        moves = [(to, weight) for origin, label, to, weight in PATHS if (origin, label) == (state, char)]
        if not moves:
            return 0.0
        state, nats = moves[0][0], nats + moves[0][1]
    return math.exp(nats + FINAL[state])


def weigh_choices(text: str) -> float:
    return sum(math.exp(nats) for pattern, nats in CHOICES.items() if re.fullmatch(pattern, text))


KINDS: dict[str, tuple[Any, Any]] = {
    "wfsa": (lambda: fk.wfsa(PATHS, "p", FINAL), weigh_path),
    "wfsa ** 2": (lambda: fk.wfsa(PATHS, "p", FINAL) ** 2.0, lambda x: weigh_path(x) ** 2),
    "choices ** 0.5": (lambda: fk.wfsa(CHOICES) ** 0.5, lambda x: math.sqrt(weigh_choices(x))),
    "power 3": (lambda: fk.power(3.0), None),
    "power 0.5": (lambda: fk.power(0.5, 2), None),
    "regex": (lambda: fk.regex("a?b*|ba"), lambda x: re.fullmatch("a?b*|ba", x) is not None),
    "listed": (lambda: fk.choices(["a", "ab", "bb", ""]), lambda x: x in ("a", "ab", "bb", "")),
    "lazy": (lambda: fk.lazy(lambda x: "aa" not in x, accepts=lambda x: x != "b", draws=2),
             lambda x: "aa" not in x and x != "b"),
    "reward": (lambda: fk.reward(lambda x: 0.7 * x.count("b")), lambda x: math.exp(0.7 * x.count("b"))),
    "after": (lambda: fk.after("b", fk.regex("a?|b")), lambda x: x.partition("b")[1:] in BEHIND),
    "phrases": (lambda: fk.phrases(ban=["ab"]), lambda x: "ab" not in x),
}  # fmt: skip
BEHIND = {("b", ""), ("b", "a"), ("b", "b")}
LAWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one token": dict(top_k=1),
    "two tokens": dict(top_k=2),
    "repetition": dict(repetition_penalty=1.7, temperature=2.0),
}
CASES = [
    ("wfsa", "power 3", "regex", "plain", "end"),
    ("wfsa", "one token", "truncate"),
    ("wfsa", "lazy", "one token", "end"),
    ("wfsa ** 2", "lazy", "two tokens", "truncate"),
    ("choices ** 0.5", "listed", "power 0.5", "repetition", "truncate"),
    ("choices ** 0.5", "reward", "after", "repetition", "end"),
    ("power 3", "listed", "two tokens", "end"),
    ("power 0.5", "wfsa", "lazy", "repetition", "truncate"),
    ("phrases", "lazy", "reward", "plain", "truncate"),
]


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return functools.cache(tiny_lm)("a", "b", seed=3)


def make_problem(lm, case, limit) -> tuple[tuple[Any, ...], dict[tuple[int, ...], float]]:
    """A problem, and the target's mass of each of its texts."""
    *names, law, at_limit = case
    alpha = 1.0 + sum(float(name.split()[1]) - 1.0 for name in names if name.startswith("power"))
    target = {}
    for tokens, p in list_texts(lm, "a", limit, at_limit, **LAWS[law]).items():
        text = lm.vocabulary.text(tokens)
        if weight := math.prod(weigh(text) for name in names if (weigh := KINDS[name][1])):
            target[tokens] = p**alpha * weight
    task = lm.prompt("a", max_tokens=limit, at_limit=at_limit, **LAWS[law])
    return (task, *(KINDS[name][0]() for name in names)), target


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_target_is_the_product_of_all_that_weighs(lm, monkeypatch, case) -> None:
    """E[Z] = Z and E[w 1{x}] = Z P(x) for every text, over all runs of a particle; the look-ahead is in float32."""
    remember(monkeypatch)
    problem, target = make_problem(lm, case, 2)
    batch = read_problems([problem], ())
    model, potential = batch.join(), batch.weigh()

    def run(rng):
        step: Any = last(smc(model, potential, n=1, resample=killing, rng=rng))
        (ids,) = step.state.tokens(range(1))
        return math.exp(step.log_weight[0]) * np.array([*(tuple(ids.tolist()) == text for text in target), True])

    mean = sum_over_runs(run)
    z = sum(target.values())
    np.testing.assert_allclose(mean, [*target.values(), z], rtol=0, atol=3e-6 * z)


@pytest.mark.parametrize("pair", [(0, 3), (2, 4), (5, 6)])
def test_problems_of_different_kinds_are_independent_in_one_batch(lm, monkeypatch, pair) -> None:
    """E[Z_0] = Z_0, E[Z_1] = Z_1 and E[Z_0 Z_1] = Z_0 Z_1, at most one token each."""
    remember(monkeypatch)
    problems = [make_problem(lm, CASES[i], 1) for i in pair]
    batch = read_problems([problem for problem, _ in problems], ())
    model, potential = batch.join(), batch.weigh()

    def run(rng):
        step = last(smc(model, potential, n=[1, 1], resample=killing, rng=rng))
        z = [math.exp(step.group(g).log_z) for g in range(2)]
        return np.array([*z, z[0] * z[1]])

    mean = sum_over_runs(run)
    z = [sum(target.values()) for _, target in problems]
    np.testing.assert_allclose(mean, [*z, z[0] * z[1]], rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[7]], ids="-".join)
def test_conditional_smc_keeps_the_posterior_of_all_that_weighs(lm, monkeypatch, case) -> None:
    remember(monkeypatch)
    problem, target = make_problem(lm, case, 1)
    batch = read_problems([problem], ())
    model: Any = batch.join()
    potential = batch.weigh()
    paths = [text if case[-1] == "truncate" and len(text) == 1 else (*text, 0) for text in target]
    pi = np.array(list(target.values())) / sum(target.values())

    def sweep(rng, path):
        step = last(csmc(model, potential, np.array(path), n=2, rng=rng))
        return tuple(model.trace(step.state, select(step, rng)).tolist())

    kernel = find_kernel(sweep, paths)
    np.testing.assert_allclose(pi @ kernel, pi, rtol=3e-6)


@pytest.mark.parametrize("case", [("wfsa", "one token", "end"), ("wfsa", "lazy", "one token", "end")], ids="-".join)
def test_a_text_for_which_law_and_guide_leave_no_token_dies_and_no_other(lm, case) -> None:
    """The mask allows what the law leaves out, and the guide forbids the rest: the model's logits are in order."""
    *names, _, _ = case
    likeliest = fk.steer(lm.prompt("a", max_tokens=4, top_k=1), particles=4, seed=0).texts[0]
    other = "b" if likeliest.startswith("a") else "a"
    weight = fk.wfsa([("p", other, "q", 0.0), ("q", other, "q", 0.0)], "p", "q")
    potentials = [weight, *(KINDS[name][0]() for name in names[1:])]
    dead, alive = fk.steer(
        [lm.prompt("a", max_tokens=4, top_k=1, at_limit="end"), lm.prompt("a", max_tokens=4, at_limit="end")],
        *potentials, particles=4, seed=0, on_death="return",
    )  # fmt: skip
    assert dead.log_evidence == -math.inf
    assert alive.log_evidence > -math.inf


class Forbids(Factor):
    """It forbids what begins with a token, and its guide says so."""

    name = "forbids"

    def __init__(self, token: int) -> None:
        self.token = token

    def level(self, t, state: Any, rows):
        return self.final(state, rows)

    def final(self, state: Any, rows):
        return np.array([-np.inf if ids[:1].tolist() == [self.token] else 0.0 for ids in state.tokens(rows)])

    def guide(self, frontier):
        worth = torch.zeros_like(frontier.logits)
        worth[frontier.state.length[frontier.heads] == 0, self.token] = -torch.inf
        return worth


@pytest.mark.parametrize("texts", [["a", "ab"], ["a", "ab", "b"]])
def test_looking_ahead_goes_nowhere_that_a_guide_forbids(lm, texts) -> None:
    task = lm.prompt("a", max_tokens=2)
    token = lm.vocabulary.tokens.index(b"a")
    result = fk.steer(task, fk.choices(texts), Forbids(token), particles=8, seed=0, on_death="return")
    exact = fk.steer(task, fk.choices(texts), Forbids(token), algorithm="exact", on_death="return")
    assert result.log_evidence == pytest.approx(exact.log_evidence, abs=1e-5)
    assert (exact.log_evidence == -math.inf) == ("b" not in texts)


@pytest.mark.parametrize("exponent", [2.0, 0.5, 0.0])
def test_a_power_of_what_guides_guides_as_much_more(lm, exponent) -> None:
    """At one token, no weight depends on the token that is drawn."""
    potential = fk.wfsa([("p", "a", "p", 1.0), ("p", "b", "p", -2.0)], "p", "p") ** exponent
    task = lm.prompt("a", max_tokens=1)
    result = fk.steer(task, potential, particles=16, seed=1)
    exact = fk.steer(task, potential, algorithm="exact")
    np.testing.assert_allclose(result.log_weights + math.log(16), exact.log_evidence, atol=2e-6)


def test_a_negative_power_of_what_guides_keeps_its_target(lm) -> None:
    power = fk.power(0.5) ** -2.0  # p^2
    task = lm.prompt("a", max_tokens=1)
    exact = fk.steer(task, fk.power(2.0), algorithm="exact")
    result = fk.steer(task, power, particles=16, seed=1)
    np.testing.assert_allclose(result.log_weights + math.log(16), exact.log_evidence, atol=2e-6)


def test_what_is_drawn_at_random_among_all_kinds_repeats_with_its_seed(lm) -> None:
    """The same potentials in several runs, alone and in another batch: nothing of one run is left for the next."""
    made = {name: make() for name, (make, _) in KINDS.items()}
    draw = random.Random(0)
    for _ in range(6):
        names = draw.sample(list(KINDS), 3)
        task = lm.prompt("a", max_tokens=4, **LAWS["repetition"])
        some = product(*(made[name] for name in names))
        first = fk.steer([task], some, particles=8, seed=5, on_death="return")[0]
        fk.steer(lm.prompt("b", max_tokens=4), *made.values(), particles=4, seed=1, on_death="return")
        again, _ = fk.steer([(task, some), (task, fk.regex("b*"))], particles=8, seed=5, on_death="return")
        assert again.texts == first.texts, names
        np.testing.assert_allclose(again.log_weights, first.log_weights, rtol=1e-5, atol=1e-6)
