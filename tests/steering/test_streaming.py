"""Streams: every step with its particles, the Result of `steer` at the end, and nothing left behind in between."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.steering.running import Run
from tests.steering.runs import KINDS, assert_same, count, make, read, walk


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_loop_the_result_is_that_of_steer_bit_for_bit(tiny_lm, kind) -> None:
    model, potentials, options = make(kind, tiny_lm)
    options = {"particles": 8, "seed": 3, "on_death": "return", **options}
    wanted = fk.steer(model, *potentials, **options)
    stream = fk.stream(model, *potentials, **options)
    steps = list(stream)
    found = stream.result
    assert len(steps) > 1 and type(found) is type(wanted)
    assert_same(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_is_the_run_as_if_it_were_stopped_there(tiny_lm, kind) -> None:
    model, potentials, options = make(kind, tiny_lm)
    options = {"particles": 8, "seed": 3, "on_death": "return", **options}
    many, gibbs = isinstance(model, list), "gibbs" in kind
    for t, given in enumerate(fk.stream(model, *potentials, **options)):
        moments = given if many else [given]
        assert len(moments) == (len(model) if many else 1)
        for moment in moments:
            result = moment.result
            assert moment.sweep == (t if gibbs else None) and moment.ess > 0.0
            assert moment.log_evidence == pytest.approx(result.log_evidence, abs=1e-12)
            assert moment.weights.sum() == pytest.approx(1.0)
            if not gibbs:
                np.testing.assert_array_equal(moment.log_weights, result.log_weights)
                assert read(moment.samples) == read(result.samples)


def test_a_step_is_the_one_at_which_steer_can_be_stopped(tiny_lm) -> None:
    task, options = tiny_lm(eos=()).prompt("a", max_tokens=6), {"particles": 8, "seed": 0}
    for moment in fk.stream(task, fk.reward(count), **options):
        at = moment.t
        stopped = fk.steer(task, fk.reward(count), observers=[lambda step, at=at: step.t == at], **options)
        assert_same(moment.result, stopped)


def test_the_sweep_of_a_step_of_gibbs_is_the_last_of_the_result(tiny_lm) -> None:
    task, options = tiny_lm().prompt("a", max_tokens=6), {"particles": 4, "seed": 0, "algorithm": "gibbs"}
    for moment in fk.stream(task, fk.reward(count), sweeps=4, **options):
        result = moment.result
        assert moment.texts == result.texts[-4:]
        np.testing.assert_allclose(moment.weights, result.weights[-4:] / result.weights[-4:].sum())


def test_nothing_runs_between_two_steps(tiny_lm) -> None:
    seen: list[int] = []
    stream = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=9), observers=[lambda step: seen.append(step.t)])
    assert seen == []
    for wanted in range(3):
        assert next(stream).t == wanted and seen == list(range(wanted + 1))


def test_texts_are_made_when_they_are_asked_for_and_once() -> None:
    made: list[int] = []

    class Walk:
        def init(self, n, rng):
            return Paths(np.zeros((n, 0)))

        def step(self, t, state, rng):
            return Paths(np.column_stack([state.steps, rng.uniform(len(state))])), np.zeros(len(state))

        def done(self, state):
            return np.full(len(state), state.steps.shape[1] == 4)

    class Paths:
        def __init__(self, steps) -> None:
            self.steps = steps

        def __len__(self) -> int:
            return len(self.steps)

        def fork(self, rows):
            return Paths(self.steps[rows])

        def samples(self, rows):
            made.append(self.steps.shape[1])
            return [str(len(self.steps[row])) for row in rows]

    for moment in fk.stream(Walk(), particles=3, seed=0):
        if moment.t == 1:
            assert moment.texts == moment.samples == ["2"] * 3
    assert made == [2, 4]  # and those of the result


def test_what_a_step_held_is_gone_after_the_next_one_and_says_so(tiny_lm) -> None:
    stream = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=4), particles=2, seed=0)
    first, second = next(stream), next(stream)
    for ask in (lambda: first.texts, lambda: first.result, lambda: first.best):
        with pytest.raises(fk.ArgumentError, match=r"step 0 is over.*before the next step"):
            ask()
    assert first.ess > 0 and len(first.weights) == 2 and second.best in second.texts
    last = list(stream)[-1]
    assert last.t == 3 and last.texts == stream.result.texts  # the last step stays


def test_a_stream_has_no_result_before_its_first_step(tiny_lm) -> None:
    stream = fk.stream(tiny_lm().prompt("a", max_tokens=4))
    with pytest.raises(fk.ArgumentError, match="no result yet; take a step first"):
        _ = stream.result


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "exact"}, "algorithm='exact' has no populations to watch"),
        ({"executor": fk.LocalExecutor(2)}, "executor=LocalExecutor.* has no populations to watch"),
        ({"particles": 0}, "at least 1"),
        ({"budget": 3}, "budget is 3"),
    ],
)
def test_what_cannot_be_streamed_is_refused_by_name_before_the_loop(tiny_lm, options, said) -> None:
    with pytest.raises(fk.ArgumentError, match=said):
        fk.stream(tiny_lm().prompt("a", max_tokens=4), **options)


def test_a_budget_ends_a_stream(tiny_lm) -> None:
    stream = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=9), particles=4, seed=0, budget=fk.Budget(calls=3))
    assert [moment.t for moment in stream] == [0, 1, 2]
    assert not stream.result.complete and "budget of 3 calls" in stream.result.warnings[0]


# --- leaving early ---------------------------------------------------------------------------------------------------


class Held:
    """An observer whose life is that of the run, as it is nowhere else."""

    closed = 0

    def __call__(self, step) -> None: ...

    def close(self) -> None:
        Held.closed += 1


@pytest.fixture
def no_cycles():
    """What is freed is freed at once, by its last reference."""
    gc.disable()
    Held.closed = 0
    yield
    gc.enable()


def begin(tiny_lm, kind: str = "prompt", **options: Any):
    model, potentials, more = make(kind, tiny_lm)
    held = Held()
    stream = fk.stream(model, *potentials, particles=8, seed=3, observers=[held], **more, **options)
    return stream, weakref.ref(held)


@pytest.mark.usefixtures("no_cycles")
@pytest.mark.parametrize("kind", ["prompt", "program", "gibbs", "problems"])
@pytest.mark.parametrize("how", ["break", "close", "exception", "with", "forget"])
def test_a_loop_that_is_left_early_frees_its_run(tiny_lm, kind, how) -> None:
    stream, held = begin(tiny_lm, kind)
    step: Any = None
    if how == "break":
        for step in stream:  # noqa: B007
            break
    elif how == "exception":
        with pytest.raises(ZeroDivisionError):
            for step in stream:  # noqa: B007
                raise ZeroDivisionError
    elif how == "with":
        with stream:
            for step in stream:  # noqa: B007
                break
        assert Held.closed == 1 and held() is None and stream.result is not None
    else:
        step = next(stream)
        if how == "close":
            stream.close()
            assert Held.closed == 1 and held() is None and stream.result is not None
            assert list(stream) == []
            stream.close()
    del stream
    if how == "break":  # the step that was given holds the run, and can be asked still
        assert held() is not None and (step[0] if kind == "problems" else step).texts
    del step
    assert held() is None and Held.closed == 1


@pytest.mark.usefixtures("no_cycles")
def test_a_stream_that_never_began_leaves_nothing(tiny_lm) -> None:
    stream, held = begin(tiny_lm, progress=True)
    del stream
    assert held() is None and Held.closed == 0


def test_the_result_of_a_stream_that_was_closed_is_what_there_was(tiny_lm) -> None:
    task, options = tiny_lm(eos=()).prompt("a", max_tokens=9), {"particles": 8, "seed": 3}
    with fk.stream(task, fk.reward(count), **options) as stream:
        for moment in stream:
            if moment.t == 4:
                break
    stopped = fk.steer(task, fk.reward(count), observers=[lambda step: step.t == 4], **options)
    assert_same(stream.result, stopped)
    with pytest.raises(fk.ArgumentError, match="step 4 is over"):
        _ = moment.texts


# --- errors and Ctrl-C -----------------------------------------------------------------------------------------------


def test_an_error_is_raised_by_its_step_with_the_particles(tiny_lm) -> None:
    def fussy(text: str) -> float:
        if len(text) == 3:
            raise RuntimeError("no texts of three letters")
        return 0.0

    stream, seen = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=9), fk.reward(fussy), particles=4, seed=0), []
    with pytest.raises(fk.PotentialError, match="fussy") as caught:
        for moment in stream:
            seen.append(moment.t)
    assert seen == [0, 1] and len(caught.value.partial.history.ess) == 2 and stream.result is caught.value.partial
    assert list(stream) == []


def test_the_death_of_all_is_raised_at_the_end(tiny_lm) -> None:
    never = fk.constraint(lambda text: False)
    stream, steps = fk.stream(tiny_lm().prompt("a", max_tokens=3), never, particles=4, seed=0), 0
    with pytest.raises(fk.AllParticlesDied) as caught:
        for _ in stream:
            steps += 1
    assert steps >= 1 and stream.result is caught.value.partial


def interrupted(at: int) -> Any:
    def interrupt(step: Any) -> None:
        if step.t == at:
            signal.raise_signal(signal.SIGINT)

    return interrupt


def test_ctrl_c_during_a_step_ends_the_loop_and_keeps_the_particles(tiny_lm) -> None:
    task, options = tiny_lm(eos=()).prompt("a", max_tokens=9), {"particles": 4, "seed": 0}
    stream = fk.stream(task, observers=[interrupted(3)], **options)
    assert [moment.t for moment in stream] == [0, 1, 2]
    assert_same(stream.result, fk.steer(task, observers=[interrupted(3)], **options))
    assert not stream.result.complete and len(stream.result.history.ess) == 4


def test_ctrl_c_in_the_body_of_the_loop_is_raised_there_and_the_particles_are_kept(tiny_lm) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=9), particles=4, seed=0) as stream,
    ):
        for moment in stream:
            if moment.t == 2:
                signal.raise_signal(signal.SIGINT)
    assert not stream.result.complete and len(stream.result.history.ess) == 3


def test_ctrl_c_before_the_first_step_is_raised(tiny_lm) -> None:
    def interrupt(text: str) -> float:
        raise KeyboardInterrupt

    stream = fk.stream(tiny_lm().prompt("a", max_tokens=3), fk.reward(interrupt), particles=4, seed=0)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert list(stream) == []


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompt", "problems", "gibbs"])
def test_a_stream_of_prompts_goes_on_in_any_thread(tiny_lm, kind) -> None:
    """As web servers do with generators, each of whose steps they take in the next free thread."""
    model, potentials, options = make(kind, tiny_lm)
    options = {"particles": 8, "seed": 3, **options}
    wanted, stream = fk.steer(model, *potentials, **options), fk.stream(model, *potentials, **options)
    while True:
        with ThreadPoolExecutor(1) as pool:
            if pool.submit(next, stream, None).result() is None:
                break
    found = stream.result
    assert_same(found, wanted)


def test_a_stream_of_programs_goes_on_in_any_thread(tiny_lm) -> None:
    """A program that waits in another thread is run again on its record, as that of a fork is."""
    task = walk(tiny_lm(), 5)
    wanted, stream = fk.steer(task, fk.reward(count), seed=1), fk.stream(task, fk.reward(count), seed=1)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(next, stream).result()
    for _ in stream:
        pass
    assert_same(stream.result, wanted)


def test_two_threads_that_ask_at_once_are_told(tiny_lm) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait(step: Any) -> None:
        inside.set()
        assert leave.wait(20)

    stream = fk.stream(tiny_lm(eos=()).prompt("a", max_tokens=3), particles=2, seed=0, observers=[wait])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, stream)
        assert inside.wait(20)
        for ask in (lambda: next(stream), stream.close):
            with pytest.raises(fk.ArgumentError, match="ask from one thread at a time"):
                ask()
        leave.set()
        assert first.result().t == 0


def test_a_stream_that_asks_itself_is_told(tiny_lm) -> None:
    held: list[Any] = []
    stream = fk.stream(tiny_lm().prompt("a", max_tokens=3), observers=[lambda step: next(held[0])])
    held.append(stream)
    with pytest.raises(fk.ArgumentError, match="ask from one thread at a time"):
        next(stream)


def test_what_drives_all_runs_takes_what_steer_takes() -> None:
    def list_options(function: Any) -> dict[str, Any]:
        named = inspect.signature(function).parameters.values()
        return {each.name: each.default for each in named if each.kind is each.KEYWORD_ONLY}

    wanted, found = list_options(fk.steer), list_options(Run)
    assert found.pop("halt") is None and found == wanted


@pytest.mark.parametrize("name", ["stream", "steer_async", "stream_async"])
def test_keywords_of_other_libraries_are_told_with_ours(tiny_lm, name) -> None:
    task = tiny_lm().prompt("a", max_tokens=3)
    with pytest.raises(fk.FeynkacError, match=rf"{name}\(\) has no argument 'n'; it is called 'particles' here"):
        found = getattr(fk, name)(task, n=3)
        asyncio.run(found)
    with pytest.raises(fk.FeynkacError, match="potentials come behind the model"):
        found = getattr(fk, name)(task, reward=count)
        asyncio.run(found)
