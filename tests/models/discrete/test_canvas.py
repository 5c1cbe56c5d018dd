"""Canvases: what is evaluated and when, what a text is, and that a row's result depends on itself alone."""

from __future__ import annotations

import itertools
import math
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac import steer
from feynkac.base.capabilities import Bounded
from feynkac.base.errors import ArgumentError, ConstraintError, ModelError, PotentialError
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete import automata
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.automata import CanvasAutomaton, build_automaton
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import Base, FirstOrder, LocallyOptimal, Unweighted, by_difference, by_gradient
from feynkac.potentials import choices, constraint, length, regex, reward
from feynkac.potentials.discrete import Lookahead
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, multinomial, never, ssp, systematic
from feynkac.smc.rng import Streams

ABC = Vocabulary((b"a", b"b", b"cc", b""), (3,))
_rng = np.random.default_rng(1)
CHAIN = ChainDenoiser(_rng.dirichlet(np.ones(4)), _rng.dirichlet(np.ones(4), 4))
NOISY = ChainDenoiser(CHAIN.initial, CHAIN.transition, uniform=True)


def repr_of(kernel: Any) -> str:
    return type(kernel).__name__


class Counting:
    """A chain that notes what it is asked."""

    def __init__(self, time_independent: bool = True) -> None:
        self.time_independent, self.asked = time_independent, list[Any]()

    def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
        self.asked.append((t, [tuple(canvas) for canvas in tokens.tolist()]))
        return CHAIN.log_probs(tokens, t)


class Nothing:
    name = "nothing"

    def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
        state.log_probs(rows)
        return np.zeros(len(rows))

    def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))


def run(model: Any, potential: Any = None, n: int = 8, resample: Any = never, seed: int = 0) -> Any:
    *_, last = smc(model, potential or Nothing(), n=n, resample=resample, rng=Streams(seed))
    return last


def test_equal_canvases_are_evaluated_once_and_unchanged_ones_not_again() -> None:
    counting = Counting()
    last = run(DiscreteDiffusion(counting, ABC, 3, MaskedNoise(12)), n=64)
    asked = [canvas for _, canvases in counting.asked for canvas in canvases]
    assert counting.asked[0][1] == [(4, 4, 4)]
    # A canvas may be forgotten when no row shows it any more; within one population it is never asked about twice.
    assert all(len(set(canvases)) == len(canvases) for _, canvases in counting.asked)
    assert last.state.forwarded == [3 * len(asked)]
    assert len(asked) < 0.3 * 12 * 64


def test_a_denoiser_that_uses_time_is_asked_at_every_step_with_its_time() -> None:
    counting = Counting(time_independent=False)
    run(DiscreteDiffusion(counting, ABC, 2, MaskedNoise(4)), n=2)
    assert [t for t, _ in counting.asked] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    "kernel",
    [MaskedNoise(5), MaskedNoise(5, remask=0.5), Unmask(6, 2), UniformNoise(4)],
    ids=lambda k: type(k).__name__,
)
def test_a_row_does_not_depend_on_the_others(kernel: Any) -> None:
    denoiser = NOISY if isinstance(kernel, UniformNoise) else CHAIN
    model = DiscreteDiffusion(denoiser, ABC, 6, kernel)
    few, many = run(model, n=3), run(model, n=17)
    assert (few.state.tokens_now == many.state.tokens_now[:3]).all()


@pytest.mark.parametrize("proposal", ["guided", "optimal", "first order"])
def test_a_row_does_not_depend_on_the_others_under_a_proposal(proposal: str) -> None:
    potential = regex("[abc]*b")
    model = DiscreteDiffusion(CHAIN, ABC, 5, MaskedNoise(4))
    model = {
        "guided": lambda: model.constrain([potential]),
        "optimal": lambda: model.with_proposal(LocallyOptimal(potential)),
        "first order": lambda: model.with_proposal(FirstOrder(by_difference(potential))),
    }[proposal]()
    few, many = run(model, potential, n=3), run(model, potential, n=9)
    assert (few.state.tokens_now == many.state.tokens_now[:3]).all()
    np.testing.assert_allclose(few.log_weight + np.log(3), many.log_weight[:3] + np.log(9), rtol=1e-12)


def test_differences_are_asked_about_the_likeliest_tokens() -> None:
    state = DiscreteDiffusion(CHAIN, ABC, 5, Unmask(5)).init(2, Streams(0).at("init", 0))
    rows, moved = np.arange(2), np.eye(2, 5, dtype=np.bool_)
    prize = reward(lambda text: 1.0 + text.count("b"))
    every, some = (by_difference(prize, worst=-7.0, top=top)(state, rows, moved) for top in (None, 2))
    likeliest = np.argsort(-CHAIN.log_probs(state.tokens_now, 1.0)[rows, rows], axis=1)
    for row in rows:
        assert (some[row, row, likeliest[row, :2]] == every[row, row, likeliest[row, :2]]).all()
        assert (some[row, row, likeliest[row, 2:]] == -7.0).all()
        assert every[row, row].min() >= 1.0
    assert not some[~moved].any() and not every[~moved].any()


def test_forking_commutes_with_stepping() -> None:
    # Every leaf is gathered: the answers of a forked population are those of a population made afresh.
    model = DiscreteDiffusion(CHAIN, ABC, 6, MaskedNoise(6))
    state = model.init(5, Streams(0).at("init", 0))
    for t in range(3):
        state, _ = model.step(t, state, Streams(0).at("propose", t))
    state.memory.array("mark", 0)[:] = np.arange(5)
    rows = np.array([0, 3, 2, 3, 0])
    forked = state.fork(rows)
    np.testing.assert_allclose(forked.log_probs(np.arange(5)), CHAIN.log_probs(state.tokens_now[rows], 0.0))
    assert forked.memory.array("mark", 0).tolist() == rows.tolist()
    forked.retire(np.array([1]))
    assert not state.dead.any()


def test_a_text_ends_at_its_first_end_token_and_is_estimated_until_then() -> None:
    model = DiscreteDiffusion(CHAIN, ABC, 4, Unmask(4))
    state = model.init(2, Streams(0).at("init", 0))
    state.tokens_now[:] = [[2, 0, 3, 1], [0, 4, 1, 4]]
    estimate = CHAIN.log_probs(state.tokens_now, 0.0)[1].argmax(axis=-1)
    assert state.texts(np.array([0])) == ["cca"]
    assert state.estimate_clean(np.array([1]))[0].tolist() == estimate.tolist()
    assert state.done().tolist() == [True, False]


def test_problems_in_one_batch_are_as_they_are_alone() -> None:
    given = ([-1, 1, -1, -1], [0, -1, -1, 2], [-1, -1, -1, -1])
    models = [DiscreteDiffusion(CHAIN, ABC, 4, UNMASK_4, given=each) for each in given]
    prize = regex("[abc]*b[abc]*")
    together = steer(models, prize, particles=16, seed=3)
    for g, model in enumerate(models):
        *_, alone = smc(model.constrain([prize]), prize, n=16, resample=adaptive(ssp), rng=Streams(3, group=g))
        assert together[g].samples == alone.state.samples(np.arange(16))
        np.testing.assert_allclose(together[g].log_weights, alone.log_weight, rtol=1e-12)
        assert together[g].forwarded_tokens
    with pytest.raises(ArgumentError, match="share denoiser"):
        steer([models[0], DiscreteDiffusion(CHAIN, ABC, 4, MaskedNoise(2))], prize, particles=2)


UNMASK_4 = Unmask(4)


def test_given_tokens_stay() -> None:
    given = np.array([-1, 1, -1, -1, 3])
    for kernel in (MaskedNoise(6, remask=1.0), Unmask(5)):
        state = run(DiscreteDiffusion(CHAIN, ABC, 5, kernel, given=given), n=32).state
        assert (state.tokens_now[:, [1, 4]] == [1, 3]).all()
        assert len(np.unique(state.tokens_now, axis=0)) > 1


@pytest.mark.parametrize("pattern", ["(a|cc)*b?", "a{2,3}(b|c)*", "[^b]*", ""])
def test_the_automaton_of_a_canvas_is_that_of_the_text(pattern: str) -> None:
    automaton = build_automaton(ABC, [regex(pattern)], 4)
    canvases = np.array(list(itertools.product(range(4), repeat=4)))
    texts = ["".join(["a", "b", "cc"][x] for x in itertools.takewhile(lambda x: x < 3, c)) for c in canvases]
    assert automaton.accepts(canvases).tolist() == [re.fullmatch(pattern, text) is not None for text in texts]


def test_several_constraints_are_one_automaton() -> None:
    automaton = build_automaton(ABC, [regex("[ab]*"), length(min=2, max=3), choices(["ab", "abb", "b", "cc"])], 4)
    canvases = np.array(list(itertools.product(range(4), repeat=4)))
    accepted = {tuple(c) for c in canvases[automaton.accepts(canvases)].tolist()}
    assert accepted == {(0, 1, 3, x) for x in range(4)} | {(0, 1, 1, 3)}


def test_an_automaton_has_no_more_states_than_it_needs() -> None:
    even = [regex(f"[^{x}]*({x}[^{x}]*{x}[^{x}]*)*") for x in "ab"]
    automaton = build_automaton(ABC, even, 6)
    assert len(automaton.delta) == 4 + 2  # two parities, the end of a text, and death
    assert automaton.token_class[2] not in automaton.token_class[[0, 1, 3]]
    canvases = np.array(list(itertools.product(range(4), repeat=6)))
    texts = [ABC.text(list(itertools.takewhile(lambda x: x != 3, canvas))) for canvas in canvases.tolist()]
    np.testing.assert_array_equal(
        automaton.accepts(canvases), [not (t.count("a") % 2 or t.count("b") % 2) for t in texts]
    )


@pytest.mark.parametrize(
    "kernel", [MaskedNoise(6), MaskedNoise(6, remask=0.4), Unmask(6), UniformNoise(6)], ids=lambda k: type(k).__name__
)
def test_constrained_samples_are_valid(kernel: Any) -> None:
    denoiser = NOISY if isinstance(kernel, UniformNoise) else CHAIN
    result = steer(DiscreteDiffusion(denoiser, ABC, 6, kernel), regex("a[bc]*a"), particles=32, seed=0)
    assert all(re.fullmatch("a[bc]*a", text) for text in result.posterior())
    assert result.forwarded_tokens


def test_many_particles_agree_on_the_evidence() -> None:
    model = DiscreteDiffusion(CHAIN, ABC, 6, Unmask(6))
    prize = reward(lambda text: text.count("b"))
    estimates = [
        steer(model, prize, particles=2000, algorithm="importance", seed=0),
        steer(model, Lookahead(prize, samples=2), particles=1000, islands=10, seed=1),
        steer(model.with_proposal(FirstOrder(by_difference(prize))), prize, particles=1000, islands=10, seed=2),
    ]
    z = np.array([e.log_evidence for e in estimates])
    se = np.array([e.log_evidence_se for e in estimates])
    # Two independent comparisons, each with a false alarm in 15,000 runs of other seeds.
    assert (np.abs(z[1:] - z[0]) < 4.0 * np.hypot(se[1:], se[0])).all()


def test_guidance_without_weights_comes_with_a_warning() -> None:
    model, prize = DiscreteDiffusion(CHAIN, ABC, 3, MaskedNoise(6)), reward(len)
    guided = model.with_proposal(FirstOrder(by_difference(prize)))
    for other in (model, guided):
        assert not any("no declared target" in warning for warning in steer(other, prize, seed=0).warnings)
    biased = guided.with_proposal(Unweighted(guided.proposal))
    assert "no declared target" in steer(biased, prize, seed=0).warnings[0]


def test_a_dead_row_costs_no_evaluation() -> None:
    counting = Counting()

    class Kill(Nothing):
        def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
            return np.where(rows == 0, 0.0, -np.inf)

    run(DiscreteDiffusion(counting, ABC, 4, Unmask(4)), Kill(), n=8)
    assert all(len(canvases) == 1 for _, canvases in counting.asked)


# --- bad input -------------------------------------------------------------------------------------------------------


class Wrong:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def log_probs(self, tokens: np.ndarray, t: float) -> np.ndarray:
        return self.answer(tokens)


@pytest.mark.parametrize(("answer", "message"), [
    (lambda tokens: np.zeros((len(tokens), 4)), r"shape \(1, 4\) for 1 canvases, not \(1, 3, 4\)"),
    (lambda tokens: np.zeros((*tokens.shape, 4)), "sum to 4.0; return log_softmax"),
    (lambda tokens: np.full((*tokens.shape, 4), np.nan), "sum to nan"),
])  # fmt: skip
def test_answers_that_are_no_log_probabilities(answer: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(DiscreteDiffusion(Wrong(answer), ABC, 3, MaskedNoise(2)))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: MaskedNoise(0), "steps is 0"),
    (lambda: MaskedNoise(3, alpha=lambda t: t), "must rise from 0 to 1"),
    (lambda: MaskedNoise(3, remask=1.5), "remask is 1.5"),
    (lambda: Unmask(3, 4), "per_step=4 of 3"),
    (lambda: Unmask(3, order="best"), "order='best'"),  # type: ignore[arg-type]
    (lambda: DiscreteDiffusion(CHAIN, ABC, 0, MaskedNoise(2)), "length is 0"),
    (lambda: DiscreteDiffusion(CHAIN, ABC, 2, MaskedNoise(2), given=[0]), "given must hold 2 token ids"),
    (lambda: DiscreteDiffusion(CHAIN, ABC, 2, MaskedNoise(2), given=[0, 4]), "given must hold 2 token ids"),
    (lambda: DiscreteDiffusion(CHAIN, ABC, 2, MaskedNoise(2), given=[0, 1]), "every position"),
    (lambda: DiscreteDiffusion(NOISY, ABC, 2, UniformNoise(2), given=[0, -1]), "noise at every position"),
    (lambda: DiscreteDiffusion(CHAIN, ABC, 2, MaskedNoise(2), given=[0.7, -1]), "given must hold 2 token ids"),
    (lambda: DiscreteDiffusion(CHAIN, ABC, 4, Unmask(3)), r"4 open positions; give Unmask\(4\)"),
    (lambda: DiscreteDiffusion(None, ABC, 4, Unmask(4)), "None is no denoiser"),  # type: ignore[arg-type]
    (lambda: CanvasAutomaton(np.array([[0, 7]]), np.array([True]), np.array([0, 1])), "numbered from 0 to 0"),  # type: ignore[arg-type]
    (lambda: CanvasAutomaton(np.array([[0]]), np.array([True]), np.array([0, 1])), "classes of tokens from 0 to 0"),
    (lambda: MaskedNoise(3, alpha=lambda t: math.nan), "alpha returns is nan"),
    (lambda: by_difference(Nothing(), top=-1), "top is -1"),
    (lambda: FirstOrder(by_difference(Nothing()), trust=0.0), "trust is 0.0"),
    (lambda: Lookahead(Nothing(), samples=-1), "samples is -1"),
    (lambda: Lookahead(len), "such as reward"),  # type: ignore[arg-type]
    (lambda: ChainDenoiser(np.ones(2), np.eye(2)), "sum to 1"),
])  # fmt: skip
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_errors_say_what_to_do() -> None:
    numbers = DiscreteDiffusion(CHAIN, 4, 3, MaskedNoise(2))
    with pytest.raises(ModelError, match="give it a Vocabulary"):
        steer(numbers, reward(len), particles=2)
    with pytest.raises(ModelError, match="give the model a Vocabulary"):
        steer(numbers, regex("a"), particles=2)
    model = DiscreteDiffusion(CHAIN, ABC, 3, MaskedNoise(2))
    drawing = Lookahead(constraint(bool))
    with pytest.raises(ModelError, match="samples=0"):
        run(model.with_proposal(LocallyOptimal(drawing)), drawing)
    with pytest.raises(ModelError, match="differentiable tensor of 2 rewards, or use by_difference"):
        run(model.with_proposal(FirstOrder(by_gradient(lambda p: p.detach().sum((1, 2))))), n=2)
    with pytest.raises(ModelError, match=r"returned shape \(2,\), not \(2, 3, 4\)"):
        run(model.with_proposal(FirstOrder(lambda canvas, rows, moved: np.zeros(2))), n=2)
    with pytest.raises(ModelError, match="not finite for row 1"):
        run(
            model.with_proposal(
                FirstOrder(lambda canvas, rows, moved: np.stack([np.zeros((3, 4)), np.full((3, 4), np.nan)]))
            ),
            n=2,
        )
    with pytest.raises(PotentialError, match="canvas of a discrete diffusion"):
        Lookahead(constraint(bool)).level(0, object(), np.arange(1))


def test_an_automaton_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automata, "MAX_STATES", 3)
    with pytest.raises(ConstraintError, match="more than 3 automaton states on a canvas of 6 tokens"):
        steer(DiscreteDiffusion(CHAIN, ABC, 6, Unmask(6)), regex("abababab|b"), particles=2)


def test_resampling_leaves_the_proposals_their_numbers() -> None:
    model = DiscreteDiffusion(CHAIN, ABC, 6, Unmask(6))
    first = [next(iter(smc(model, Nothing(), n=4, resample=r, rng=Streams(5)))) for r in (multinomial, systematic)]
    assert (first[0].state.tokens_now == first[1].state.tokens_now).all()


class Weightless:
    """A proposal of a user's own, that says whether it leaves its weights out."""

    def __init__(self, biased: bool) -> None:
        self.biased = biased

    def draw(self, t: int, canvas: Any, rows: np.ndarray, moved: Any, law: Any, draws: Any) -> Any:
        return Base().draw(t, canvas, rows, moved, law, draws)


def test_a_proposal_says_whether_it_is_biased() -> None:
    model = DiscreteDiffusion(CHAIN, 4, 6, Unmask(6))
    assert not model.biased
    for proposal, biased in [(Weightless(True), True), (Weightless(False), False), (Unweighted(Base()), True)]:
        assert model.with_proposal(proposal).biased is biased


@pytest.mark.parametrize("kernel", [MaskedNoise(5), MaskedNoise(5, remask=0.5), Unmask(6, 4), UniformNoise(4)])
def test_runs_end_within_the_steps_that_are_promised(kernel: Any) -> None:
    model = DiscreteDiffusion(CHAIN if kernel.hides else NOISY, 4, 6, kernel)
    assert isinstance(model, Bounded) and model.max_steps == kernel.steps
    steps = list(smc(model, Nothing(), n=64, resample=never, rng=Streams(0)))
    assert len(steps) <= model.max_steps
    if kernel.permanent and isinstance(kernel, MaskedNoise):
        assert len(steps) == kernel.steps  # a mask is left till then, but for a chance of 0.8^384


def test_threads_share_a_model_and_its_potentials() -> None:
    # The automaton is compiled by whoever comes first, and levels are remembered in each run's own population.
    model = DiscreteDiffusion(CHAIN, ABC, 6, Unmask(6))
    potential = regex("(?:a|b|cc)*cc") * Lookahead(reward(lambda text: text.count("a"), every="end"), samples=2)

    def runs(_: int) -> list[Any]:
        results = [steer(model, potential, particles=6, seed=seed) for seed in range(16)]
        return [(result.samples, result.log_weights.tolist(), result.log_evidence) for result in results]

    alone = runs(0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            assert all(together == alone for together in pool.map(runs, range(3)))
    finally:
        sys.setswitchinterval(before)


def test_constraints_on_canvases_pass_the_check() -> None:
    assert fk.check(DiscreteDiffusion(CHAIN, ABC, 3, MaskedNoise(3)), fk.regex("[ab]*")).faults == []
