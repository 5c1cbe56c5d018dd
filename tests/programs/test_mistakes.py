"""One clear error for each mistake in a program; the commonest ones are in test_programs."""

from __future__ import annotations

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
