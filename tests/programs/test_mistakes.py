"""One clear error for each mistake in a program; the commonest ones are in test_programs."""

from __future__ import annotations

import functools
import random
import re

import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ProgramError, ReplayDiverged
from feynkac.programs import Bernoulli, program
from feynkac.programs.runtime import recorder
from feynkac.smc.resample import multinomial


def steered(f, *args, **options):
    return fk.steer(program(f)(*args), **{"particles": 16, "seed": 0, "resampler": multinomial, **options})


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        ("p.condition(1)", r"p\.condition\(1\): give a bool; for a log-weight use p\.factor"),
        ("p.condition(re.match('a', 'b'))", r"p\.condition\(None\): give a bool"),
        ("p.condition(-0.5)", r"p\.condition\(-0\.5\): give a bool; for a log-weight use p\.factor"),
        ("p.factor(1 > 2)", r"p\.factor\(False\): give a number in nats; for a bool use p\.condition"),
    ],
)
def test_what_is_no_condition_and_what_is_no_score(holds: str, message: str) -> None:
    def wrong(p):
        p.sample(Bernoulli(0.5))
        eval(holds, {"p": p, "re": re})
        return 0

    with pytest.raises(ArgumentError, match=message) as caught:
        steered(wrong)
    assert any("in program 'wrong', particle 0, step 0" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("what", ["next_token", "append", "gen", "mask"])
def test_every_way_to_go_on_after_the_end(tiny_lm, what) -> None:
    lm = tiny_lm("a")

    def goes_on(p):
        text = lm.context("a")
        p.observe(text.next_token(), text.eos)
        if what == "append":
            text.append("a")
        else:
            p.sample({"next_token": text.next_token, "gen": lambda: text.gen(regex="a"),
                      "mask": lambda: text.mask(["a"])}[what]())  # fmt: skip
        return str(text)

    with pytest.raises(ProgramError, match=r"this text has ended, after ''; ask text\.ended before going on"):
        steered(goes_on)


def test_a_program_that_scores_forever(monkeypatch) -> None:

    monkeypatch.setattr(recorder, "MAX_REQUESTS", 100)

    def endless(p):
        while True:
            p.factor(-0.1)

    with pytest.raises(
        ProgramError, match=r"does not stop: 100 requests without a sample.*Let each round of a loop sample"
    ):
        steered(endless)


@pytest.mark.parametrize("algorithm", ["beam", "gibbs"])
def test_a_program_that_uses_random_under_other_algorithms(algorithm) -> None:
    def impure(p):
        for _ in range(8):
            p.sample(Bernoulli(0.5))
            p.factor(-random.random())
        return 0

    with pytest.raises(ReplayDiverged, match=r"request \d+ was factor.*first time it was factor.*p\.once"):
        steered(impure, algorithm=algorithm, ess_threshold=1.0)


def test_an_impure_program_loses_the_path_of_gibbs() -> None:
    """One sample and so no fork within a sweep: only the reference tells."""
    calls = []

    def impure(p):
        calls.append(1)
        p.sample(Bernoulli(0.5))
        p.condition(len(calls) <= 16)
        return 0

    with pytest.raises(ArgumentError, match=r"reference path has weight zero at step 0.*the same each time"):
        steered(impure, algorithm="gibbs")


def test_a_program_without_a_text_that_returns_nothing_is_told() -> None:
    def silent(p):
        p.sample(Bernoulli(0.5))

    assert steered(silent).warnings == ["every sample is None: a program gives what it returns"]


USES = {
    "sample": lambda p, text: p.sample(text.next_token()),
    "append": lambda p, text: text.append("a"),
    "append ids": lambda p, text: text.append([1]),
    "gen": lambda p, text: p.sample(text.gen(max_tokens=1)),
    "mask": lambda p, text: p.observe(text.mask(["a"]), True),
    "observe": lambda p, text: p.observe(text.next_token(), "a"),
    "observe text": lambda p, text: text.observe_text("a"),
    "log prob": lambda p, text: text.log_prob("a"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("of", ["a run that is over", "another particle"])
def test_a_context_of_another_particle_is_not_used(tiny_lm, use, of) -> None:
    lm, kept = tiny_lm("a"), []

    def opens(p):
        kept.append(lm.context("a"))
        return p.sample(Bernoulli(0.5))

    def uses(p):
        kept.append(lm.context("a"))
        p.sample(Bernoulli(0.5))
        USES[use](p, kept[0])
        return 1

    if of == "a run that is over":
        steered(opens)
    with pytest.raises(ProgramError, match=r"<context 'a?'> was used outside of its own run, .* by another particle"):
        steered(uses, particles=2)


def test_a_distribution_of_another_particles_context_is_not_sampled(tiny_lm) -> None:
    lm, kept = tiny_lm("a"), []

    def shares(p):
        kept.append(lm.context("a").next_token())
        return p.sample(kept[0])

    with pytest.raises(ProgramError, match="was used outside of its own run"):
        steered(shares, particles=2)


class Called:
    def __call__(self, p):
        return p.sample(Bernoulli(0.5))


@pytest.mark.parametrize("function", [functools.partial(lambda p, x: x, x=1), Called(), max, print, "f".join])
def test_what_is_called_and_is_no_function_of_python_is_no_program(function) -> None:
    with pytest.raises(ArgumentError, match=r"is no function of Python's own; write `def name\(p, \.\.\.\)`"):
        program(function)


def test_a_method_and_a_decorated_program_are_programs() -> None:
    assert set(steered(Called().__call__).samples) == {True, False}
    assert steered(program(Called().__call__)).samples


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"x": 2})])
def test_a_program_called_with_other_arguments_than_it_has_is_told_there(args, kwargs) -> None:
    @program
    def takes_one(p, x):
        return x

    with pytest.raises(ArgumentError, match=r"<program takes_one\(p, x\)> is called with what stands behind its first"):
        takes_one(*args, **kwargs)


@pytest.mark.parametrize("wrong", [GeneratorExit(), SystemExit(3), StopIteration()])
def test_whatever_a_program_raises_is_told_with_its_line(wrong) -> None:
    def raises(p):
        raise wrong

    with pytest.raises(ProgramError, match=rf"it raised {type(wrong).__name__} in raises .*test_mistakes\.py"):
        steered(raises)


@pytest.mark.parametrize("until", [3, 2.5, [3], {"a": 1}, True])
def test_a_stop_of_a_span_that_is_no_string_is_refused(tiny_lm, until) -> None:
    lm = tiny_lm("a")
    with pytest.raises(ArgumentError, match="give a string that is not empty, or a list of such"):
        steered(lambda p: p.sample(lm.context("a").gen(until=until)))


@pytest.mark.parametrize("holds", [str.isalpha, "ab".__contains__, frozenset("ab").__contains__, re.compile("a").match])
def test_functions_without_weak_references_make_sets_of_tokens(tiny_lm, holds) -> None:
    lm = tiny_lm("a", "b", "1")

    def letter(p):
        text = lm.context("a")
        return p.sample(text.mask(holds)), p.sample(text.next_token())

    assert all(drawn == bool(token and holds(token)) for drawn, token in steered(letter).samples)


def test_a_range_too_wide_for_a_number_is_refused() -> None:
    with pytest.raises(ArgumentError, match="whose difference is finite"):
        fk.Uniform(-1e308, 1e308)
