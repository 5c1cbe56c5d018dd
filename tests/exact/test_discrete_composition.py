"""Products, powers and guidance of experts on canvases: the declared law, by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from discrete_truth import Law, WildDenoiser, WildPotential, masked_law, unmask_law
from test_discrete import PROPOSALS, assert_exact, fails, grid, target

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.discrete import composition, model as model_module
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.composition import Composition, anneal, guide, multiply
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, ssp, systematic
from feynkac.smc.rng import Streams

K = 2
ONE, TWO = (WildDenoiser(K, seed, zeros=False) for seed in (1, 2))
COMPOSITIONS = {
    "annealed": anneal(ONE, 2.5),
    "flattened": anneal(ONE, 0.4),
    "product": multiply(ONE, TWO),
    "guidance": guide(ONE, TWO, 1.8),
    "between": guide(ONE, TWO, 0.3),
}


def powered(experts: Composition) -> Callable:
    """(L, K) the unnormalised product of the experts' probabilities."""
    return lambda c, t: math.prod(e.p(c, t) ** beta for e, beta in zip(experts.experts, experts.powers, strict=True))


def uniform_composed(experts: Composition, length: int, alpha: list[float]) -> Law:
    """F(path | x)^(1 - B) prod_i P_i(path)^beta_i added up over the paths to each x, for uniform noise."""
    steps, canvases = len(alpha) - 1, list(itertools.product(range(K), repeat=length))
    rest, now = 1.0 - sum(experts.powers), dict.fromkeys(canvases, (K**-length) ** sum(experts.powers))

    def noisy(clean: int, seen: int, a: float) -> float:
        return a * (clean == seen) + (1 - a) / K

    for i in range(steps):
        at, to = alpha[i], alpha[i + 1]
        after = dict.fromkeys(canvases, 0.0)
        for canvas, new in itertools.product(canvases, canvases):
            mass = now[canvas]
            for expert, beta in zip(experts.experts, experts.powers, strict=True):
                p = np.exp(expert.log_probs(np.array([canvas]), 1 - i / steps))[0]
                for j, (x, s) in enumerate(zip(canvas, new, strict=True)):
                    mass *= (
                        sum(
                            p[j][c] * noisy(s, x, at / to) * noisy(c, s, to) / noisy(c, x, at)
                            for c in range(K)
                            if p[j][c]
                        )
                        ** beta
                    )
            after[new] += mass * math.prod(noisy(s, x, at / to) for x, s in zip(canvas, new, strict=True)) ** rest
        now = after
    return now


KERNELS: dict[str, tuple[int, Any, Callable[[Composition], Law]]] = {
    "masked": (2, MaskedNoise(2), lambda e: masked_law(powered(e), 2, K, grid(2))),
    "one by one": (2, Unmask(2), lambda e: unmask_law(powered(e), 2, K, 1, "random")),
    "two by two": (3, Unmask(3, 2), lambda e: unmask_law(powered(e), 3, K, 2, "random")),
    "from the left": (3, Unmask(3, order="left"), lambda e: unmask_law(powered(e), 3, K, 1, "left")),
    "uniform": (2, UniformNoise(2), lambda e: uniform_composed(e, 2, grid(2))),
    "uniform in three steps": (1, UniformNoise(3), lambda e: uniform_composed(e, 1, grid(3))),
}


@pytest.mark.parametrize("experts", COMPOSITIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_law_is_the_one_declared_for_any_denoisers(kernel: str, experts: str) -> None:
    length, steps, law = KERNELS[kernel]
    potential = WildPotential((1,) * length)
    truth = target(law(COMPOSITIONS[experts]), potential.score)
    assert_exact(DiscreteDiffusion(COMPOSITIONS[experts], K, length, steps), potential, truth)


@pytest.mark.parametrize("proposal", ["base", "gradient", "locally optimal"])
@pytest.mark.parametrize("kernel", ["one by one", "uniform in three steps"])
def test_with_proposals_and_resampling(kernel: str, proposal: str) -> None:
    length, steps, law = KERNELS[kernel]
    steps = UniformNoise(2) if isinstance(steps, UniformNoise) else steps
    experts, potential = COMPOSITIONS["guidance"], WildPotential((1,) * length)
    law_of = uniform_composed(experts, 1, grid(2)) if isinstance(steps, UniformNoise) else law(experts)
    model = DiscreteDiffusion(experts, K, length, steps, proposal=PROPOSALS[proposal](potential, length))
    assert_exact(model, potential, target(law_of, potential.score), n=2, resample=systematic)


# --- consistent denoisers: the product of the final laws --------------------------------------------------------------


def chains(*, uniform: bool = False, zeros: bool = True) -> list[ChainDenoiser]:
    never = 0.0 if zeros else 0.1
    first = ChainDenoiser(np.array([0.3, 0.7]), np.array([[0.2, 0.8], [1.0 - never, never]]), uniform=uniform)
    return [first, ChainDenoiser(np.array([0.6, 0.4]), np.array([[0.5, 0.5], [0.9, 0.1]]), uniform=uniform)]


def of_chains(experts: Composition, length: int) -> Law:
    """prod_i p_i(x)^beta_i."""

    def p(chain: Any, canvas: tuple[int, ...]) -> float:
        return chain.initial[canvas[0]] * math.prod(chain.transition[a, b] for a, b in itertools.pairwise(canvas))

    return {
        canvas: math.prod(p(e, canvas) ** beta for e, beta in zip(experts.experts, experts.powers, strict=True))
        for canvas in itertools.product(range(K), repeat=length)
    }


OF_CHAINS = {
    "annealed": lambda **kind: anneal(chains(**kind)[0], 3.0),
    "flattened": lambda **kind: anneal(chains(**kind)[0], 0.5),
    "product": lambda **kind: multiply(*chains(**kind)),
    "guidance": lambda **kind: guide(*chains(**kind), 2.5),
    "between": lambda **kind: guide(*chains(**kind), 0.4),
}


@pytest.mark.parametrize("order", ["random", "left", "confident"])
@pytest.mark.parametrize("experts", OF_CHAINS)
def test_one_by_one_the_law_is_the_product_of_the_final_laws(experts: str, order: Any) -> None:
    composed, potential = OF_CHAINS[experts](), WildPotential()
    truth = target(of_chains(composed, 3), potential.score)
    assert_exact(DiscreteDiffusion(composed, K, 3, Unmask(3, order=order)), potential, truth)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("experts", OF_CHAINS)
def test_of_one_uniform_token_the_law_is_the_product_of_the_final_laws(experts: str, steps: int) -> None:
    composed, potential = OF_CHAINS[experts](uniform=True), WildPotential()
    truth = target(of_chains(composed, 1), potential.score)
    assert_exact(DiscreteDiffusion(composed, K, 1, UniformNoise(steps)), potential, truth)


@pytest.mark.parametrize("experts", ["product", "guidance", "between"])
def test_uniform_diffusion_comes_to_the_product_of_the_final_laws_with_the_steps(experts: str) -> None:
    composed = OF_CHAINS[experts](uniform=True, zeros=False)
    truth = of_chains(composed, 2)
    errors = [
        sum(abs(law[canvas] - truth[canvas]) for canvas in truth)
        for law in (uniform_composed(composed, 2, grid(steps)) for steps in (32, 64, 128))
    ]
    rates = np.log2(errors[:-1]) - np.log2(errors[1:])
    assert (np.abs(rates - 1.0) < 0.1).all(), f"errors {errors} fall at the rates {rates}, not 1"


def test_a_power_of_one_is_the_expert_itself() -> None:
    alone, composed = (DiscreteDiffusion(d, K, 3, Unmask(3)) for d in (ONE, anneal(ONE, 1.0)))
    last = [list(smc(m, WildPotential(), n=8, resample=adaptive(ssp), rng=Streams(0)))[-1] for m in (alone, composed)]
    np.testing.assert_array_equal(last[0].state.tokens_now, last[1].state.tokens_now)
    np.testing.assert_allclose(last[0].log_weight, last[1].log_weight, atol=1e-12)


def test_every_expert_is_counted_and_asked_once_for_each_canvas() -> None:
    experts = [WildDenoiser(K, seed, time_independent=True) for seed in (1, 2)]
    composed = multiply(*experts)
    *_, last = smc(DiscreteDiffusion(composed, K, 3, Unmask(3)), WildPotential(), n=4, resample=ssp, rng=Streams(0))
    assert composed.time_independent
    assert experts[0].asked == experts[1].asked
    assert last.state.forwarded == [2 * 3 * len(experts[0].asked)]


# --- mutants and errors ----------------------------------------------------------------------------------------------


def composed_problem(kernel: str, experts: str = "annealed") -> tuple[Any, Any, dict]:
    length, steps, law = KERNELS[kernel]
    potential = WildPotential((1,) * length)
    return (
        DiscreteDiffusion(COMPOSITIONS[experts], K, length, steps),
        potential,
        target(law(COMPOSITIONS[experts]), potential.score),
    )


@pytest.mark.parametrize("kernel", ["masked", "uniform"])
def test_mutant_without_weights(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "sum_normalisers", lambda log_c, moved: np.zeros(len(moved)))
    fails(*composed_problem(kernel))


def test_mutant_weights_are_clamped(monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference code of Feynman-Kac correctors clamps.
    exact = composition.sum_normalisers
    monkeypatch.setattr(model_module, "sum_normalisers", lambda log_c, moved: np.clip(exact(log_c, moved), -0.3, 0.3))
    fails(*composed_problem("masked"))


def test_mutant_positions_that_stay_hidden_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "sum_normalisers", lambda log_c, moved: log_c.sum(axis=1))
    fails(*composed_problem("masked"))


def test_mutant_the_noise_is_raised_to_the_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniformNoise, "log_noise", lambda self, i, tokens, k: None)
    fails(*composed_problem("uniform"))


def test_mutant_the_first_canvas_is_not_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniformNoise, "log_blank", lambda self, length, k: 0.0)
    fails(*composed_problem("uniform"))


class Never:
    """Rules token 0 out."""

    time_independent = True

    def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
        return np.broadcast_to([-np.inf, 0.0], (*tokens.shape, 2))


def test_a_dead_end_dies_and_an_infinite_weight_is_an_error() -> None:
    class Always(Never):
        def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
            return super().log_probs(tokens, t)[..., ::-1]

    *_, last = smc(
        DiscreteDiffusion(multiply(Never(), Always()), K, 2, Unmask(2)),
        WildPotential(), n=3, resample=ssp, rng=Streams(0),
    )  # fmt: skip
    assert last.log_z == -math.inf
    model = DiscreteDiffusion(guide(ONE, Never(), 2.0), K, 2, Unmask(2))
    with pytest.raises(ModelError, match="negative power rules out a token that the others allow"):
        list(smc(model, WildPotential(), n=3, resample=ssp, rng=Streams(0)))
    both = DiscreteDiffusion(guide(Never(), Never(), 2.0), K, 2, Unmask(2))
    *_, last = smc(both, WildPotential(), n=3, resample=ssp, rng=Streams(0))
    assert (last.state.tokens_now == 1).all()


def test_what_has_no_corrector_is_refused() -> None:
    with pytest.raises(ArgumentError, match="add up to 0"):
        Composition((ONE, 1.0), (TWO, -1.0))
    with pytest.raises(ArgumentError, match="no corrector for tokens that are masked again"):
        DiscreteDiffusion(anneal(ONE, 2.0), K, 2, MaskedNoise(3, remask=0.5))
