"""The ruler against brute force: all texts of tiny models, all runs of two particles, and the frontier's theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_experts import Law as Truth, list_texts
from test_language_model import last, remember

import feynkac as fk
from feynkac.potentials.base import product
from feynkac.rulers.describing import describe
from feynkac.rulers.drawing import Drawn, read_own, score
from feynkac.rulers.estimates import Sample
from feynkac.rulers.frontier import Frontier
from feynkac.rulers.laws import BASE, read_law
from feynkac.smc.engine import smc
from feynkac.smc.resample import never
from feynkac.smc.testing import enumerate_runs
from feynkac.smc.weights import log_sum_exp
from feynkac.steering.problems import prepare

LIMIT = 3


def count(text: str) -> float:
    return text.count("b") + 0.25 * len(text)


def cases(tiny_lm):
    """The base, then each law with its weight of a text, up to a factor."""
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    base, p = lm.prompt("a", max_tokens=LIMIT), Truth(lm, "a")
    hers, cold = Truth(other, "b"), Truth(lm, "a", 0.5)
    reward = fk.reward(count)

    def tilt(ids):
        return math.exp(count(lm.vocabulary.text(ids)))

    laws = {
        BASE: (base, p),
        "a temperature": (lm.prompt("a", max_tokens=LIMIT, temperature=0.5), cold),
        "another model and prompt": (other.prompt("b", max_tokens=LIMIT), hers),
        "a tilt": ((base, reward), lambda ids, ended: p(ids, ended) * tilt(ids)),
        "a tilt the other way": ((base, reward**-0.7), lambda ids, ended: p(ids, ended) * tilt(ids) ** -0.7),
        "a constraint": ((base, fk.regex("b?a*")), lambda ids, ended: p(ids, ended) * (2 not in ids[1:])),
        "an expert": ((base, fk.expert(other.prompt("b"))), lambda *x: p(*x) * hers(*x)),
        "all of it": (
            (lm.prompt("a", max_tokens=LIMIT, temperature=0.5), fk.expert(other.prompt("b"), -0.5), reward),
            lambda ids, ended: cold(ids, ended) / math.sqrt(hers(ids, ended)) * tilt(ids),
        ),
    }  # fmt: skip
    return laws, p


NAMES = (
    "a temperature", "another model and prompt", "a tilt", "a tilt the other way", "a constraint", "an expert",
    "all of it",
)  # fmt: skip


def list_all(name, task) -> Drawn:
    """Every text of a law as its sample, each with its own probability as weight."""
    law = read_law(name, task)
    potential = law.potential or product()
    found = prepare(law.model, potential).enumerate(5000, False, lambda n: None)
    rows = np.arange(len(found.log_prob))
    final = potential.final(found.state, rows)
    rows = rows[final > -np.inf]
    log_weight = found.log_prob[rows] + final[rows]
    result = fk.steer(law.model, potential, algorithm="exact")
    assert result.log_evidence == pytest.approx(log_sum_exp(log_weight), abs=1e-9)
    return Drawn(law, result, found.state, rows, Sample(log_weight, rows, len(found.log_prob)), final[rows])


def measure(laws, name):
    """The row of a law, and what it stands on, from all its texts and all of the base's."""
    base, drawn = list_all(BASE, laws[BASE][0]), list_all(name, laws[name][0])
    reward = product(fk.reward(count, every="end"))
    frontier = Frontier(base.sample, score(reward, base), unseen=0.0)
    return describe(drawn, base.law, score(reward, drawn), frontier, 0), frontier


@pytest.mark.parametrize("eos", [(0,), (0, 3)], ids=["one end", "two ends"])
@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_the_sum_over_all_texts(tiny_lm, monkeypatch, name, eos) -> None:
    remember(monkeypatch)
    make = tiny_lm if len(eos) == 1 else lambda *tokens, **given: tiny_lm(*tokens, "z", eos=eos, **given)
    laws, p = cases(make)
    row, _ = measure(laws, name)
    texts, weigh = list_texts(LIMIT, "truncate"), laws[name][1]
    q = np.array([weigh(*text) for text in texts])
    q /= q.sum()
    base = np.array([p(*text) for text in texts])
    alive = q > 0
    kl = float(q[alive] @ np.log(q[alive] / base[alive]))
    rewards = np.array([count("".join("_ab"[i] for i in ids)) for ids, _ in texts])
    tokens = np.array([len(ids) + ended for ids, ended in texts])
    assert base.sum() == pytest.approx(1.0, abs=1e-6) and kl > 0.01
    assert row.reward.value == pytest.approx(q @ rewards, abs=1e-6)
    assert row.kl.value == pytest.approx(kl, abs=1e-6)
    assert row.fluency.value == pytest.approx(-(q @ np.log(base)) / (q @ tokens), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_law_lies_above_the_frontier(tiny_lm, monkeypatch, name) -> None:
    """Donsker and Varadhan's theorem, with equality for tilts alone."""
    remember(monkeypatch)
    laws, _ = cases(tiny_lm)
    row, frontier = measure(laws, name)
    assert row.reached
    if "tilt" in name:
        assert row.kl.value == pytest.approx(row.least_kl.value, abs=1e-9)
        strength = -0.7 if "other" in name else 1.0
        assert frontier.find_point(strength).kl.value == pytest.approx(row.kl.value, abs=1e-9)
    else:
        assert row.kl.value > row.least_kl.value + 0.01


def test_the_mean_divergence_of_all_runs_is_the_divergence_and_its_error_is_theirs(tiny_lm, monkeypatch) -> None:
    """Two independent texts, all runs: E[KL_hat] = KL, and E[se^2] = Var(KL_hat), since se^2 is a sample variance."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    law, base = read_law("cold", lm.prompt("a", max_tokens=2, temperature=0.5)), lm.prompt("a", max_tokens=2)
    q, p, rows = Truth(lm, "a", 0.5), Truth(lm, "a"), np.arange(2)

    def run(rng):
        step = last(smc(law.model, product(), n=2, resample=never, rng=rng))
        log_ratio = read_own(law, step.state, rows) - base.make_scorer().score_texts(step.state, rows)
        found = Sample(step.log_weight, rows, 2).find_divergence(log_ratio, None)
        return found.value, found.se**2

    runs = [(chance, *found) for chance, found in enumerate_runs(run)]
    chance, value, error = np.array(runs).T
    texts = list_texts(2, "truncate")
    kl = sum(q(*text) * math.log(q(*text) / p(*text)) for text in texts)
    mean = chance @ value
    assert mean == pytest.approx(kl, abs=1e-6)
    assert chance @ error == pytest.approx(chance @ (value - mean) ** 2, rel=1e-9)
