"""What models, potentials, resamplers and observers raise in mid-run, and arguments that are nearly right."""

from __future__ import annotations

import asyncio
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.smc.resample import multinomial


class Paths:
    def __init__(self, steps) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def fork(self, rows):
        return type(self)(self.steps[rows])

    def retire(self, rows) -> None: ...

    def samples(self, rows):
        return [tuple(self.steps[row]) for row in rows]


class Walk:
    """Five steps up or down, which can be walked again."""

    state: type[Paths] = Paths

    def init(self, n, rng):
        return self.state(np.zeros((n, 0)))

    def step(self, t, state, rng):
        drawn = np.where(rng.uniform(len(state)) < 0.5, 1.0, -1.0)
        return self.state(np.column_stack([state.steps, drawn])), np.zeros(len(state))

    def done(self, state):
        return np.full(len(state), state.steps.shape[1] == 5)

    def replay(self, t, state, rng, reference):
        stepped, increment = self.step(t, state, rng)
        stepped.steps[0, -1] = reference[t]
        return stepped, increment

    def trace(self, state, row):
        return state.steps[row].copy()


class Tilt:
    name = "tilt"

    def level(self, t, state, rows):
        return state.steps[rows].sum(axis=1)

    def final(self, state, rows):
        return state.steps[rows].sum(axis=1)


class Broke(Exception):
    """An error of somebody else's."""


def late(method: str, of: type, error: Exception, after: int) -> type:
    """A class whose `method` raises from its call number `after` on."""
    calls = itertools.count(1)

    def broken(self, *args: Any) -> Any:
        if next(calls) >= after:
            raise error
        return getattr(of, method)(self, *args)

    return type(f"Late{of.__name__}", (of,), {method: broken, "name": "late"})


OPTIONS: dict[str, Any] = {"particles": 8, "seed": 0, "ess_threshold": 1.0, "resampler": "multinomial"}
FAULTS = [Broke("mine"), RuntimeError("CUDA out of memory. Tried"), MemoryError("none left"), KeyError("k")]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("method", "after", "step"), [("step", 3, 2), ("done", 3, 2)])
@pytest.mark.parametrize("algorithm", ["smc", "beam", "gibbs"])
def test_what_a_model_raises_is_a_model_error_with_cause_step_and_particles(
    error, method, after, step, algorithm
) -> None:
    model = late(method, Walk, error, after)()
    with pytest.raises(
        fk.ModelError, match=rf"'late'\.{method} at step {step} raised {type(error).__name__}"
    ) as caught:
        fk.steer(model, Tilt(), algorithm=algorithm, **OPTIONS)
    assert caught.value.__cause__ is error and caught.value.step == step
    partial = caught.value.partial
    assert not partial.complete and {len(sample) for sample in partial.samples} == {step}


@pytest.mark.parametrize("method", ["fork", "retire", "samples", "__len__"])
def test_what_a_state_raises_is_a_model_error(method) -> None:
    model = type("Of", (Walk,), {"state": late(method, Paths, Broke("mine"), 2 if method == "__len__" else 1)})()
    with pytest.raises(fk.ModelError, match="raised Broke: mine"):
        fk.steer(model, Tilt(), **OPTIONS)


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("beside", [False, True])
def test_what_a_potential_raises_names_the_factor_and_the_step(error, beside) -> None:
    factors = [late("level", Tilt, error, 3)(), *[Tilt()] * beside]
    with pytest.raises(fk.PotentialError, match=rf"'late'\.level at step 2 raised {type(error).__name__}") as caught:
        fk.steer(Walk(), *factors, **OPTIONS)
    assert caught.value.__cause__ is error and len(caught.value.partial.samples[0]) == 2
    with pytest.raises(fk.PotentialError, match=r"'late'\.final") as caught:
        fk.steer(Walk(), late("final", Tilt, error, 1)(), **OPTIONS)
    assert caught.value.step == 4 and len(caught.value.partial.samples[0]) == 4


def test_memory_that_ran_out_comes_with_advice() -> None:
    for error in FAULTS[1:3]:
        with pytest.raises(fk.ModelError, match="use fewer particles"):
            fk.steer(late("step", Walk, error, 2)(), **OPTIONS)


@pytest.mark.parametrize("algorithm", ["smc", "gibbs"])
def test_what_an_observer_raises_names_it(algorithm) -> None:
    def watch(step) -> None:
        if step.t == 2:
            raise Broke("mine")

    with pytest.raises(fk.FeynkacError, match="'watch' at step 2 raised Broke: mine") as caught:
        fk.steer(Walk(), Tilt(), observers=[watch], algorithm=algorithm, **OPTIONS)
    assert type(caught.value.__cause__) is Broke and not caught.value.partial.complete


class Watch:
    """An observer that cannot be closed, or cannot watch."""

    def __init__(self, *, closes: bool = True, watches: bool = True) -> None:
        self.closes, self.watches, self.closed = closes, watches, 0

    def __call__(self, step: Any) -> None:
        if not self.watches and step.t == 2:
            raise Broke("not seen")

    def close(self) -> None:
        self.closed += 1
        if not self.closes:
            raise Broke("not closed")


@pytest.mark.parametrize("options", [{}, {"algorithm": "gibbs", "sweeps": 2}])
def test_an_observer_that_cannot_be_closed_is_named_and_the_others_are_closed(options) -> None:
    options = {**OPTIONS, **options}
    watches = [Watch(closes=False), Watch()]
    with pytest.raises(fk.FeynkacError, match=r"'Watch'\.close raised Broke: not closed") as caught:
        fk.steer(Walk(), Tilt(), observers=watches, **options)
    assert len(caught.value.partial.samples[0]) == 5 and [each.closed for each in watches] == [1, 1]
    watches = [Watch(closes=False), Watch(watches=False)]
    with pytest.raises(fk.FeynkacError, match=r"'Watch' at step 2 raised Broke: not seen") as caught:
        fk.steer(Walk(), Tilt(), observers=watches, **options)
    assert "not closed" in caught.value.__notes__[0] and [each.closed for each in watches] == [1, 1]
    watches = [Watch(closes=False), Watch()]
    stream = fk.stream(Walk(), Tilt(), observers=watches, **options)
    next(stream)
    with pytest.raises(fk.FeynkacError, match="not closed"):
        stream.close()
    assert watches[1].closed == 1 and len(stream.result.samples) > 0 and list(stream) == []


def test_what_a_resampler_raises_names_it() -> None:
    def lottery(log_weight, rng):
        raise Broke("mine")

    with pytest.raises(fk.ModelError, match="'lottery' at step 1 raised Broke") as caught:
        fk.steer(Walk(), Tilt(), particles=4, seed=0, resampler=lottery)
    assert len(caught.value.partial.samples) == 4


@pytest.mark.parametrize(("method", "returned"), [("step", None), ("step", 3), ("step", (1, 2, 3))])
def test_a_step_that_returns_no_pair_is_named(method, returned) -> None:
    model = type("Wrong", (Walk,), {method: lambda self, t, state, rng: returned})()
    with pytest.raises(fk.FeynkacError, match=r"'Wrong'\.step at step 0 returned \w+; return the state and"):
        fk.steer(model, Tilt(), **OPTIONS)


def test_an_error_in_the_first_step_has_no_particles() -> None:
    with pytest.raises(fk.ModelError) as caught:
        fk.steer(late("step", Walk, Broke("mine"), 1)(), **OPTIONS)
    assert caught.value.partial is None


def test_ctrl_c_before_the_first_step_is_raised_and_later_keeps_the_particles() -> None:
    class Stopped(Walk):
        def __init__(self, at: int) -> None:
            self.at = at

        def step(self, t, state, rng):
            if t == self.at:
                raise KeyboardInterrupt
            return super().step(t, state, rng)

    with pytest.raises(KeyboardInterrupt):
        fk.steer(Stopped(0), Tilt(), **OPTIONS)
    result = fk.steer(Stopped(3), Tilt(), **OPTIONS)
    assert not result.complete and {len(sample) for sample in result.samples} == {3}


# --- arguments that are nearly right


def test_numbers_of_numpy_are_numbers() -> None:
    plain = fk.steer(Walk(), Tilt(), particles=4, islands=2, seed=3)
    result = fk.steer(Walk(), Tilt(), particles=np.int64(4), islands=np.int32(2), seed=np.uint8(3))
    assert result.samples == plain.samples and type(result.seed) is int
    chains = fk.steer(Walk(), Tilt(), particles=np.int64(4), algorithm="gibbs", sweeps=np.int16(3), seed=0)
    assert len(chains.samples) == 2 * 4


@pytest.mark.parametrize("name", ["particles", "islands", "seed", "sweeps"])
@pytest.mark.parametrize("value", [1.0, True, "1", float("nan"), -1, np.float64(2.0)])
def test_what_is_no_whole_number_is_refused(name, value) -> None:
    options = {"particles": 4, "algorithm": "gibbs" if name == "sweeps" else "smc", name: value}
    with pytest.raises(fk.ArgumentError, match=name):
        fk.steer(Walk(), Tilt(), **options)


@pytest.mark.parametrize("name", ["particles", "islands"])
def test_a_number_that_must_be_there_is_not_none(name) -> None:
    with pytest.raises(fk.ArgumentError, match=f"{name} is None; it must be an integer of at least 1"):
        fk.steer(Walk(), Tilt(), **{"particles": 4, name: None})


def test_a_threshold_of_zero_never_resamples() -> None:
    result = fk.steer(Walk(), Tilt(), particles=8, seed=0, ess_threshold=0)
    assert result.history.resampled == []
    assert fk.steer(Walk(), Tilt(), particles=8, seed=0, ess_threshold=1.0).history.resampled == [1, 2, 3, 4]
    np.testing.assert_array_equal(
        result.log_weights, fk.steer(Walk(), Tilt(), particles=8, seed=0, algorithm="importance").log_weights
    )


@pytest.mark.parametrize("value", [Fraction(1, 2), np.float16(0.5), np.array([0.5])])
def test_a_threshold_is_a_number_of_any_kind(value) -> None:
    result, same = (fk.steer(Walk(), Tilt(), particles=8, seed=0, ess_threshold=each) for each in (value, 0.5))
    assert result.history.resampled == same.history.resampled


@pytest.mark.parametrize("many", [10**8, 10**30])
def test_numbers_that_no_machine_holds_are_refused_before_a_run(many) -> None:
    for name, most in (("particles", "10,000,000"), ("sweeps", "1,000,000")):
        with pytest.raises(fk.ArgumentError, match=f"{name} is 10+; it must be at most {most}"):
            fk.steer(Walk(), Tilt(), **{"algorithm": "gibbs", "particles": 4, name: many})
    with pytest.raises(fk.ArgumentError, match=r"block is 10+; it must be at most 1,000,000"):
        fk.redraw(many)
    with pytest.raises(fk.ArgumentError, match=r"sample: k is 10+; it must be at most"):
        fk.steer(Walk(), Tilt(), particles=4, seed=0).sample(many)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.5", None])
def test_what_is_no_threshold_is_refused(value) -> None:
    with pytest.raises(fk.ArgumentError, match=r"ess_threshold is .* from 0"):
        fk.steer(Walk(), Tilt(), ess_threshold=value)


def test_smc_itself_wraps_what_is_raised() -> None:
    from feynkac.smc.engine import smc
    from feynkac.smc.rng import Streams

    run = smc(late("step", Walk, Broke("mine"), 2)(), Tilt(), n=4, resample=multinomial, rng=Streams(0))
    next(run)
    with pytest.raises(fk.ModelError, match="at step 1"):
        next(run)


def test_a_number_of_steps_may_be_one_of_numpy(tiny_lm) -> None:
    task = tiny_lm("a", "b", eos=()).prompt("a", max_tokens=5)
    options = {"particles": 8, "seed": 0, "ess_threshold": 1.0}
    plain, numpy = (fk.steer(task, fk.reward(len, every=every), **options) for every in (2, np.int64(2)))
    assert plain.samples == numpy.samples and plain.history.levels == numpy.history.levels


@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"timeout": 5.0}, {"on_error": "retry", "retries": 0}])
def test_a_function_that_would_end_the_process_has_failed(how, tiny_lm) -> None:
    def leave(text: str) -> float:
        raise SystemExit(7)

    with pytest.raises(fk.PotentialError, match="raised SystemExit: 7") as caught:
        fk.steer(tiny_lm().prompt("a", max_tokens=2), fk.reward(leave, **how), particles=2, seed=0)
    assert type(caught.value.__cause__) is SystemExit


def test_a_program_that_would_end_the_process_has_failed() -> None:
    @fk.program
    def leaves(p):
        p.sample(fk.Bernoulli(0.5))
        raise SystemExit(7)

    with pytest.raises(fk.ProgramError, match="raised SystemExit"):
        fk.steer(leaves(), particles=2, seed=0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("wrong", [asyncio.CancelledError(), GeneratorExit(), SystemExit(7), StopIteration()])
def test_a_reward_that_raises_what_is_no_exception_of_its_own_is_told_as_any_other(tiny_lm, wrong, workers) -> None:
    def score(text: str) -> float:
        raise wrong

    with pytest.raises(fk.PotentialError, match=f"raised {type(wrong).__name__}") as caught:
        fk.steer(tiny_lm("a").prompt("a", max_tokens=2), fk.reward(score, workers=workers), particles=2, seed=0)
    assert caught.value.__cause__ is wrong
