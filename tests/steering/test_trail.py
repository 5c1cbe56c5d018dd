"""What a result tells of each token, and a history of what each particle added, under every algorithm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.potentials.constraints.tokenwise import TokenFactor
from feynkac.steering.trail import read_piece

FLOAT32 = 1e-4
ALGORITHMS: list[tuple[str, dict[str, Any]]] = [
    ("smc", {}),
    ("smc", {"islands": 2}),
    ("smc", {"islands": 2, "executor": fk.LocalExecutor(2)}),
    ("optimal", {}),
    ("beam", {}),
    ("gibbs", {"sweeps": 3}),
    ("gibbs", {"sweeps": 3, "islands": 2, "executor": fk.LocalExecutor(2)}),
    ("importance", {}),
    ("best_of_n", {}),
]
MOVES = [fk.redraw(2), fk.redraw(2, tail=1), fk.redraw(2, chains=4), fk.redraw(1, tail=2, chains=2)]


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("a", "b", "e")


def steer(lm: Any, **options: Any) -> fk.Result:
    task = lm.prompt("a", max_tokens=5)
    shape = fk.regex("[ab]*")
    reward = fk.reward(lambda text: 0.4 * text.count("b"), every="token")
    given: dict[str, Any] = {"particles": 8, "seed": 3, "on_death": "return", **options}
    return fk.steer(task, shape, reward, **given)


def list_truth(lm: Any) -> dict[tuple[str, bool], float]:
    """The log-probability of each text, cut or ended, as the exact algorithm has it in float64."""
    task = lm.prompt("a", max_tokens=5)
    found = fk.steer(task, fk.regex("[abe]*"), algorithm="exact")
    assert found.token_log_probs is not None
    return {
        (text, len(line) > len(text)): float(weight)
        for text, line, weight in zip(found.samples, found.token_log_probs, found.log_weights, strict=True)
    }


def walk(history: fk.History, row: int, start: int = 0, end: int | None = None) -> tuple[str, float, bool]:
    """The text of the path of a final row, its nats, and whether a move has changed it."""
    pieces, nats, moved = list[str](), 0.0, False
    for t in reversed(range(start, len(history.rows) if end is None else end)):
        pieces.append(history.pieces[t][row])
        nats += history.log_probs[t][row]
        moved |= bool(history.moved) and row in history.moved[t]
        row = history.rows[t][row]
    return "".join(reversed(pieces)), nats, moved


@pytest.mark.parametrize(("algorithm", "options"), [*ALGORITHMS, ("exact", {})])
def test_the_tokens_of_a_sample_are_its_text_and_their_nats_its_log_probability(lm, algorithm, options) -> None:
    truth = list_truth(lm)
    result = steer(lm, algorithm=algorithm, **options)
    assert result.token_log_probs is not None and result.log_probs is not None
    assert len(result.token_log_probs) == len(result.log_probs) == len(result.samples)
    for text, line, log_prob, log_w in zip(
        result.samples, result.token_log_probs, result.log_probs, result.log_weights, strict=True
    ):
        assert "".join(piece for piece, _ in line) == text
        if log_w > -math.inf:
            assert math.fsum(nats for _, nats in line) == pytest.approx(log_prob, abs=1e-9)
            assert log_prob == pytest.approx(truth[text, len(line) > len(text)], abs=FLOAT32)


MODELS = {
    "a model over bytes": lambda lm: fk.bytewise(lm, beam=None).prompt("a", max_tokens=4),
    "an ensemble": lambda lm: fk.ensemble([lm.prompt("a", max_tokens=4), lm.prompt("b", max_tokens=4)]),
    "a law with a temperature and top-k": lambda lm: lm.prompt("a", max_tokens=4, temperature=0.5, top_k=2),
    "a stop string": lambda lm: lm.prompt("a", max_tokens=4, stop="b"),
    "an end that is forced": lambda lm: lm.prompt("a", max_tokens=4, at_limit="end"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_prompt_tells_of_its_tokens(lm, kind: str) -> None:
    task = MODELS[kind](lm)
    result = fk.steer(task, fk.regex("[abe]*"), particles=8, seed=1)
    assert result.token_log_probs is not None and result.log_probs is not None
    for row, (text, line, log_prob) in enumerate(
        zip(result.samples, result.token_log_probs, result.log_probs, strict=True)
    ):
        assert "".join(piece for piece, _ in line) == text
        assert math.fsum(nats for _, nats in line) == pytest.approx(log_prob, abs=1e-9)
        assert walk(result.history, row)[:2] == (text, pytest.approx(log_prob, abs=1e-5))
    if kind != "a stop string":  # which `score` refuses
        scored = task.lm.score(task, result.samples)
        np.testing.assert_allclose(result.log_probs, scored, atol=FLOAT32)


@pytest.mark.parametrize("moves", MOVES, ids=str)
def test_a_move_leaves_the_tokens_of_a_sample_right(lm, moves) -> None:
    truth = list_truth(lm)
    result = steer(lm, moves=moves, particles=16)
    assert result.token_log_probs is not None and result.log_probs is not None
    for text, line, log_prob in zip(result.samples, result.token_log_probs, result.log_probs, strict=True):
        assert "".join(piece for piece, _ in line) == text
        assert math.fsum(nats for _, nats in line) == pytest.approx(log_prob, abs=1e-9)
        assert log_prob == pytest.approx(truth[text, len(line) > len(text)], abs=FLOAT32)


@pytest.mark.parametrize(("algorithm", "options"), ALGORITHMS)
def test_the_family_tree_has_what_each_particle_added(lm, algorithm, options) -> None:
    result = steer(lm, algorithm=algorithm, **options)
    history, n = result.history, len(result.history.rows[-1])
    for name in ("pieces", "log_probs", "increments", "log_weights", "carried", "killers"):
        assert [len(column) for column in getattr(history, name)] == [len(rows) for rows in history.rows], name
    starts = history.sweeps or [0]
    ends = [*starts[1:], len(history.rows)]
    # Of particle Gibbs the samples are the populations of all sweeps of a chain but the first.
    later = [(s, e) for k, (s, e) in enumerate(zip(starts, ends, strict=True)) if algorithm != "gibbs" or k % 3]
    found = [walk(history, row, start, end) for start, end in later for row in range(n)]
    assert len(found) == len(result.samples) and result.log_probs is not None
    for (text, nats, _), sample, log_prob in zip(found, result.samples, result.log_probs, strict=True):
        assert text == sample
        assert nats == pytest.approx(log_prob, abs=1e-5) or log_prob == nats


@pytest.mark.parametrize("moves", MOVES, ids=str)
def test_a_row_whose_tokens_a_move_has_replaced_is_marked_and_others_have_their_path(lm, moves) -> None:
    marked = 0
    for seed in range(4):
        result = steer(lm, moves=moves, particles=16, seed=seed)
        assert len(result.history.moved) == len(result.history.rows)
        for row, sample in enumerate(result.samples):
            text, _, moved = walk(result.history, row)
            marked += moved
            assert moved or text == sample
        if any(result.history.moved):
            with pytest.raises(fk.ArgumentError, match="leave moves= out"):
                result.explain()
    assert marked > 0


def test_each_weight_is_what_was_carried_the_increment_and_the_change_of_the_level(lm) -> None:
    history = steer(lm).history
    for t, rows in enumerate(history.rows):
        for i, parent in enumerate(rows):
            if history.log_weights[t][i] > -math.inf:
                before = history.levels[t - 1][parent] if t else 0.0
                gained = history.increments[t][i] + history.levels[t][i] - before
                assert history.log_weights[t][i] == pytest.approx(history.carried[t][i] + gained, abs=1e-5)


def test_problems_of_one_batch_tell_of_their_own_tokens(lm) -> None:
    tasks = [lm.prompt("a", max_tokens=3), lm.prompt("bb", max_tokens=5)]
    for result in fk.steer(tasks, fk.regex("[ab]*"), particles=4, seed=0):
        assert result.token_log_probs is not None
        assert ["".join(piece for piece, _ in line) for line in result.token_log_probs] == result.samples
        assert [walk(result.history, row)[0] for row in range(4)] == result.samples


def test_a_run_that_was_stopped_tells_of_the_tokens_so_far(lm) -> None:
    result = steer(lm, observers=[lambda step: step.t == 1])
    assert result.token_log_probs is not None and not result.complete
    assert ["".join(piece for piece, _ in line) for line in result.token_log_probs] == result.samples


def test_a_particle_without_a_token_left_adds_nothing_with_no_mass(lm) -> None:
    class Nothing:
        start = 0

        def masks(self, states: np.ndarray) -> np.ndarray:
            return np.zeros((len(states), 1), np.uint32)

        def advance(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            return states

        def accepts(self, states: np.ndarray) -> np.ndarray:
            return np.zeros(len(states), bool)

    class NoText(TokenFactor):
        def compile(self, vocabulary: Any) -> Any:
            return Nothing()

    task = lm.prompt("a", max_tokens=3)
    result = fk.steer(task, NoText("no text"), particles=4, seed=0, on_death="return")
    assert result.history.pieces[0] == [""] * 4 and result.history.log_probs[0] == [-math.inf] * 4


def test_a_program_tells_what_was_sampled_and_no_nats() -> None:
    @fk.program
    def walk_twice(p):
        first = p.sample(fk.Categorical({"é": 1, "b": 2}))
        p.condition(first == "é")
        return first, p.sample(fk.Bernoulli(0.5)), p.sample(fk.Categorical({1.5: 1, 2.5: 1}))

    result = fk.steer(walk_twice(), particles=8, seed=1)
    assert result.token_log_probs is None and result.log_probs is None
    for row, sample in enumerate(result.samples):
        if result.log_weights[row] > -math.inf:
            assert walk(result.history, row)[0] == "".join(map(str, sample))
    assert all(math.isnan(nats) for nats in result.history.log_probs[0])
    assert result.explain().log_evidence == pytest.approx(result.log_evidence)


class Steps:
    """Walks so far, of which nothing but their number is told."""

    def __init__(self, steps: np.ndarray) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def fork(self, rows: np.ndarray) -> Steps:
        return Steps(self.steps[rows])


class Walk:
    """Three steps of 0 or 1."""

    def init(self, n: int, rng: Any) -> Steps:
        return Steps(np.zeros((n, 0)))

    def step(self, t: int, state: Steps, rng: Any) -> tuple[Steps, np.ndarray]:
        drawn = rng.uniform(len(state))[:, None] < 0.5
        return Steps(np.column_stack([state.steps, drawn])), np.zeros(len(state))

    def done(self, state: Steps) -> np.ndarray:
        return np.full(len(state), state.steps.shape[1] == 3)


def test_a_model_that_tells_of_no_pieces_leaves_them_out() -> None:
    result = fk.steer(Walk(), particles=4, seed=0)
    assert result.history.pieces == [] == result.history.log_probs and len(result.history.increments) == 3
    assert result.token_log_probs is None
    assert result.explain().log_evidence == pytest.approx(0.0)


def test_a_character_of_several_tokens_is_in_the_last_of_them() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    known: dict[Any, Any] = {}
    assert read_piece(known, b"", b"x" + first) == ("x", first)
    assert read_piece(known, first, second + b"y") == ("éy", b"")
    assert read_piece(known, first, b"y") == ("�y", b"")


@pytest.mark.parametrize(("algorithm", "options"), [("smc", {}), ("gibbs", {"sweeps": 2}), ("exact", {})])
def test_a_file_gives_back_all_that_is_told_of_tokens(lm, algorithm, options, tmp_path) -> None:
    result = steer(lm, algorithm=algorithm, **options)
    result.to_json(tmp_path / "result.json")
    back = fk.Result.from_json(tmp_path / "result.json")
    assert back.history == result.history and back.token_log_probs == result.token_log_probs
    np.testing.assert_array_equal(back.log_probs, result.log_probs)  # type: ignore[arg-type]


def test_a_dead_run_has_its_minus_infinities_in_its_file(lm, tmp_path) -> None:
    dead = fk.steer(lm.prompt("a", max_tokens=2), lambda text: False, particles=4, seed=0, on_death="return")
    dead.to_json(tmp_path / "dead.json")
    assert fk.Result.from_json(tmp_path / "dead.json").history == dead.history


def test_who_writes_to_the_weights_of_a_result_leaves_its_history_as_it_was() -> None:
    written, whole = fk.steer(Walk(), particles=4, seed=0), fk.steer(Walk(), particles=4, seed=0)
    written.log_weights[:] -= 7.0
    assert written.history == whole.history
    np.testing.assert_allclose(whole.history.log_weights[-1], whole.log_weights, atol=1e-6)
