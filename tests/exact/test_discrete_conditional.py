"""Conditional SMC on canvases: the target is invariant for every kernel and proposal, by enumeration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from discrete_truth import Law, WildPotential, masked_law, uniform_law, unmask_law
from test_conditional import assert_invariant
from test_discrete import PROPOSALS, TIMELESS, WILD, K, NoBB, grid
from toys import Toy

from feynkac.base.errors import ArgumentError
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.path import Past, ReplayedDraws
from feynkac.potentials.discrete import Lookahead
from feynkac.smc.conditional import csmc, gibbs, sandwich
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial, never
from feynkac.smc.rng import Streams
from feynkac.smc.testing import enumerate_runs

KERNELS: dict[str, tuple[int, Any, Any, Law]] = {
    "masked": (2, MaskedNoise(2), WILD, masked_law(WILD.p, 2, K, grid(2))),
    "remasked": (1, MaskedNoise(3, remask=0.7), WILD, masked_law(WILD.p, 1, K, grid(3), 0.7)),
    "one by one": (2, Unmask(2), TIMELESS, unmask_law(TIMELESS.p, 2, K, 1, "random")),
    "surest first": (3, Unmask(3, 2, "confident"), WILD, unmask_law(WILD.p, 3, K, 2, "confident")),
    "uniform": (1, UniformNoise(2), WILD, uniform_law(WILD.p, 1, K, grid(2))),
}


def paths(model: DiscreteDiffusion, potential: Any) -> dict[Any, float]:
    """The target mass of every path that the model can take, drawn by its own law."""

    def run(rng: Any) -> tuple[Any, float]:
        *_, last = smc(model.with_proposal(PROPOSALS["base"](None, 0)), potential, n=1, resample=never, rng=rng)
        return model.trace(last.state, 0), float(np.exp(last.log_weight[0]))

    mass: dict[Any, float] = {}
    for p, (path, weight) in enumerate_runs(run):
        mass[path] = mass.get(path, 0.0) + p * weight
    return mass


def toy(kernel: str, proposal: str) -> tuple[Toy, Law]:
    length, steps, denoiser, law = KERNELS[kernel]
    potential = NoBB() if proposal == "guided" else WildPotential((1, 1, 0)[:length] if length > 1 else ())
    model = DiscreteDiffusion(denoiser, K, length, steps, proposal=PROPOSALS[proposal](potential, length))
    return Toy(model, potential, paths(model, potential)), {
        canvas: mass * math.exp(potential.score(canvas)) for canvas, mass in law.items()
    }


def ending(path: Any, length: int) -> tuple[int, ...]:
    canvas = [-1] * length
    for step in path:
        for place, token in step:
            canvas[place] = token
    return tuple(canvas)


@pytest.mark.parametrize("kernel", KERNELS)
def test_paths_end_in_the_canvases_of_the_law(kernel: str) -> None:
    problem, law = toy(kernel, "base")
    found: Law = dict.fromkeys(law, 0.0)
    for path, mass in problem.truth.items():
        found[ending(path, KERNELS[kernel][0])] += mass
    np.testing.assert_allclose(list(found.values()), list(law.values()), atol=1e-14)


@pytest.mark.parametrize(
    ("kernel", "proposal"),
    [
        ("masked", "base"),
        ("masked", "guided"),
        ("remasked", "base"),
        ("one by one", "locally optimal"),
        ("one by one", "guided"),
        ("surest first", "locally optimal"),
        ("uniform", "base"),
        ("uniform", "gradient"),
    ],
)
def test_the_target_is_invariant(kernel: str, proposal: str) -> None:
    assert_invariant(toy(kernel, proposal)[0], 2)


def test_the_target_is_invariant_under_guesses_that_are_drawn() -> None:
    model, potential = DiscreteDiffusion(TIMELESS, K, 1, MaskedNoise(2)), Lookahead(WildPotential(), samples=1)
    assert_invariant(Toy(model, potential, paths(model, potential.potential)), 2)


# --- mutants ---------------------------------------------------------------------------------------------------------


def test_mutant_the_reference_is_weighed_as_though_the_model_had_drawn_it(monkeypatch: pytest.MonkeyPatch) -> None:
    step = DiscreteDiffusion._step

    def unweighted(self: Any, t: int, state: Any, rng: Any, given: Any) -> Any:
        after, inc = step(self, t, state, rng, given)
        if given is not None:
            inc[0] = 0.0
        return after, inc

    problem = toy("one by one", "locally optimal")[0]
    monkeypatch.setattr(DiscreteDiffusion, "_step", unweighted)
    with pytest.raises(AssertionError, match="pi P - pi"):
        assert_invariant(problem, 2)


def test_mutant_a_fork_keeps_the_past_of_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = toy("one by one", "base")[0]
    then = Past.extend
    monkeypatch.setattr(Past, "extend", lambda self, parents, *drawn: then(self, np.arange(len(parents)), *drawn))
    with pytest.raises(AssertionError, match="pi P - pi"):
        assert_invariant(problem, 2)


def test_mutant_the_noise_of_the_reference_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = toy("uniform", "base")[0]
    replay = DiscreteDiffusion.replay

    def elsewhere(self: Any, t: int, state: Any, rng: Any, reference: Any) -> Any:
        here = tuple((place, int(state.tokens_now[0, place])) for place, _ in reference[0])
        return replay(self, t, state, rng, (here, *reference[1:]))

    monkeypatch.setattr(DiscreteDiffusion, "replay", elsewhere)
    with pytest.raises(AssertionError, match="pi P - pi"):
        assert_invariant(problem, 2)


# --- larger runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel", [MaskedNoise(6), MaskedNoise(6, remask=0.5), Unmask(4), UniformNoise(5)], ids=lambda k: type(k).__name__
)
def test_row_0_retraces_the_reference_through_forks(kernel: Any) -> None:
    model, potential = DiscreteDiffusion(TIMELESS, K, 4, kernel), WildPotential()
    for sweep in gibbs(model, potential, n=5, sweeps=4, rng=Streams(3), resample=multinomial):
        *_, last = csmc(model, potential, sweep.path, n=5, rng=Streams(4))
        assert model.trace(last.state, 0) == sweep.path
        np.testing.assert_array_equal(last.state.tokens_now[0], ending(sweep.path, 4))
        traced = [ending(model.trace(last.state, row), 4) for row in range(5)]
        np.testing.assert_array_equal(last.state.tokens_now, traced)


def test_replaying_does_not_change_what_the_other_rows_draw() -> None:
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(5), 6))
    rows = np.arange(6)
    drawn, replayed = (
        draws.categorical(log_p, rows)
        for draws in (
            Draws(Streams(1).at("propose", 0), 6, rows),
            ReplayedDraws(Streams(1).at("propose", 0), 6, rows, [4]),
        )
    )
    assert replayed[0] == 4
    np.testing.assert_array_equal(drawn[1:], replayed[1:])


def test_the_bounds_of_the_evidence_close() -> None:
    problem = toy("one by one", "locally optimal")[0]
    log_z = math.log(math.fsum(problem.truth.values()))
    likeliest = max(problem.truth, key=problem.truth.__getitem__)
    lower, upper = np.mean([
        sandwich(problem.model, problem.potential, likeliest, n=200, resample=multinomial, rng=Streams(seed))
        for seed in range(20)
    ], axis=0)  # fmt: skip
    assert abs(lower - log_z) < 0.05 and abs(upper - log_z) < 0.05


def test_a_path_of_another_model_is_refused() -> None:
    problem, other = toy("one by one", "base")[0], toy("surest first", "base")[0]
    with pytest.raises(ArgumentError, match="begins with 3 tokens on a canvas of 2"):
        list(csmc(problem.model, problem.potential, next(iter(other.truth)), n=2, rng=Streams(0)))
