"""The algorithms of `steer`, through the face: every random choice of small runs enumerated, against brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_language_model import FLOAT32, law, remember, truth
from toys import ChainModel, TextModel, Toy, chain, text

import feynkac as fk
from feynkac.potentials import product
from feynkac.programs import Bernoulli, Categorical, program
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, ssp
from feynkac.smc.testing import Choices, enumerate_runs, expectation
from feynkac.steering import running

UNBIASED = ("smc", "importance", "best_of_n", "beam")


@pytest.fixture
def steered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`steer` that takes its random numbers from an enumeration."""

    def run(rng: Choices, *given: Any, **options: Any) -> Any:
        source = SimpleNamespace(at=rng.at, child=rng.child, seed=0)
        monkeypatch.setattr(running, "Streams", lambda seed: source)
        return fk.steer(*given, **{"progress": False, "on_death": "return", **options})

    return run


@pytest.fixture(autouse=True)
def _shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys show their particles."""
    for state in (type(TextModel.population([], *3 * [np.zeros(0)])), type(ChainModel(1).init(0, None))):
        monkeypatch.setattr(state, "samples", lambda self, rows: [self.outcomes()[row] for row in rows], raising=False)


def posterior(result: Any, outcomes: list[Any]) -> np.ndarray:
    found = result.posterior()
    assert set(found) <= set(outcomes)
    return np.array([found.get(outcome, 0.0) for outcome in outcomes])


def masses(result: Any, outcomes: list[Any]) -> np.ndarray:
    """(S,) the absolute weight of each outcome."""
    return posterior(result, outcomes) * math.exp(result.log_evidence)


def assert_is_target(mean: np.ndarray, truth: dict[Any, float]) -> None:
    np.testing.assert_allclose(mean, list(truth.values()), rtol=0, atol=1e-12)


# --- algorithms that weigh properly: E[sum w f] = Z E[f], hence E[Z_hat] = Z ---------------------------------------

TOYS = {"text": (text(2), 2), "text that ends": (text(2, "end"), 2), "chain": (chain(2), 2)}


@pytest.mark.parametrize("algorithm", UNBIASED)
@pytest.mark.parametrize("name", TOYS)
def test_weights_are_proper(steered: Any, name: str, algorithm: Any) -> None:
    toy, n = TOYS[name]
    n = 1 if algorithm == "beam" else n  # which holds twice as many
    mean = expectation(
        lambda rng: masses(steered(rng, toy.model, toy.potential, particles=n, algorithm=algorithm), list(toy.truth))
    )
    assert_is_target(mean, toy.truth)


def test_best_of_n_asks_about_whole_samples_only(steered: Any) -> None:
    toy = chain(2)

    class Blind:
        def level(self, *_: Any) -> Any:
            raise AssertionError("asked on the way")

        final = toy.potential.final

    fk.steer(toy.model, Blind(), particles=3, algorithm="best_of_n")


def test_the_best_of_n_is_the_largest_of_n_independent_rewards(steered: Any) -> None:
    toy = chain(2)
    law = {path: mass / math.exp(reward_of(toy, path)) for path, mass in toy.truth.items()}
    # Two paths share each reward: a tie goes to the one drawn twice, or else to the one drawn first.
    truth = dict.fromkeys(law, 0.0)
    for drawn in itertools.product(law, repeat=3):
        top = max(reward_of(toy, path) for path in drawn)
        tied = [path for path in drawn if reward_of(toy, path) == top]
        truth[max(tied, key=tied.count)] += math.prod(law[path] for path in drawn)
    # The toy's proposal is its law here, so that the log-weight is the reward.
    model = ProposesItsLaw(2)

    def best(rng: Choices) -> list[bool]:
        found = steered(rng, model, toy.potential, particles=3, algorithm="best_of_n").best
        return [found == path for path in truth]

    assert_is_target(expectation(best), truth)


def reward_of(toy: Toy, path: tuple[int, ...]) -> float:
    state = SimpleNamespace(pasts=[list(path)])
    return float(toy.potential.final(state, np.array([0]))[0])


class ProposesItsLaw(ChainModel):
    def replay(self, t: int, state: Any, rng: Any, reference: Any) -> Any:
        last = np.array([past[-1] if past else 0 for past in state.pasts])
        for past, value in zip(
            state.pasts, rng.categorical(np.log(np.array([[0.6, 0.4], [0.3, 0.7]]))[last]), strict=True
        ):
            past.append(int(value))
        return state, np.zeros(len(last))


# --- particle Gibbs ------------------------------------------------------------------------------------------------


def paths_of(model: Any, potential: Any) -> dict[Any, Any]:
    """Of each outcome with mass, what replays it."""
    found = {}
    for _, last in enumerate_runs(lambda rng: [*smc(model, potential, n=1, resample=adaptive(ssp), rng=rng)][-1]):
        if last.log_z > -math.inf:
            found[shown(last.state, 0)] = model.trace(last.state, 0)
    return found


def shown(state: Any, row: int) -> Any:
    return state.samples([row])[0] if hasattr(state, "samples") else state[row]


def selected(run: Callable[[Any], Any], outcomes: list[Any]) -> np.ndarray:
    """(S,) the law of the path that a run selects, by enumeration."""

    def law(rng: Choices) -> np.ndarray:
        *_, last = run(rng)
        chosen = shown(last.state, select(last, rng))
        return np.array([float(chosen == outcome) for outcome in outcomes])

    return expectation(law)


def kernel(model: Any, potential: Any, n: int) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The outcomes, the law of the path after plain SMC, and the (S, S) kernel of conditional SMC."""
    traces = paths_of(model, potential)
    outcomes = list(traces)
    start = selected(lambda rng: smc(model, potential, n=n, resample=adaptive(ssp), rng=rng), outcomes)
    rows = [selected(lambda rng, t=t: csmc(model, potential, t, n=n, rng=rng), outcomes) for t in traces.values()]
    return outcomes, start, np.stack(rows)


@program
def coins(p):
    first = p.sample(Bernoulli(0.4))
    p.factor(0.8 * first)
    second = p.sample(Categorical({"x": 0.2, "y": 0.8}), proposal=Categorical({"x": 0.6, "y": 0.4}))
    p.factor(1.1 if second == "x" else -0.2 * first)
    return f"{first:d}{second}"


COINS = {
    "0x": 0.6 * 0.2 * math.exp(1.1),
    "0y": 0.6 * 0.8,
    "1x": 0.4 * 0.2 * math.exp(0.8 + 1.1),
    "1y": 0.4 * 0.8 * math.exp(0.8 - 0.2),
}
CHAINS = {
    "chain": (chain(2).model, chain(2).potential, chain(2).truth),
    "short chain": (chain(1).model, chain(1).potential, chain(1).truth),
    "program": (coins(), product(), COINS),
}


@pytest.mark.parametrize(("name", "sweeps"), [("chain", 2), ("short chain", 2), ("short chain", 4), ("program", 2)])
def test_gibbs_pools_the_conditional_sweeps(steered: Any, name: str, sweeps: int) -> None:
    """The mean posterior is that of the chain's laws: mu P, mu P^2, ..., where pi P = pi, each sweep counted once."""
    model, potential, truth = CHAINS[name]
    outcomes, law, step = kernel(model, potential, 2)
    target = np.array([truth[outcome] for outcome in outcomes])
    np.testing.assert_allclose(target @ step, target, rtol=0, atol=1e-12)
    wanted = np.mean([law @ np.linalg.matrix_power(step, k) for k in range(1, sweeps)], axis=0)

    def found(rng: Choices) -> np.ndarray:
        result = steered(rng, model, potential, particles=2, algorithm="gibbs", sweeps=sweeps)
        assert len(result.samples) == 2 * (sweeps - 1) and result.history.sweeps[0] == 0
        return np.array([*posterior(result, outcomes), math.exp(result.log_evidence)])

    *mean, z = expectation(found)
    np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-12)
    assert z == pytest.approx(target.sum(), abs=1e-12)
    assert abs(wanted - target / z).max() < abs(law - target / z).max()  # and the sweeps come nearer


def test_a_mean_over_one_path_a_sweep_is_the_same_with_more_noise(steered: Any) -> None:
    """Rao-Blackwell: the pooled population is the conditional mean of the path that is drawn from it."""
    toy = chain(1)
    outcomes = list(toy.truth)

    def both(rng: Choices) -> np.ndarray:
        result = steered(rng, toy.model, toy.potential, particles=2, algorithm="gibbs", sweeps=2)
        pooled = posterior(result, outcomes)[0]
        return np.array([pooled, pooled**2])

    mean, square = expectation(both)
    assert 0.0 < square - mean**2 < mean * (1.0 - mean)  # the variance of one path: an indicator


def test_islands_of_gibbs_are_chains_of_their_own(steered: Any) -> None:
    toy = chain(1)
    outcomes, law, step = kernel(toy.model, toy.potential, 2)

    def found(rng: Choices) -> np.ndarray:
        result = steered(rng, toy.model, toy.potential, particles=4, islands=2, algorithm="gibbs", sweeps=2)
        z = math.exp(result.log_evidence)
        return np.array([*posterior(result, outcomes), z, z**2])

    *mean, z, square = expectation(found)
    np.testing.assert_allclose(mean, law @ step, rtol=0, atol=1e-12)
    assert z == pytest.approx(sum(toy.truth.values()), abs=1e-12)

    def one(rng: Choices) -> np.ndarray:
        z = math.exp(steered(rng, toy.model, toy.potential, particles=2, algorithm="gibbs", sweeps=2).log_evidence)
        return np.array([z, z**2])

    single, single_square = expectation(one)
    assert square - z**2 == pytest.approx((single_square - single**2) / 2, abs=1e-12)


@program
def fragile(p):
    alive = p.sample(Bernoulli(0.3))
    p.condition(alive)
    return alive


def test_a_chain_that_dies_at_once_has_no_part_in_the_posterior_but_in_the_evidence(steered: Any) -> None:
    def found(rng: Choices) -> float:
        result = steered(rng, fragile(), particles=4, islands=2, algorithm="gibbs", sweeps=2)
        z = math.exp(result.log_evidence)
        assert math.isclose(np.exp(result.log_weights).sum(), z, abs_tol=1e-12)
        assert result.posterior() == ({True: pytest.approx(1.0)} if z > 0 else {}) and result.complete
        assert any("died" in warning for warning in result.warnings) == (z == 0 or len(result.samples) < 4)
        return z

    assert expectation(found) == pytest.approx(0.3, abs=1e-12)


# --- one program, five algorithms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", UNBIASED)
def test_a_program_has_one_posterior_under_every_algorithm(steered: Any, algorithm: Any) -> None:
    n = 1 if algorithm == "beam" else 2
    mean = expectation(lambda rng: masses(steered(rng, coins(), particles=n, algorithm=algorithm), list(COINS)))
    assert_is_target(mean, COINS)


# --- language models -----------------------------------------------------------------------------------------------


def test_best_of_n_of_a_language_model(steered: Any, tiny_lm: Any, monkeypatch: Any) -> None:
    """Texts are drawn without the mask; what breaks the pattern has weight zero."""
    remember(monkeypatch)
    lm, drawn = tiny_lm("a", "b", seed=3), set()
    target = truth(law(lm, "a", 1, "end"), lambda text: math.exp(0.7 * text.count("a")) * text.endswith("b"), lm)
    task = lm.prompt("a", max_tokens=1, at_limit="end")
    potentials = fk.regex("a?b"), fk.reward(lambda text: 0.7 * text.count("a"))

    def found(rng: Choices) -> np.ndarray:
        result = steered(rng, task, *potentials, particles=2, algorithm="best_of_n")
        drawn.update(result.samples)
        return masses(result, list(target))

    np.testing.assert_allclose(expectation(found), list(target.values()), rtol=FLOAT32, atol=1e-12)
    assert drawn == set(target)


def test_gibbs_over_a_language_model(steered: Any, tiny_lm: Any, monkeypatch: Any) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    target = truth(law(lm, "a", 1, "truncate"), lambda text: math.exp(0.7 * text.count("a")) * (text != "b"), lm)
    task, potentials = lm.prompt("a", max_tokens=1), (fk.regex("a?"), fk.reward(lambda text: 0.7 * text.count("a")))
    outcomes, start, step = kernel(task.constrain(potentials[:1]), product(*potentials), 2)
    pi = np.array([target[outcome] for outcome in outcomes])
    np.testing.assert_allclose(pi @ step, pi, rtol=FLOAT32)

    def found(rng: Choices) -> np.ndarray:
        result = steered(rng, task, *potentials, particles=2, algorithm="gibbs", sweeps=2)
        return np.array([*posterior(result, outcomes), math.exp(result.log_evidence)])

    *mean, z = expectation(found)
    np.testing.assert_allclose(mean, start @ step, rtol=FLOAT32)
    assert z == pytest.approx(pi.sum(), rel=FLOAT32)
