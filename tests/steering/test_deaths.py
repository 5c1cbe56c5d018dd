"""Populations that died say who killed them."""

from __future__ import annotations

import math

import pytest

import feynkac as fk
from feynkac.programs import Bernoulli, program


def died(*arguments, **options) -> str:
    with pytest.raises(fk.AllParticlesDied) as caught:
        fk.steer(*arguments, **{"particles": 8, "seed": 0, **options})
    assert caught.value.partial is not None
    return str(caught.value)


def harsh(text: str) -> float:
    return -math.inf


def harsh_later(text: str) -> float:
    return -math.inf if len(text) > 2 else 0.0


@pytest.mark.parametrize("algorithm", ["smc", "importance", "beam", "gibbs"])
@pytest.mark.parametrize("islands", [1, 2])
def test_a_reward_that_kills_everybody_is_named(tiny_lm, algorithm, islands) -> None:
    task = tiny_lm("a", "b", eos=()).prompt("a", max_tokens=6)
    for reward in (harsh, harsh_later):
        factors = [fk.regex("[ab]*"), fk.reward(reward), fk.reward(lambda text: 1.0)]
        told = died(task, *factors, algorithm=algorithm, islands=islands)
        assert f"'reward({reward.__name__})' rejects " in told and "unfinished" in told
        assert "no token was left" not in told and "lambda" not in told and "regex" not in told


def test_a_reward_that_kills_whole_samples_is_named(tiny_lm) -> None:
    task = tiny_lm("a", "b", eos=()).prompt("a", max_tokens=3)
    told = died(task, fk.reward(harsh, every="end"), algorithm="best_of_n")
    assert "'reward(harsh)' rejects 8 finished, cut at max_tokens=3" in told


def test_each_killer_is_counted(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=())
    told = died(lm.prompt("a", max_tokens=2), fk.constraint(lambda text: "a" not in text, every="token"),
                fk.constraint(lambda text: "a" in text), resampler="never", particles=32)  # fmt: skip
    counts = [int(word) for word in told.split(". Their")[0].split() if word.isdigit()]
    assert counts[0] == 32 and sum(counts[1:]) == 32 and told.count("rejects") == 2


def test_masks_that_leave_no_token_are_told(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=4)
    told = died(task, fk.regex("ab+"), fk.grammar('start: "a" | "b" "a"+'))  # too many texts to be listed
    assert "where no token was left that every constraint allows" in told


def test_constraints_that_exclude_each_other_are_named(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=4)
    dead = fk.steer(task, fk.regex("ab+"), fk.regex("a|ba*"), particles=8, seed=0, on_death="return")
    assert "no text at all meets both \"regex('ab+')\" and \"regex('a|ba*')\"" in dead.warnings[0]


def test_a_row_that_was_resampled_is_not_blamed_on_its_first_killer(tiny_lm) -> None:
    """Half of the particles die of the reward in step 0, are resampled, and die of the limit in the end."""
    task = tiny_lm("a", "b", eos=()).prompt("a", max_tokens=3)
    told = died(task, fk.constraint(lambda text: not text.startswith("a"), every="token"),
                fk.constraint(lambda text: len(text) > 3), ess_threshold=1.0, particles=32)  # fmt: skip
    assert "rejects 32 finished, cut at max_tokens=3" in told and "unfinished" not in told


def test_a_program_that_gives_up_tells_its_line() -> None:
    @program
    def gives_up(p):
        p.sample(Bernoulli(0.5))
        p.condition(False)
        return 1

    @program
    def gives_up_twice(p):
        if p.sample(Bernoulli(0.5)):
            p.factor(-math.inf)
        p.observe(Bernoulli(0.0), True)

    line = gives_up.function.__code__.co_firstlineno
    assert f"the model gave up 8 at line {line + 3} of test_deaths.py" in died(gives_up())
    told = died(gives_up_twice())
    line = gives_up_twice.function.__code__.co_firstlineno
    assert f"at line {line + 3} of test_deaths.py" in told and f"at line {line + 4} of test_deaths.py" in told


def test_each_problem_of_a_batch_has_its_own_killers(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=())
    tasks = [lm.prompt("a", max_tokens=2), lm.prompt("b", max_tokens=3)]
    results = fk.steer(tasks, fk.reward(harsh, every="end"), particles=8, seed=0, on_death="return")
    for result, limit in zip(results, (2, 3), strict=True):
        assert f"'reward(harsh)' rejects 8 finished, cut at max_tokens={limit}" in result.warnings[0]


@program
def writes(p, lm, options):
    return p.sample(lm.context("ab").gen(**options))


@pytest.mark.parametrize(
    ("options", "least"),
    [({"choices": ["a" * 10, "b" * 7]}, 7), ({"regex": "a{4}b*"}, 4), ({"constraint": fk.regex("(ab){9}")}, 18)],
)
def test_a_span_that_max_tokens_has_no_room_for_tells_how_many_it_takes(tiny_lm, options, least) -> None:
    told = died(writes(tiny_lm("a", "b", eos=()), {**options, "max_tokens": 3}))
    line = writes.function.__code__.co_firstlineno + 2
    name = fk.choices(options["choices"]).name if "choices" in options else "regex"
    assert f"8 at line {line} of test_deaths.py, where '{name}" in told
    assert f"takes {least} tokens at least and max_tokens leaves 3" in told and "raise max_tokens" in told
    assert fk.steer(writes(tiny_lm("a", "b", eos=()), {**options, "max_tokens": least}), particles=2, seed=0).samples


def test_a_span_that_dies_of_something_else_blames_no_limit(tiny_lm) -> None:
    @program
    def rules_out(p, lm):
        text = lm.context("ab")
        p.observe(text.mask(["a"]), True)
        return p.sample(text.gen(regex="b{2}", max_tokens=3))

    told = died(rules_out(tiny_lm("a", "b", eos=())))
    assert "at least" not in told and "is not met" not in told and "of test_deaths.py." in told


def test_a_span_that_is_cut_or_disapproved_tells_so(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "[", "]", "1", ",", eos=())
    told = died(writes(lm, {"constraint": fk.grammar('start: "1"+ "]"'), "max_tokens": 1}))
    assert "max_tokens" in told.split(", where 'grammar")[1].split("Their last states")[0]
    schema: dict = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    told = died(writes(lm, {"json_schema": schema, "max_tokens": 9}))
    assert "is not met by the whole text" in told
