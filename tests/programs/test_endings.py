"""Programs that catch what ends them, and go on: the weight is right, or there is one error."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import feynkac as fk
from feynkac.base.errors import ProgramError
from feynkac.potentials import product
from feynkac.programs import Bernoulli, program
from feynkac.programs.runtime import recorder
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial
from feynkac.smc.testing import enumerate_runs

P, WEIGHT = 0.25, math.log(0.5)
"""Each coin shows True with probability P, and a True second coin weighs exp(WEIGHT)."""


def second(p) -> bool:
    coin = p.sample(Bernoulli(P))
    p.factor(WEIGHT if coin else 0.0)
    return coin


def bare(p):
    first = p.sample(Bernoulli(P))
    try:
        p.condition(first)
    except:  # noqa: E722
        return first, False
    return first, second(p)


def base(p):
    first = p.sample(Bernoulli(P))
    try:
        p.factor(0.0 if first else -math.inf)
    except BaseException:
        return first, False
    return first, second(p)


def suppressed(p):
    first = p.sample(Bernoulli(P))
    with contextlib.suppress(BaseException):
        p.condition(first)
    p.twist(3.0)
    return first, second(p)


def sampled_in_finally(p):
    first = p.sample(Bernoulli(P))
    try:
        p.condition(first)
    finally:
        p.sample(Bernoulli(0.5))
        last = second(p)
    return first, last


def observed_in_finally(p):
    first = p.sample(Bernoulli(P))
    try:
        p.observe(Bernoulli(1.0), first)
    finally:
        p.observe(Bernoulli(1.0), True)
        p.once(lambda: 1)
    return first, second(p)


def generator(p):
    def flips():
        try:
            while True:
                yield p.sample(Bernoulli(P))
        finally:
            p.factor(0.0)

    coins = flips()
    first = next(coins)
    try:
        p.condition(first)
    except GeneratorExit:
        raise
    last = next(coins)
    coins.close()
    p.factor(WEIGHT if last else 0.0)
    return first, last


def in_a_destructor(p):
    first = p.sample(Bernoulli(P))

    class Held:
        def __del__(self):
            p.condition(first)

    held = Held()
    del held
    return first, second(p)


def goes_on_in_a_loop(p):
    first, last = p.sample(Bernoulli(P)), False
    for _ in range(3):
        with contextlib.suppress(BaseException):
            p.condition(first)
            last = second(p)
            break
    return first, last


def in_a_pool(p):
    first = p.sample(Bernoulli(P))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(p.condition, first).exception()
    return first, second(p)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "f",
    [bare, base, suppressed, sampled_in_finally, observed_in_finally, generator, in_a_destructor, goes_on_in_a_loop,
     in_a_pool],
)  # fmt: skip
def test_a_death_that_a_program_catches_is_a_death_all_the_same(f: Callable[..., Any]) -> None:
    """E[Z] and E[sum w f], from all runs of two particles: every first coin is True, whatever was caught."""
    total, yes = 0.0, 0.0
    for probability, last in enumerate_runs(
        lambda rng: list(smc(program(f)(), product(), n=2, resample=multinomial, rng=rng))[-1]
    ):
        for row, log_weight in enumerate(last.log_weight.tolist()):
            total += probability * math.exp(log_weight)
            if log_weight > -math.inf:
                first, other = last.state.samples([row])[0]
                assert first is True
                yes += probability * math.exp(log_weight) * other
    assert total == pytest.approx(P * (1 - P + P * math.exp(WEIGHT)), abs=1e-12)
    assert yes == pytest.approx(P * P * math.exp(WEIGHT), abs=1e-12)


@pytest.mark.parametrize("ends", ["p.condition(False)", "p.factor(-math.inf)", "p.twist(-math.inf)"])
@pytest.mark.parametrize(
    "then", ["p.sample(Bernoulli(0.5))", "p.condition(False)", "p.factor(0.0)", "p.once(int)", "p.rng"]
)
def test_a_program_that_never_lets_go_is_told(monkeypatch, ends, then) -> None:
    monkeypatch.setattr(recorder, "MAX_SWALLOWED", 20)
    code = compile(f"try:\n  {ends}\n  {then}\nexcept BaseException: pass\nelse: raise AssertionError", "it", "exec")

    def clings(p):
        p.sample(Bernoulli(0.5))
        while True:
            exec(code, {"p": p, "math": math, "Bernoulli": Bernoulli})

    with pytest.raises(ProgramError, match=r"'clings', particle \d.*told 20 times.*`except Exception:`") as caught:
        fk.steer(program(clings)(), particles=4, seed=0)
    assert caught.value.step == 0


def test_a_program_that_never_lets_go_of_a_particle_that_was_not_chosen_is_told(monkeypatch) -> None:
    """Its particle has not died itself: it is closed, since the resampling has left it without children."""
    monkeypatch.setattr(recorder, "MAX_SWALLOWED", 20)

    def clings(p):
        coin = p.sample(Bernoulli(0.5))
        p.factor(0.0 if coin else -30.0)
        while True:
            with contextlib.suppress(BaseException):
                p.sample(Bernoulli(0.5))

    with pytest.raises(ProgramError, match="told 20 times") as caught:
        fk.steer(program(clings)(), particles=8, seed=0, ess_threshold=1.0)
    assert caught.value.step == 1 and len(caught.value.partial.samples) == 8


def test_a_divergence_that_a_program_catches_ends_the_run() -> None:
    calls = []

    def impure(p):
        calls.append(1)
        for _ in range(6):
            with contextlib.suppress(Exception):
                p.factor(-3.0 * p.sample(Bernoulli(0.5)) - len(calls))
        return 0

    with pytest.raises(fk.ReplayDiverged):
        fk.steer(program(impure)(), particles=16, seed=0, resampler="multinomial", ess_threshold=1.0)


def test_a_budget_that_a_program_catches_ends_the_run(monkeypatch, tiny_lm) -> None:
    monkeypatch.setattr(recorder, "MAX_REQUESTS", 100)
    monkeypatch.setattr(recorder, "MAX_SWALLOWED", 20)

    def scores(p):
        while True:
            with contextlib.suppress(Exception):
                p.factor(-0.1)

    with pytest.raises(ProgramError, match="does not stop: 100 requests"):
        fk.steer(program(scores)(), particles=2, seed=0)

    def grows(p, lm):
        text = lm.context("a")
        with contextlib.suppress(Exception):
            for _ in range(9):
                text.append("b")
        return str(text)

    with pytest.raises(ProgramError, match="more than 5 tokens"):
        fk.steer(program(grows)(tiny_lm("a", "b")).limited(max_tokens=5))


def test_what_a_program_raises_when_it_is_ended_is_told() -> None:
    def raises(p):
        try:
            p.condition(p.sample(Bernoulli(0.5)))
        finally:
            p.sample.nothing  # noqa: B018

    with pytest.raises(ProgramError, match="it raised AttributeError in raises"):
        fk.steer(program(raises)(), particles=8, seed=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sample_in_a_thread_of_its_own_ends_the_run() -> None:
    def threaded(p):
        thread = threading.Thread(target=lambda: p.sample(Bernoulli(0.5)))
        thread.start()
        thread.join()
        return 1

    with pytest.raises(ProgramError, match="outside of its own run, such as from another thread"):
        fk.steer(program(threaded)(), particles=2, seed=0)


def test_a_program_that_recurses_too_deep_says_where() -> None:
    def deep(p):
        def descend(k):
            return 0 if k == 0 else p.sample(Bernoulli(0.5)) + descend(k - 1)

        return descend(5_000)

    with pytest.raises(
        ProgramError, match=r"calls itself too deep in descend \(.*test_endings\.py:\d+\).*a loop"
    ) as caught:
        fk.steer(program(deep)(), particles=2, seed=0)
    assert type(caught.value.__cause__) is RecursionError and caught.value.partial is not None


def test_a_process_ends_whatever_its_programs_do() -> None:
    code = """
import feynkac as fk
from feynkac.programs import Bernoulli, program
from feynkac.programs.runtime import recorder
recorder.MAX_SWALLOWED = 10
@program
def clings(p):
    while True:
        try:
            p.sample(Bernoulli(0.5)); p.condition(False)
        except BaseException: pass
try:
    fk.steer(clings(), particles=4, seed=0)
except fk.ProgramError as error:
    print("told")
fk.steer(clings(), particles=4, seed=0, observers=[lambda step: True])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "told" in done.stdout, done.stderr
