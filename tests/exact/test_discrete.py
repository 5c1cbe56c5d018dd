"""Discrete diffusion is exact: E[Z_hat] = Z and E[sum w f] = Z E f for every kernel and proposal, by enumeration."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from discrete_truth import Law, WildDenoiser, WildPotential, masked_law, uniform_law, unmask_law
from toys import assert_equal_masses

from feynkac import steer
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete import acceptance, messages, proposals
from feynkac.models.discrete.acceptance import AutomatonGuided
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.automata import CanvasAutomaton
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.outputs import Outputs
from feynkac.models.discrete.proposals import Base, FirstOrder, LocallyOptimal, Unweighted, by_difference, by_gradient
from feynkac.models.discrete.schedules import cosine
from feynkac.potentials import product, regex, reward
from feynkac.potentials.constraints import tokenwise
from feynkac.potentials.discrete import Lookahead, tempered
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, multinomial, never, ssp, systematic
from feynkac.smc.rng import Streams
from feynkac.smc.testing import expectation

K = 2
WILD = WildDenoiser(K)
TIMELESS = WildDenoiser(K, time_independent=True)
AB = Vocabulary((b"a", b"b"))


def grid(steps: int, alpha: Any = lambda t: 1.0 - t) -> list[float]:
    return [0.0, *(alpha(1 - i / steps) for i in range(1, steps)), 1.0]


KERNELS = {
    "masked": (2, MaskedNoise(2), WILD, lambda: masked_law(WILD.p, 2, K, grid(2))),
    "masked, cosine": (2, MaskedNoise(2, cosine), TIMELESS, lambda: masked_law(TIMELESS.p, 2, K, grid(2, cosine))),
    "remasked": (2, MaskedNoise(3, remask=0.7), WILD, lambda: masked_law(WILD.p, 2, K, grid(3), 0.7)),
    "one by one": (2, Unmask(2), TIMELESS, lambda: unmask_law(TIMELESS.p, 2, K, 1, "random")),
    "two by two": (3, Unmask(3, 2), WILD, lambda: unmask_law(WILD.p, 3, K, 2, "random")),
    "from the left": (2, Unmask(2, order="left"), WILD, lambda: unmask_law(WILD.p, 2, K, 1, "left")),
    "surest first": (3, Unmask(3, order="confident"), WILD, lambda: unmask_law(WILD.p, 3, K, 1, "confident")),
    "uniform": (2, UniformNoise(2), WILD, lambda: uniform_law(WILD.p, 2, K, grid(2))),
}  # fmt: skip
SMALL = {
    "masked": (2, MaskedNoise(2), WILD, lambda: masked_law(WILD.p, 2, K, grid(2))),
    "remasked": (1, MaskedNoise(3, remask=0.7), WILD, lambda: masked_law(WILD.p, 1, K, grid(3), 0.7)),
    "one by one": (2, Unmask(2), TIMELESS, lambda: unmask_law(TIMELESS.p, 2, K, 1, "random")),
    "uniform": (1, UniformNoise(2), WILD, lambda: uniform_law(WILD.p, 1, K, grid(2))),
}


def quadratic(p: Any) -> Any:
    return (p[..., 1].sum(-1) - 1.2) ** 2


def no_bb(length: int) -> AutomatonGuided:
    """Sequences without two 1s in a row: states are the last token, and death."""
    return AutomatonGuided(
        CanvasAutomaton(np.array([[0, 1], [0, 2], [2, 2]]), np.array([True, True, False]), np.arange(K))
    )


PROPOSALS = {
    "base": lambda potential, length: Base(),
    "gradient": lambda potential, length: FirstOrder(by_gradient(quadratic, 0.8)),
    "difference": lambda potential, length: FirstOrder(by_difference(potential, worst=-2.0)),
    "locally optimal": lambda potential, length: LocallyOptimal(potential),
    "guided": lambda potential, length: no_bb(length),
}


def masses(model: Any, potential: Any, outcomes: list, n: int, resample: Any, rng: Any) -> np.ndarray:
    *_, last = smc(model, potential, n=n, resample=resample, rng=rng)
    found = dict.fromkeys(outcomes, 0.0)
    for outcome, log_w in zip(last.state.samples(np.arange(n)), last.log_weight, strict=True):
        if log_w > -np.inf:
            found[outcome] += math.exp(log_w)
    return np.array(list(found.values()))


def target(law: Law, score: Any) -> dict:
    return {canvas: mass * math.exp(score(canvas)) for canvas, mass in law.items()}


def assert_exact(model: Any, potential: Any, truth: dict, *, n: int = 1, resample: Any = never) -> None:
    mean = expectation(lambda rng: masses(model, potential, list(truth), n, resample, rng))
    assert_equal_masses(mean, np.array(list(truth.values())))


def problem(kernel: str, proposal: str, table: Any = KERNELS) -> tuple[Any, Any, dict]:
    length, steps, denoiser, law = table[kernel]
    # What the guided proposal cannot draw must have no mass.
    forbidden = (1,) * length if length == 2 else (1, 1, 0)
    potential = NoBB() if proposal == "guided" else WildPotential(forbidden)
    model = DiscreteDiffusion(denoiser, K, length, steps, proposal=PROPOSALS[proposal](potential, length))
    return model, potential, target(law(), potential.score)


class NoBB(WildPotential):
    def score(self, canvas: tuple[int, ...]) -> float:
        return -math.inf if (1, 1) in itertools.pairwise(canvas) else super().score(canvas)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_and_proposal(kernel: str, proposal: str) -> None:
    assert_exact(*problem(kernel, proposal))


RESAMPLERS = {
    "multinomial": multinomial,
    "systematic": systematic,
    "killing": killing,
    "adaptive": adaptive(ssp, ess=0.9),
}


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize(("kernel", "proposal"), [
    ("masked", "base"), ("masked", "guided"), ("remasked", "difference"), ("one by one", "locally optimal"),
    ("uniform", "gradient"), ("uniform", "guided"),
])  # fmt: skip
def test_with_two_particles_and_resampling(kernel: str, proposal: str, resampler: str) -> None:
    assert_exact(*problem(kernel, proposal, SMALL), n=2, resample=RESAMPLERS[resampler])


def scored(text: str) -> float:
    return 0.8 * text.count("b") - 0.3 * text.startswith("a")


def in_text(law: Law) -> dict[str, float]:
    return {"".join("ab"[x] for x in canvas): mass for canvas, mass in law.items()}


@pytest.mark.parametrize("kind", ["difference", "max", "sum"])
@pytest.mark.parametrize("samples", [None, 0, 1])
def test_the_kind_of_a_reward_never_changes_the_target(kind: Any, samples: int | None) -> None:
    # Rewards on the denoised estimate keep running values, and may draw completions: two steps, two particles.
    base = reward(scored, scale=1.5, kind=kind if samples is None else "difference")
    potential = base if samples is None else Lookahead(base, samples=samples, kind=kind, power=lambda t: 0.3 + t)
    model = DiscreteDiffusion(TIMELESS, AB, 1, MaskedNoise(3))
    truth = target(in_text(masked_law(TIMELESS.p, 1, K, grid(3))), lambda text: 1.5 * scored(text))
    assert_exact(model, potential, truth, n=2, resample=systematic)


@pytest.mark.parametrize("kernel", SMALL)
@pytest.mark.parametrize("tempering", [{"schedule": lambda t: 0.2 + t}, {"ess": 0.8}], ids=["schedule", "bisection"])
def test_tempering_never_changes_the_target(kernel: str, tempering: dict[str, Any]) -> None:
    length, steps, denoiser, law = SMALL[kernel]
    wild = WildPotential((1,) * length)
    model = DiscreteDiffusion(denoiser, K, length, steps)
    assert_exact(model, tempered(wild, **tempering), target(law(), wild.score), n=2, resample=systematic)


@pytest.mark.parametrize("kernel", SMALL)
@pytest.mark.parametrize("patterns", [["a|b?a?"], ["[ab]?|ba", "b*a?"]], ids=["one", "two"])
def test_regular_expressions_on_a_canvas(kernel: str, patterns: list[str]) -> None:
    # Zeros of a denoiser are no promises: a twist that believed them would lose mass here.
    length, steps, denoiser, law = SMALL[kernel]
    constraints = [regex(pattern) for pattern in patterns]
    model = DiscreteDiffusion(denoiser, AB, length, steps).constrain(constraints)
    assert isinstance(model.proposal, AutomatonGuided)
    truth = target(in_text(law()), lambda text: 0.0 if text in ("a", "ba", "b") else -math.inf)
    assert_exact(model, product(*constraints), truth, n=2, resample=systematic)


# --- zero variance ---------------------------------------------------------------------------------------------------

CHAIN_K, CHAIN_L = 4, 12
_rng = np.random.default_rng(7)
INITIAL, TRANSITION = _rng.dirichlet(np.ones(CHAIN_K)), _rng.dirichlet(np.full(CHAIN_K, 0.7), CHAIN_K)
EXACT = ChainDenoiser(INITIAL, TRANSITION)
ANYTHING = (np.zeros((1, CHAIN_K), np.int64), np.array([True]))
# An even number of 0s, and never a 3 straight after a 2: (parity, was it a 2), and death.
PARITY = np.array([[2 * 1 + 0, 0, 1, 0], [2, 0, 1, 4], [0, 2, 3, 2], [0, 2, 3, 4], [4, 4, 4, 4]])
PARITY_ACCEPTS = np.array([True, True, False, False, False])


class ExactTwist:
    """log E[exp(lambda #(3 then 1)) 1{accepted} | canvas] for the chain, by recursion over token and state."""

    def __init__(self, reward_scale: float, dfa: tuple[np.ndarray, np.ndarray]) -> None:
        self.bonus = np.ones((CHAIN_K, CHAIN_K))
        self.bonus[3, 1] = math.exp(reward_scale)
        self.delta, self.accept = dfa

    def mass(self, canvas: np.ndarray, *, steered: bool) -> float:
        """The chain's mass of all completions, as it is or weighted by the potential."""
        delta, accept = (self.delta, self.accept) if steered else ANYTHING
        now = np.zeros((CHAIN_K, len(delta)))
        for x in range(CHAIN_K):
            if canvas[0] in (x, CHAIN_K):
                now[x, delta[0, x]] += INITIAL[x]
        for seen in canvas[1:]:
            after = np.zeros_like(now)
            for x in range(CHAIN_K):
                if seen in (x, CHAIN_K):
                    bonus = self.bonus[:, x] if steered else 1.0
                    weights = (TRANSITION[:, x] * bonus) @ now
                    np.add.at(after[x], delta[:, x], weights)
            now = after
        return float((now * accept).sum())

    def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.array([
                np.log(self.mass(c, steered=True)) - np.log(self.mass(c, steered=False)) for c in state.tokens_now[rows]
            ])  # fmt: skip

    def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
        return self.level(0, state, rows)

    @property
    def log_z(self) -> float:
        return math.log(self.mass(np.full(CHAIN_L, CHAIN_K), steered=True))


@pytest.mark.parametrize("order", ["random", "left", "confident"])
@pytest.mark.parametrize("dfa", [ANYTHING, (PARITY, PARITY_ACCEPTS)], ids=["reward", "reward x dfa"])
def test_exact_twist_and_locally_optimal_proposal_have_no_variance(order: Any, dfa: tuple) -> None:
    # With one position a step the model's law is the chain's own, whatever the order.
    twist = ExactTwist(2.0, dfa)
    model = DiscreteDiffusion(EXACT, CHAIN_K, CHAIN_L, Unmask(CHAIN_L, order=order), proposal=LocallyOptimal(twist))
    for n, seed in ((1, 0), (1, 1), (4, 2), (16, 3)):
        *_, last = smc(model, twist, n=n, resample=adaptive(systematic), rng=Streams(seed))
        assert abs(last.log_z - twist.log_z) < 1e-8
        assert abs(last.ess - n) < 1e-8 * n


def test_the_zero_variance_of_the_twist_needs_the_proposal() -> None:
    twist = ExactTwist(2.0, ANYTHING)
    model = DiscreteDiffusion(EXACT, CHAIN_K, CHAIN_L, Unmask(CHAIN_L))
    *_, last = smc(model, twist, n=16, resample=never, rng=Streams(0))
    assert last.ess < 15


def test_the_exact_twist_agrees_with_brute_force() -> None:
    twist = ExactTwist(2.0, (PARITY, PARITY_ACCEPTS))
    total = 0.0
    for canvas in itertools.product(range(CHAIN_K), repeat=5):
        p = INITIAL[canvas[0]] * math.prod(TRANSITION[a, b] for a, b in itertools.pairwise(canvas))
        ok = canvas.count(0) % 2 == 0 and (2, 3) not in itertools.pairwise(canvas)
        total += p * math.exp(2.0 * list(itertools.pairwise(canvas)).count((3, 1))) * ok
    assert twist.mass(np.full(5, CHAIN_K), steered=True) == pytest.approx(total, rel=1e-12)


class Independent:
    """A denoiser of independent positions: its factorised posterior is the truth."""

    time_independent = True
    p = np.random.default_rng(3).dirichlet(np.ones(3), 8)

    def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
        return np.log(np.broadcast_to(self.p, (*tokens.shape, 3)))


ABC = Vocabulary((b"a", b"b", b""), (2,))


@pytest.mark.parametrize(
    "kernel", [MaskedNoise(4), MaskedNoise(1), Unmask(8), Unmask(8, 3)], ids=lambda k: type(k).__name__
)
def test_a_regex_over_independent_positions_has_no_variance(kernel: Any) -> None:
    constraints = [regex("(ab|ba)*b?"), regex("b.*|.{0,5}")]
    law = {
        canvas: math.prod(Independent.p[j, x] for j, x in enumerate(canvas))
        for canvas in itertools.product(range(3), repeat=8)
    }
    texts = {canvas: "".join("ab"[x] for x in itertools.takewhile(lambda x: x < 2, canvas)) for canvas in law}
    log_z = math.log(sum(
        mass for canvas, mass in law.items()
        if re.fullmatch("(ab|ba)*b?", texts[canvas]) and re.fullmatch("b.*|.{0,5}", texts[canvas])
    ))  # fmt: skip
    for n, seed in ((1, 0), (8, 1)):
        result = steer(DiscreteDiffusion(Independent(), ABC, 8, kernel), *constraints, particles=n, seed=seed)
        assert abs(result.log_evidence - log_z) < 1e-8
        assert abs(result.ess - n) < 1e-8 * n


@pytest.mark.parametrize("order", ["random", "left", "confident"])
def test_regular_expressions_over_a_markov_chain_have_no_variance(order: Any) -> None:
    # The denoiser tells how neighbours depend on each other, and the model's law is the chain's own.
    constraints = [regex("([^a]*a[^a]*a)*[^a]*"), regex("([^c]|c+[^cd])*c*")]
    parity_and_last = {(x, int(x == 0)): INITIAL[x] for x in range(CHAIN_K)}
    for _ in range(CHAIN_L - 1):
        after: dict[tuple[int, int], float] = {}
        for (x, odd), mass in parity_and_last.items():
            for y in range(CHAIN_K):
                if (x, y) != (2, 3):
                    key = y, odd ^ (y == 0)
                    after[key] = after.get(key, 0.0) + mass * TRANSITION[x, y]
        parity_and_last = after
    log_z = math.log(sum(mass for (_, odd), mass in parity_and_last.items() if not odd))
    model = DiscreteDiffusion(EXACT, Vocabulary((b"a", b"b", b"c", b"d")), CHAIN_L, Unmask(CHAIN_L, order=order))
    for n, seed in ((1, 0), (1, 1), (8, 2)):
        result = steer(model, *constraints, particles=n, seed=seed)
        assert abs(result.log_evidence - log_z) < 1e-8
        assert abs(result.ess - n) < 1e-8 * n


class WildChain(WildDenoiser):
    """Tells of its neighbours what has nothing to do with what it says of positions, zeros included."""

    def transitions(self, tokens: np.ndarray, t: float) -> np.ndarray:
        n, length = tokens.shape
        p = np.random.default_rng([5, n, round(1000 * t)]).dirichlet(np.ones(self.k), (n, length - 1, self.k))
        p[:, :, 0] = [0.0, 1.0]
        with np.errstate(divide="ignore"):
            return np.log(p)


TALKATIVE = WildChain(K, seed=4)
CHAINED = {
    "masked": (MaskedNoise(2), lambda: masked_law(TALKATIVE.p, 2, K, grid(2))),
    "one by one": (Unmask(2), lambda: unmask_law(TALKATIVE.p, 2, K, 1, "random")),
    "remasked": (MaskedNoise(3, remask=0.5), lambda: masked_law(TALKATIVE.p, 2, K, grid(3), 0.5)),
}


@pytest.mark.parametrize("kernel", CHAINED)
@pytest.mark.parametrize("pattern", ["a[ab]", "ab|b", "ba?|aa"])
def test_what_a_denoiser_tells_of_neighbours_only_guides(kernel: str, pattern: str) -> None:
    steps, law = CHAINED[kernel]
    constraint = regex(pattern)
    model = DiscreteDiffusion(TALKATIVE, AB, 2, steps).constrain([constraint])
    truth = target(in_text(law()), lambda text: 0.0 if re.fullmatch(pattern, text) else -math.inf)
    n = 1 if kernel == "remasked" else 2
    assert_exact(model, constraint, truth, n=n, resample=systematic)


def test_mutant_the_zeros_between_neighbours_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = regex("aa|b[ab]")
    model = DiscreteDiffusion(TALKATIVE, AB, 2, Unmask(2)).constrain([constraint])
    law = unmask_law(TALKATIVE.p, 2, K, 1, "random")
    truth = target(in_text(law), lambda text: 0.0 if re.fullmatch("aa|b[ab]", text) else -math.inf)
    assert_exact(model, constraint, truth)
    monkeypatch.setattr(acceptance, "UNLIKELY", 0.0)
    fails(model, constraint, truth)


def test_mutant_a_token_that_may_be_masked_again_is_believed_to_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = regex("a[ab]")
    model = DiscreteDiffusion(WILD, AB, 2, MaskedNoise(3, remask=0.5)).constrain([constraint])
    law = masked_law(WILD.p, 2, K, grid(3), 0.5)
    truth = target(in_text(law), lambda text: 0.0 if text.startswith("a") else -math.inf)
    assert_exact(model, constraint, truth)
    weights = messages.FactorisedMessages.weights

    def believed(self: Any, *args: Any) -> np.ndarray:
        kept, self.redraw_chance = self.redraw_chance, 0.0
        result = weights(self, *args)
        self.redraw_chance = kept
        return result

    monkeypatch.setattr(messages.FactorisedMessages, "weights", believed)
    fails(model, constraint, truth)


# --- the laws themselves ---------------------------------------------------------------------------------------------

SMALL_CHAIN = ChainDenoiser(np.array([0.3, 0.7]), np.array([[0.2, 0.8], [1.0, 0.0]]))


def chain_law(length: int) -> Law:
    return {
        canvas: SMALL_CHAIN.initial[canvas[0]]
        * math.prod(SMALL_CHAIN.transition[a, b] for a, b in itertools.pairwise(canvas))
        for canvas in itertools.product(range(K), repeat=length)
    }


@pytest.mark.parametrize("order", ["random", "left", "confident"])
def test_one_by_one_the_law_is_that_of_the_chain(order: Any) -> None:
    class Free:
        def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
            return np.zeros(len(rows))

        def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
            return np.zeros(len(rows))

    assert_exact(DiscreteDiffusion(SMALL_CHAIN, K, 3, Unmask(3, order=order)), Free(), chain_law(3))


@pytest.mark.parametrize("uniform", [False, True])
def test_the_chain_denoiser_is_the_posterior(uniform: bool) -> None:
    chain = ChainDenoiser(SMALL_CHAIN.initial, SMALL_CHAIN.transition, uniform=uniform)
    law, t = chain_law(3), 0.4
    for seen in itertools.product(range(K if uniform else K + 1), repeat=3):
        emission = [[0.6 * (x == s) + 0.4 / K if uniform else float(s in (x, K)) for s in seen for x in range(K)]][0]
        joint = {c: m * math.prod(emission[j * K + x] for j, x in enumerate(c)) for c, m in law.items()}
        if not (z := sum(joint.values())):
            continue
        marginals = [[sum(m for c, m in joint.items() if c[j] == x) / z for x in range(K)] for j in range(3)]
        told = np.exp(chain.log_probs(np.array([seen]), t))[0]
        np.testing.assert_allclose(told, marginals, atol=1e-14)
        pairs = np.exp(chain.transitions(np.array([seen]), t))[0]
        for x, y, j in itertools.product(range(K), range(K), range(2)):
            both = sum(m for c, m in joint.items() if c[j : j + 2] == (x, y)) / z
            assert both == pytest.approx(told[j, x] * pairs[j, x, y], abs=1e-14)


def test_uniform_diffusion_whose_schedule_ends_early_leaves_all_as_it_stands() -> None:
    """From alpha = 1 on a step must not move, nor weigh, whatever the denoiser thinks of what stands there."""
    potential = WildPotential((1, 1))
    early = UniformNoise(4, lambda t: min(1.0, 2.0 * (1.0 - t)))
    model = DiscreteDiffusion(TIMELESS, K, 2, early, proposal=LocallyOptimal(potential))
    assert_exact(model, potential, target(uniform_law(TIMELESS.p, 2, K, grid(2)), potential.score))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_uniform_diffusion_of_one_token_is_exact_for_any_number_of_steps(steps: int) -> None:
    chain = ChainDenoiser(SMALL_CHAIN.initial, SMALL_CHAIN.transition, uniform=True)
    law = uniform_law(lambda c, t: np.exp(chain.log_probs(np.array([c]), t))[0], 1, K, grid(steps))
    np.testing.assert_allclose([law[0,], law[1,]], SMALL_CHAIN.initial, atol=1e-14)


def test_the_law_of_acceptance_is_exact() -> None:
    automaton = CanvasAutomaton(PARITY, PARITY_ACCEPTS, np.arange(CHAIN_K))
    p = np.random.default_rng(5).dirichlet(np.ones(CHAIN_K), (3, 5))
    p[1, 2] = [0.0, 0.0, 1.0, 0.0]
    _, log_p = automaton.backward(p)
    sequences = np.array(list(itertools.product(range(CHAIN_K), repeat=5)))
    accepted = sequences[automaton.accepts(sequences)]
    truth = np.prod(p[:, np.arange(5), accepted], axis=2).sum(axis=1)
    np.testing.assert_allclose(np.exp(log_p), truth, rtol=1e-13)


# --- mutants ---------------------------------------------------------------------------------------------------------


def fails(model: Any, potential: Any, truth: dict, **options: Any) -> None:
    with pytest.raises(AssertionError, match="bias of f"):
        assert_exact(model, potential, truth, **options)


@pytest.mark.parametrize("proposal", ["gradient", "difference", "locally optimal", "guided"])
def test_mutant_the_ratio_of_the_proposal_is_dropped(proposal: str) -> None:
    model, potential, truth = problem("masked", proposal)
    fails(model.with_proposal(Unweighted(model.proposal)), potential, truth)


def test_mutant_the_denoiser_is_told_the_noise_of_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # SVDD's baseline evaluates x_t at sigma_s.
    monkeypatch.setattr(MaskedNoise, "noise_level", lambda self, i: 1.0 - (i + 1) / self.steps)
    fails(*problem("masked", "base"))


def test_mutant_answers_are_kept_for_a_denoiser_that_uses_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Outputs, "drop_stale", lambda self, changed: replace(self, slot=np.where(changed, -1, self.slot))
    )
    fails(*problem("masked", "base"))


def test_mutant_answers_stay_with_their_slot_when_particles_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    # DAS re-indexes latents but not twists.
    monkeypatch.setattr(Outputs, "fork", lambda self, rows: self)
    model, potential, truth = problem("masked", "base", SMALL)
    model = DiscreteDiffusion(TIMELESS, K, 2, MaskedNoise(2))
    truth = target(masked_law(TIMELESS.p, 2, K, grid(2)), potential.score)

    class Asking(WildPotential):
        def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
            state.log_probs(rows)
            return super().level(t, state, rows)

    fails(model, Asking(potential.forbidden), truth, n=2, resample=multinomial)


def test_mutant_remasking_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = MaskedNoise.rates

    def plain(self: MaskedNoise, i: int) -> tuple[float, float]:
        at, to = self._alpha[i], self._alpha[i + 1]
        return (to - at) / (1.0 - at), rates(self, i)[1]

    monkeypatch.setattr(MaskedNoise, "rates", plain)
    fails(*problem("remasked", "base"))


def test_mutant_the_tokens_shown_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    # The guided proposal draws each position as though the others were still open.
    monkeypatch.setattr(messages, "forward", lambda alpha, pc, delta: np.ones_like(alpha) * [1.0, 1.0, 0.0])
    model, potential, truth = problem("masked", "guided")
    assert_exact(model, potential, truth)  # a worse proposal, but its ratio is the one of what it did draw
    monkeypatch.setattr(acceptance, "_pick", lambda log_p, drawn: np.zeros(len(drawn)))
    fails(model, potential, truth)


def test_mutant_a_level_on_the_way_excludes_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # A final score of sequences that have only been redrawn in part promises nothing.
    assert_exact(*problem("uniform", "locally optimal"))
    monkeypatch.setattr(proposals, "_SUSPENDED", np.inf)
    fails(*problem("uniform", "locally optimal"))


def test_mutant_the_estimate_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    # A constraint that looks at the likeliest completion as though it were a prefix kills rows that can be saved.
    monkeypatch.setattr(Canvas, "states", lambda self, constraint, rows: None)
    monkeypatch.setattr(tokenwise, "ForeseesAcceptance", type(None))
    length, steps, denoiser, law = SMALL["masked"]
    truth = target(in_text(law()), lambda text: 0.0 if text in ("ab", "ba") else -math.inf)
    fails(DiscreteDiffusion(denoiser, AB, length, steps), regex("ab|ba"), truth)


@pytest.mark.parametrize("kind", ["max", "sum"])
def test_mutant_the_folded_level_ends_the_run(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # FK-Steering's code: the target becomes exp(max r) or exp(sum r).
    potential = Lookahead(reward(lambda text: -scored(text)), samples=0, kind=kind)
    model = DiscreteDiffusion(TIMELESS, AB, 1, MaskedNoise(3))
    truth = target(in_text(masked_law(TIMELESS.p, 1, K, grid(3))), lambda text: -scored(text))
    assert_exact(model, potential, truth)
    monkeypatch.setattr(Lookahead, "final", lambda self, state, rows: self.level(0, state, rows))
    fails(model, potential, truth)


class Changing(WildDenoiser):
    """Rules out on an empty canvas what it thinks possible later."""

    def p(self, canvas: tuple[int, ...], t: float) -> np.ndarray:
        p = super().p(canvas, t)
        if min(canvas) == self.k:
            p[0] = [0.0, 1.0]
        return p


def test_mutant_the_zeros_of_a_denoiser_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, constraint = Changing(K, zeros=False, time_independent=True), regex("a[ab]")
    model = DiscreteDiffusion(denoiser, AB, 2, MaskedNoise(3)).constrain([constraint])
    truth = target(
        in_text(masked_law(denoiser.p, 2, K, grid(3))), lambda text: 0.0 if text.startswith("a") else -math.inf
    )
    assert_exact(model, constraint, truth)
    monkeypatch.setattr(acceptance, "UNLIKELY", 0.0)
    fails(model, constraint, truth)


def test_mutant_completions_without_mass_are_a_promise() -> None:
    length, steps, denoiser, law = SMALL["masked"]
    truth = target(in_text(law()), lambda text: 0.0 if text == "ba" else -math.inf)
    model, potential = DiscreteDiffusion(denoiser, AB, length, steps), Lookahead(regex("ba"), samples=1)
    assert_exact(model, potential, truth)
    potential.worst = -math.inf
    fails(model, potential, truth)
