"""Rejection sampling of tokens by enumeration over all orders: proper weights, also of one step of conditional SMC."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, cast

import numpy as np
import pytest
from test_language_model import last, remember
from test_proposals import NAMES, TEMPERATURE, law, proposals
from toys import find_kernel, sum_over_runs

import feynkac as fk
from feynkac.models.language.draws import rejection
from feynkac.models.language.draws.rejection import Checks, Rounds, reject
from feynkac.models.language.draws.urn import EnumeratedUrn
from feynkac.potentials.base import product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic
from feynkac.smc.testing import enumerate_runs

LAWS = {
    "even": [0.25, 0.25, 0.25, 0.25],
    "peaked": [0.9, 0.06, 0.03, 0.01],
    "faint": [0.6, 1e-9, 0.4 - 1e-9, 0.0],
    "very faint": [1.0, 1e-300, 1e-290, 1e-12],
}
SETS = [(0,), (1,), (0, 1), (1, 2), (0, 2), (0, 1, 2, 3)]


@pytest.fixture(params=[8, 1], ids=["one at a time", "drawing ahead"])
def part(request, monkeypatch):
    """So few tokens draw ahead only where all that was rejected may be asked about in vain."""
    monkeypatch.setattr(rejection, "_PART", request.param)


class Accepts:
    """An automaton of one state whose verdicts are a list."""

    def __init__(self, accepted) -> None:
        self.accepted = accepted

    def check(self, states, tokens, group):
        return np.isin(tokens, self.accepted)


class Watched(EnumeratedUrn):
    """Knows what was taken out, in order."""

    def __init__(self, masked, context) -> None:
        super().__init__(masked, context)
        self.taken: list[int] = []

    def take_out(self, at, tokens, count):
        self.taken += tokens[0, : count[0]].tolist()
        return super().take_out(at, tokens, count)


def list_draws(p, accepted, draws, pinned=None):
    """All runs of one row: probability, token, weight, and the tokens that were rejected in order."""
    with np.errstate(divide="ignore"):
        masked = np.log(np.array([p]))

    def run(rng):
        one = np.zeros(1, np.int64)
        checks = Checks(Accepts(accepted), one[:, None], one, np.array([draws]), Rounds(rng, rng.uniform(1)), one)
        urn = Watched(masked, one)
        tokens, log_share = reject(urn, checks, pinned)
        return int(tokens[0]), math.exp(log_share[0]), urn.taken

    return list(enumerate_runs(run))


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("draws", [2, 3, 4])
@pytest.mark.parametrize("accepted", SETS)
@pytest.mark.parametrize("name", LAWS)
def test_a_drawn_token_has_the_law_given_acceptance_and_an_unbiased_weight(name, accepted, draws) -> None:
    """P(v) = p(v) / a and E[w | v] = a, so that E[w f(v)] is the sum of p f over what is accepted, to 1e-12."""
    p = np.array(LAWS[name])
    a = math.fsum(p[list(accepted)])
    probability, weighted = np.zeros(len(p)), np.zeros(len(p))
    for chance, (token, w, _) in list_draws(p, accepted, draws):
        probability[token] += chance
        weighted[token] += chance * w
    allowed = np.where(np.isin(np.arange(len(p)), accepted), p, 0.0)
    # A uniform has 53 bits: of the law that is left, shares below 1e-16 are drawn to that precision.
    np.testing.assert_allclose(probability, allowed / a, rtol=1e-12, atol=1e-15)
    # A weight is handed over as its logarithm, whose last digit counts more the fainter it is.
    np.testing.assert_allclose(weighted / a, allowed / a, rtol=1e-12 - 4e-15 * math.log(a), atol=1e-15)


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("name", LAWS)
def test_where_nothing_is_accepted_the_weight_is_zero_and_each_token_was_asked_about(name) -> None:
    p = LAWS[name]
    for _, (token, w, rejected) in list_draws(p, (), 4):
        assert (token, w) == (-1, 0.0)
        assert sorted(rejected) == [v for v in range(4) if p[v] > 0.0]


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("draws", [2, 3])
@pytest.mark.parametrize("accepted", [(1,), (1, 2)])
@pytest.mark.parametrize("name", ["even", "peaked"])
def test_a_pinned_token_has_the_weights_of_the_run_that_drew_it(name, accepted, draws) -> None:
    """Weighted by w and given the token, what was rejected has the law that a pinned row draws, for every token."""
    p = LAWS[name]
    free: dict[int, dict] = {v: defaultdict(float) for v in accepted}
    for chance, (token, w, rejected) in list_draws(p, accepted, draws):
        free[token][tuple(rejected), round(math.log(w), 9)] += chance * w / p[token]
    for v in accepted:
        pinned: dict = defaultdict(float)
        for chance, (token, w, rejected) in list_draws(p, accepted, draws, pinned=v):
            assert token == v
            pinned[tuple(rejected), round(math.log(w), 9)] += chance
        assert pinned == pytest.approx(free[v], rel=1e-12)
    for _, (token, w, _) in list_draws(p, accepted, draws, pinned=0):
        assert (token, w) == (-1, 0.0)


def right(text: str) -> bool:
    """What "a|ab|b|aa|ba" begins with."""
    return text in ("", "a", "ab", "b", "aa", "ba")


def lazies():
    """The pattern "a|ab|b|aa|ba" as users may write it."""
    steps = {("", "a"): "a", ("", "b"): "b", ("a", "a"): "aa", ("a", "b"): "ab", ("b", "a"): "ba"}
    return {
        "text": lambda: fk.lazy(right, accepts=bool, draws=2),
        "parser": lambda: fk.lazy(lambda s, c: steps.get((s, c)), start="", accepts=lambda s: s != "", draws=2),
        "with a mask": lambda: fk.lazy(lambda text: len(text) < 3, accepts=bool, draws=2) * fk.regex("a?|ab|b|aa|ba"),
        "two": lambda: fk.lazy(right, draws=2) * fk.lazy(lambda text: True, accepts=bool, draws=2),
    }


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("name", lazies())
def test_every_run_of_a_lazy_constraint_enumerated(tiny_lm, monkeypatch, name, at_limit) -> None:
    """E[Z] = Z and E[w 1{x}] = Z P(x) for every text x, over all runs of a particle."""
    check_runs(tiny_lm, monkeypatch, lazies()[name](), "masked", at_limit)


@pytest.mark.parametrize("resample", [adaptive(systematic, ess=0.99), killing])
def test_two_particles_under_a_lazy_constraint_enumerated(tiny_lm, monkeypatch, resample) -> None:
    lazy = fk.lazy(lambda text: text in ("", "a"), draws=2)
    check_runs(tiny_lm, monkeypatch, lazy, "masked", "truncate", n=2, limit=1, resample=resample)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_lazy_constraint_under_every_proposal_enumerated(tiny_lm, monkeypatch, name) -> None:
    check_runs(tiny_lm, monkeypatch, lazies()["text"](), name, "truncate")


def check_runs(tiny_lm, monkeypatch, lazy, name, at_limit, n=1, limit=2, resample=killing) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    texts = {lm.vocabulary.text(tokens): p for tokens, p in law(lm, limit, at_limit).items()}
    wanted = ("a", "ab", "b", "aa", "ba") if limit == 2 else ("", "a")
    target = {x: texts[x] * math.exp(0.5 * x.count("b")) for x in wanted}
    potential = product(lazy, fk.reward(lambda text: 0.5 * text.count("b")))
    task = lm.prompt(
        "a", max_tokens=limit, at_limit=at_limit, temperature=TEMPERATURE, proposal=proposals(tiny_lm)[name]
    )
    model = task.constrain(lazy.factors)

    def run(rng):
        step = last(smc(model, potential, n=n, resample=resample, rng=rng))
        weights, samples = np.exp(step.log_weight), cast(Any, step.state).texts(range(n))
        return [weights @ [sample == text for sample in samples] for text in target]

    mean = sum_over_runs(run)
    np.testing.assert_allclose(mean, np.array(list(target.values())), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES[:2])
def test_conditional_smc_keeps_the_posterior_of_a_lazy_constraint(tiny_lm, monkeypatch, name) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", "e", seed=3)
    texts = {t: p for t, p in law(lm, 1, "truncate").items() if lm.vocabulary.text(t) != "b"}
    potential = fk.lazy(lambda text: "b" not in text, draws=2)
    task = lm.prompt("a", max_tokens=1, temperature=TEMPERATURE, proposal=proposals(tiny_lm)[name]).constrain(
        [potential]
    )
    paths = [text or (0,) for text in texts]
    pi = np.array(list(texts.values())) / sum(texts.values())

    def sweep(rng, path):
        step = last(csmc(task, potential, np.array(path), n=2, rng=rng))
        return tuple(task.trace(step.state, select(step, rng)).tolist())

    kernel = find_kernel(sweep, paths)
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-12)
