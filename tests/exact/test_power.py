"""Powers of the model's law by enumeration, against brute force over all texts of a tiny model."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from test_language_model import last, remember
from test_sampling_laws import list_texts

import feynkac as fk
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.proposals import MASKED
from feynkac.models.language.proposals.guided import Guided
from feynkac.potentials.base import product
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.testing import enumerate_runs

OTHERS = {
    "alone": (lambda: [], lambda text: 1.0),
    "a constraint": (lambda: [fk.regex("[ab]?b*")], lambda text: float(text not in ("aa", "ba"))),
    "a reward": (lambda: [fk.reward(lambda text: text.count("b") - 0.5)], lambda text: math.exp(text.count("b") - 0.5)),
    "both": (
        lambda: [fk.regex("[ab]?b*"), fk.reward(lambda text: 0.7 * text.count("a"))],
        lambda text: (text not in ("aa", "ba")) * math.exp(0.7 * text.count("a")),
    ),
}
SCHEDULES = {"none": None, "even": 2, "falling": lambda t: 9.0 / (t + 1), "below one": lambda t: 0.5}
CASES = [
    *((alpha, other, "none", at_limit) for alpha in (2.0, 4.0, 0.5) for other in OTHERS for at_limit in ("truncate",)),
    *((4.0, "both", schedule, at_limit) for schedule in SCHEDULES for at_limit in ("truncate", "end")),
    (0.5, "a reward", "even", "end"),
    (1.0, "both", "even", "truncate"),
]


@pytest.fixture(scope="module")
def make(tiny_lm):
    """Makes the models of these tests, each once, so that they share the logits of their few texts."""
    return functools.cache(tiny_lm)


@pytest.mark.parametrize(("alpha", "other", "schedule", "at_limit"), CASES)
def test_the_target_is_the_power_of_the_law_over_whole_texts(
    make, monkeypatch, alpha, other, schedule, at_limit
) -> None:
    run_all(make, monkeypatch, alpha, other, schedule, at_limit, lambda power: MASKED)


def run_all(make, monkeypatch, alpha, other, schedule, at_limit, propose) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x, over all runs of two particles."""
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    others, weigh = OTHERS[other]
    power = fk.power(alpha, SCHEDULES[schedule])
    potential = product(power, *others())
    masks = [factor for factor in potential.factors if isinstance(factor, TokenConstraint)]
    law = dict(temperature=2.0, repetition_penalty=1.5)
    target = {
        (text := lm.vocabulary.text(tokens)): p**alpha * weigh(text)
        for tokens, p in list_texts(lm, "a", 2, at_limit, **law).items()
    }
    model = lm.prompt("a", max_tokens=2, at_limit=at_limit, proposal=propose(power), **law).constrain(masks)
    z = sum(target.values())
    for resample in (adaptive(systematic, ess=0.99), killing):

        def run(rng, resample=resample):
            step = last(smc(model, potential, n=2, resample=resample, rng=rng))
            weights, samples = np.exp(step.log_weight), step.state.texts(range(2))
            return weights @ [[sample == text for text in target] for sample in samples]

        mean = sum((p * masses for p, masses in enumerate_runs(run)), np.zeros(len(target)))
        np.testing.assert_allclose(mean, list(target.values()), rtol=0, atol=1e-12 * z)


@pytest.mark.parametrize(("alpha", "other", "schedule", "at_limit"), CASES)
def test_a_proposal_at_the_power_leaves_the_target_alone(make, monkeypatch, alpha, other, schedule, at_limit) -> None:
    run_all(make, monkeypatch, alpha, other, schedule, at_limit, lambda power: Guided((power,)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("alpha", [2.0, 0.5])
def test_weights_do_not_depend_on_the_token_that_is_drawn_at_the_power(make, monkeypatch, alpha, schedule) -> None:
    """Along all runs of one particle: the weight behind a step is a function of the history before it."""
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    power = fk.power(alpha, SCHEDULES[schedule])
    model = lm.prompt("a", max_tokens=3, at_limit="end", top_p=0.97, proposal=Guided((power,)))
    weights: dict[tuple[int, ...], list[float]] = {}

    def run(rng):
        before = ()
        for step in smc(model, power, n=1, resample=killing, rng=rng):
            weights.setdefault(before, []).append(float(step.log_weight[0]))
            before = tuple(model.trace(step.state, 0).tolist())

    for _ in enumerate_runs(run):
        pass
    assert len(weights) > 8
    for history, some in weights.items():
        assert max(some) - min(some) < 1e-5, history


def test_every_algorithm_has_the_same_power(make, monkeypatch) -> None:
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    texts = list_texts(lm, "a", 3, "truncate")
    z = sum(p**2 for p in texts.values())
    task, squared = lm.prompt("a", max_tokens=3), fk.power(2.0)
    exact = fk.steer(task, squared, algorithm="exact")
    assert exact.log_evidence == pytest.approx(math.log(z), abs=1e-12)
    assert exact.posterior() == pytest.approx(
        {lm.vocabulary.text(tokens): p**2 / z for tokens, p in texts.items()}, rel=1e-12
    )
    for algorithm in ("smc", "importance", "best_of_n", "beam", "gibbs"):
        options = {"sweeps": 200} if algorithm == "gibbs" else {}
        n = 4 if algorithm == "gibbs" else 512
        result = fk.steer(task, squared, algorithm=algorithm, particles=n, seed=0, **options)
        if algorithm == "best_of_n":
            assert result.best == exact.best
        else:
            found = result.posterior()
            variation = sum(abs(found.get(text, 0.0) - p) for text, p in exact.posterior().items()) / 2.0
            assert variation < 0.15, algorithm


def test_a_power_guides_prompts_by_itself_and_not_those_that_are_masked_only(make, monkeypatch) -> None:
    """Drawn from p^2 a run of one token has one weight, the sum of p^2; two powers guide as their product does."""
    remember(monkeypatch)
    lm = make("a", "b", seed=3)
    p = np.array(list(list_texts(lm, "a", 1, "truncate").values()))
    for potentials, alpha in (((fk.power(2.0),), 2.0), ((fk.power(2.0), fk.power(1.5)), 2.5)):
        guided = fk.steer(lm.prompt("a", max_tokens=1), *potentials, particles=8, seed=0)
        assert guided.log_evidence == pytest.approx(math.log((p**alpha).sum()), abs=1e-6)
        assert np.ptp(guided.log_weights) < 1e-6
    masked = fk.steer(lm.prompt("a", max_tokens=1, proposal=MASKED), fk.power(2.0), particles=8, seed=0)
    assert np.ptp(masked.log_weights) > 1e-3


@pytest.mark.parametrize("look", [lambda text: text, lambda text: text.fork()], ids=["the context", "a fork of it"])
def test_a_power_in_a_program_is_a_factor_for_each_token(make, monkeypatch, look) -> None:
    remember(monkeypatch)
    lm = make("a", "b", seed=3)

    @fk.program
    def write(p, lm):
        text = lm.context("a")
        while not text.ended and len(text) < 2:
            p.sample(text.next_token())
            p.factor((4.0 - 1.0) * look(text).log_drawn)
        return str(text)

    z_hat = 0.0

    def run(rng):
        return math.exp(last(smc(write(lm), product(), n=1, resample=killing, rng=rng)).log_z)

    for p, z in enumerate_runs(run):
        z_hat += p * z
    assert z_hat == pytest.approx(sum(p**4 for p in list_texts(lm, "a", 2, "truncate").values()), rel=1e-6)
    with pytest.raises(PotentialError, match=r"'power\(4\)' needs the log-probability.*p\.factor"):
        fk.steer(write(lm), fk.power(4.0), particles=2, seed=0)


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, math.inf, True, "2", None, [2.0]])
def test_what_is_no_positive_number_is_no_power(alpha) -> None:
    with pytest.raises(ArgumentError, match="is a positive number"):
        fk.power(alpha)


@pytest.mark.parametrize("schedule", [0, -3, 1.5, "linear", True, [1.0, 2.0], dict])
def test_what_is_no_schedule_of_a_power_is_refused(schedule) -> None:
    with pytest.raises(ArgumentError, match=r"schedule is .*a function of the step"):
        fk.power(2.0, schedule)


def test_a_schedule_that_gives_no_positive_power_is_named(make) -> None:
    task = make("a", "b", seed=3).prompt("a", max_tokens=4)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(PotentialError, match=r"'power\(2\)' at step 1: the schedule returned"):
            fk.steer(task, fk.power(2.0, lambda t, bad=bad: bad if t else 1.0), particles=32, seed=0)


def test_a_state_that_tells_no_probability_has_no_power() -> None:
    class Walk:
        def init(self, n, rng):
            return np.zeros(n)

        def step(self, t, state, rng):
            return state + 1, np.zeros(len(state))

        def done(self, state):
            return state >= 2

    with pytest.raises(PotentialError, match="for prompts of language models"):
        list(smc(Walk(), fk.power(2.0), n=2, resample=killing, rng=Streams(0)))
