"""Laws of which only the likeliest tokens are kept are exact: every token is drawn as often as p says."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from discrete_truth import Law, WildDenoiser, WildPotential, masked_law, unmask_law
from test_conditional import assert_invariant
from test_discrete import assert_exact, grid, target
from test_discrete_conditional import paths
from toys import Toy

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete import ranked
from feynkac.models.discrete.acceptance import AutomatonGuided
from feynkac.models.discrete.automata import CanvasAutomaton
from feynkac.models.discrete.composition import anneal
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import Base, FirstOrder, LocallyOptimal, Unweighted, by_difference
from feynkac.potentials import product, regex, reward
from feynkac.potentials.discrete import Lookahead
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial, never, systematic
from feynkac.smc.rng import Streams

K = 3
ABC = Vocabulary((b"a", b"b", b"c"))


class Ranked:
    """A denoiser of which `top` tokens of each position are told; `looked` are the canvases that it saw again."""

    def __init__(self, whole: WildDenoiser, top: int) -> None:
        self.whole, self.n_ranked, self.time_independent = whole, top, whole.time_independent
        self.looked: list[tuple[int, ...]] = []

    def rank(self, tokens: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        log_p = self.whole.log_probs(tokens, t)
        order = np.argsort(-log_p, axis=-1, kind="stable")
        near, others = order[..., : self.n_ranked], order[..., self.n_ranked :]
        hidden = tokens == self.whole.k
        likeliest = np.where(hidden[..., None], near, tokens[..., None])
        seen = np.r_[0.0, np.full(self.n_ranked - 1, -np.inf)]
        return (
            likeliest,
            np.where(hidden[..., None], np.take_along_axis(log_p, near, -1), seen),
            np.where(hidden, np.logaddexp.reduce(np.take_along_axis(log_p, others, -1), axis=-1), -np.inf),
        )

    def log_probs_at(self, tokens: np.ndarray, t: float, places: np.ndarray) -> np.ndarray:
        self.looked += [tuple(canvas) for canvas in tokens.tolist()]
        return self.whole.log_probs(tokens, t)[np.arange(len(tokens)), places]


WILD = WildDenoiser(K)
TIMELESS = WildDenoiser(K, time_independent=True)
KERNELS: dict[str, tuple[int, Any, WildDenoiser, Callable[[], Law]]] = {
    "masked": (2, MaskedNoise(2), WILD, lambda: masked_law(WILD.p, 2, K, grid(2))),
    "remasked": (1, MaskedNoise(3, remask=0.7), WILD, lambda: masked_law(WILD.p, 1, K, grid(3), 0.7)),
    "one by one": (2, Unmask(2), TIMELESS, lambda: unmask_law(TIMELESS.p, 2, K, 1, "random")),
    "two by two": (2, Unmask(2, 2), WILD, lambda: unmask_law(WILD.p, 2, K, 2, "random")),
    "surest first": (2, Unmask(2, order="confident"), WILD, lambda: unmask_law(WILD.p, 2, K, 1, "confident")),
}  # fmt: skip


class NoBB(WildPotential):
    def score(self, canvas: tuple[int, ...]) -> float:
        return -math.inf if (1, 1) in itertools.pairwise(canvas) else super().score(canvas)


NOT_B = CanvasAutomaton(np.array([[0, 1], [1, 1]]), np.array([True, False]), np.arange(2))
NO_BB = AutomatonGuided(
    CanvasAutomaton(np.array([[0, 1, 0], [0, 2, 0], [2, 2, 2]]), np.array([True, True, False]), np.arange(K))
)


def problem(kernel: str, proposal: str, top: int) -> tuple[DiscreteDiffusion, Any, dict]:
    length, steps, denoiser, law = KERNELS[kernel]
    potential = NoBB() if proposal == "guided" else WildPotential((2, 1)[:length])
    drawn = NO_BB if proposal == "guided" else Base()
    model = DiscreteDiffusion(Ranked(denoiser, top), K, length, steps, proposal=drawn)
    return model, potential, target(law(), potential.score)


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("proposal", ["base", "guided"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_token_is_drawn_as_often_as_the_whole_law_says(kernel: str, proposal: str, top: int) -> None:
    assert_exact(*problem(kernel, proposal, top))


@pytest.mark.parametrize("proposal", [Base(), NO_BB], ids=["base", "guided"])
def test_with_two_particles_and_resampling(proposal: Any) -> None:
    model = DiscreteDiffusion(Ranked(TIMELESS, 1), K, 1, Unmask(1), proposal=proposal)
    potential = WildPotential()
    truth = target(unmask_law(TIMELESS.p, 1, K, 1, "random"), potential.score)
    assert_exact(model, potential, truth, n=2, resample=multinomial)


@pytest.mark.parametrize("patterns", [["a|bc?|c[ab]"], ["[abc]?|b[ac]|c.", "a|b.?|.[ab]"]], ids=["one", "two"])
@pytest.mark.parametrize("kernel", ["masked", "remasked", "one by one"])
def test_regular_expressions_guide_the_likeliest_and_the_others(kernel: str, patterns: list[str]) -> None:
    length, steps, denoiser, law = KERNELS[kernel]
    constraints = [regex(pattern) for pattern in patterns]
    model = DiscreteDiffusion(Ranked(denoiser, 1), ABC, length, steps).constrain(constraints)
    assert isinstance(model.proposal, AutomatonGuided)
    texts = {"".join("abc"[x] for x in canvas): mass for canvas, mass in law().items()}
    met = {text: all(re.fullmatch(each, text) for each in patterns) for text in texts}
    assert 0 < sum(met.values()) < len(met)
    assert_exact(model, product(*constraints), target(texts, lambda text: 0.0 if met[text] else -math.inf))


@pytest.mark.parametrize("samples", [0, 1])
def test_completions_of_the_likeliest_tokens_never_change_the_target(samples: int) -> None:
    potential = Lookahead(reward(lambda text: text.count("c") - 0.5 * text.count("b")), samples=samples)
    model = DiscreteDiffusion(Ranked(TIMELESS, 2), ABC, 1, MaskedNoise(2))
    law = masked_law(TIMELESS.p, 1, K, grid(2))
    truth = target({"abc"[x]: mass for (x,), mass in law.items()}, lambda text: {"a": 0.0, "b": -0.5, "c": 1.0}[text])
    assert_exact(model, potential, truth, n=2, resample=systematic)


@pytest.mark.parametrize("proposal", [Base(), AutomatonGuided(NOT_B)], ids=["base", "guided"])
def test_conditional_smc_leaves_the_target_as_it_is(proposal: Any) -> None:
    model = DiscreteDiffusion(Ranked(WildDenoiser(2), 1), 2, 1, MaskedNoise(2), proposal=proposal)
    potential = WildPotential(() if isinstance(proposal, Base) else (1,))
    assert_invariant(Toy(model, potential, paths(model, potential)), 2)


@pytest.mark.parametrize("proposal", [Base(), NO_BB], ids=["base", "guided"])
def test_a_path_on_which_tokens_are_masked_again_is_walked_again(proposal: Any) -> None:
    model = DiscreteDiffusion(Ranked(WILD, 1), K, 3, MaskedNoise(6, remask=0.9), proposal=proposal)
    for seed in range(8):
        *_, last = smc(model, WildPotential(), n=4, resample=never, rng=Streams(seed))
        path, streams = model.trace(last.state, 2), Streams(99)
        assert any(token == K for step in path[1:] for _, token in step) or seed
        state = model.init(4, streams.at("init", 0))
        for t in range(6):
            state, _ = model.replay(t, state, streams.at("propose", t), path)
        assert model.trace(state, 0) == path


def test_the_denoiser_is_asked_again_only_where_another_token_is_drawn() -> None:
    denoiser = Ranked(WildDenoiser(40, time_independent=True), 30)
    model = DiscreteDiffusion(denoiser, 40, 4, Unmask(4))
    n = 200
    *_, last = smc(model, WildPotential(), n=n, resample=never, rng=Streams(0))
    # With flat Dirichlet laws the ten least likely of 40 tokens have about 3 % of the mass.
    assert 0 < len(denoiser.looked) < 0.1 * 4 * n
    assert last.state.forwarded[0] == 4 * len(denoiser.whole.asked)


def test_what_a_row_draws_does_not_depend_on_how_many_positions_others_draw() -> None:
    model = DiscreteDiffusion(Ranked(TIMELESS, 1), K, 3, Unmask(3, 2))
    given = DiscreteDiffusion(model.denoiser, K, 3, model.kernel, given=[0, 1, -1])
    joint, alone = model.join([given]), model.join([model])
    rows = np.arange(4)
    found = [
        smc(each, Lookahead(WildPotential(), samples=1), n=[4, 4], resample=never, rng=Streams(3))
        for each in (joint, alone)
    ]
    ends = [list(steps)[-1].state.samples(rows) for steps in found]
    assert ends[0] == ends[1]


# --- mutants ---------------------------------------------------------------------------------------------------------


def test_mutant_the_others_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problem("one by one", "base", 1)
    then = Ranked.rank

    def cut(self: Ranked, tokens: np.ndarray, t: float) -> Any:
        likeliest, log_p, log_rest = then(self, tokens, t)
        return likeliest, log_p - np.logaddexp.reduce(log_p, axis=-1)[..., None], np.full(log_rest.shape, -np.inf)

    monkeypatch.setattr(Ranked, "rank", cut)
    with pytest.raises(AssertionError):
        assert_exact(*found)


def test_mutant_the_others_are_drawn_by_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problem("one by one", "base", 1)
    monkeypatch.setattr(Ranked, "log_probs_at", lambda self, tokens, t, places: np.full((len(tokens), K), -math.log(K)))
    with pytest.raises(AssertionError):
        assert_exact(*found)


def test_mutant_the_guess_of_the_others_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problem("one by one", "guided", 1)
    assert_exact(*found)
    then = ranked._subtract
    monkeypatch.setattr(ranked, "_subtract", lambda log_p, log_q: 0.0 * then(log_p, log_q))
    with pytest.raises(AssertionError):
        assert_exact(*found)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_proposal_that_needs_all_tokens_is_refused_by_name() -> None:
    model = DiscreteDiffusion(Ranked(TIMELESS, 1), K, 2, Unmask(2))
    for proposal in (
        FirstOrder(by_difference(WildPotential())), LocallyOptimal(WildPotential()),
        Unweighted(LocallyOptimal(WildPotential())),
    ):  # fmt: skip
        inner = proposal.proposal if isinstance(proposal, Unweighted) else proposal
        with pytest.raises(
            ModelError, match=rf"{type(inner).__name__} needs the probabilities of all tokens.*top=None"
        ):
            list(smc(model.with_proposal(proposal), WildPotential(), n=2, resample=never, rng=Streams(0)))


def test_what_needs_a_table_of_all_tokens_is_refused_by_name() -> None:
    denoiser = Ranked(TIMELESS, 1)
    with pytest.raises(ArgumentError, match="a composition needs the probabilities of all tokens"):
        DiscreteDiffusion(anneal(denoiser, 2.0), K, 2, Unmask(2))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="fills in masks, which uniform diffusion has not"):
        DiscreteDiffusion(denoiser, K, 2, UniformNoise(2))
    model = DiscreteDiffusion(denoiser, K, 2, Unmask(2))
    state = model.init(2, Streams(0).at("init", 0))
    with pytest.raises(ModelError, match="Ranked keeps the 1 likeliest of 3 tokens"):
        state.clean(np.arange(2))


def test_guidance_without_weights_works_on_the_likeliest() -> None:
    model = DiscreteDiffusion(Ranked(TIMELESS, 1), K, 2, Unmask(2), proposal=Unweighted(NO_BB))
    *_, last = smc(model, WildPotential(), n=8, resample=never, rng=Streams(0))
    assert all(canvas != (1, 1) for canvas in last.state.samples(np.arange(8)))
