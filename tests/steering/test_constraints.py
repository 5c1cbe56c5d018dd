"""Constraints through the front door: what a run gives back, and what it says where no text meets them all."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pydantic
import pytest

import feynkac as fk
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.proposals import Masked
from feynkac.steering.exclusions import excludes


class Box(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def check(cls, a: int) -> int:
        if a == 11:
            raise ValueError("not eleven")
        return a


PARTS = ("{", "}", '"a"', ":", "1", " ", ",", "\n", '{"a":')


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Any:
    return tiny_lm(*PARTS, seed=2)


def test_a_class_gives_instances(lm: Any) -> None:
    result = fk.steer(lm.prompt("1", max_tokens=8), fk.json_schema(Box), particles=64, seed=0)
    values = result.parsed()
    for text, value in zip(result.samples, values, strict=True):
        assert value is None or (isinstance(value, Box) and json.loads(text) == value.model_dump())
    assert {value.a for value in values if value} >= {1} and 11 not in {value.a for value in values if value}


@pytest.mark.parametrize("limit", [4, 6, 12])
@pytest.mark.parametrize("whitespace", ["compact", " ?", "flexible"])
def test_a_tight_limit_does_not_kill_json(lm: Any, limit: int, whitespace: str) -> None:
    """The model draws blanks and line breaks as readily as anything else."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = fk.json_schema(schema, whitespace=whitespace)
    result = fk.steer(lm.prompt("1", max_tokens=limit), constraint, particles=32, seed=0)
    assert (result.weights > 0).all()
    for text in result.samples:
        assert json.loads(text)["a"] % 10 == 1


def test_checked_schemas_weigh_whole_texts(lm: Any) -> None:
    """Without resampling a run under "check" is that under "ignore", and what is not valid has no weight."""
    schema = {"enum": [1, 11], "not": {"const": 11}}
    task = lm.prompt("1", max_tokens=2, proposal=Masked())  # or "check" would look ahead to what is valid
    checked, ignored = (
        fk.steer(task, fk.json_schema(schema, unsupported=how), particles=64, ess_threshold=1e-9, seed=0)
        for how in ("check", "ignore")
    )
    assert checked.samples == ignored.samples and set(ignored.posterior()) == {"1", "11"}
    expected = np.where(np.array(ignored.samples) == "11", -np.inf, ignored.log_weights)
    np.testing.assert_array_equal(checked.log_weights, expected)


def test_a_span_of_a_checked_schema_is_checked(lm: Any) -> None:
    @fk.program
    def pick(p: Any, lm: Any, unsupported: Any) -> str:
        schema = fk.json_schema({"enum": [1, 11], "not": {"const": 11}}, unsupported=unsupported)
        return p.sample(lm.context("1").gen(schema, max_tokens=2))

    assert set(fk.steer(pick(lm, "check"), particles=64, seed=0).posterior()) == {"1"}
    assert set(fk.steer(pick(lm, "ignore"), particles=64, seed=0).posterior()) == {"1", "11"}


def test_a_class_is_taken_in_a_program(lm: Any) -> None:
    @fk.program
    def pick(p: Any, lm: Any) -> str:
        return p.sample(lm.context("1").gen(json_schema=Box, max_tokens=6))

    for text in fk.steer(pick(lm), particles=16, seed=0).posterior():
        Box.model_validate_json(text)


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ([fk.choices(["111", "1"]), fk.regex(" 111")], r"meets both .choices.* and .regex\(' 111'\)"),
        ([fk.regex("1*"), fk.regex("1{2}|:{2}"), fk.regex(":*1?"), fk.length(max=3)], "meets all of"),
        ([fk.regex("1{1,3}"), fk.length(min=5, unit="char")], "meets both .regex"),
    ],
)
def test_constraints_that_no_text_meets_are_named(lm: Any, factors: list[Any], named: str) -> None:
    with pytest.raises(fk.AllParticlesDied, match=named):
        fk.steer(lm.prompt("1", max_tokens=4), *factors, particles=8, seed=0)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_that_is_too_short_is_told(lm: Any, limit: int) -> None:
    with pytest.raises(fk.AllParticlesDied, match=r"'regex\('1\{4\}'\)' takes 4 tokens at least.*raise max_tokens"):
        fk.steer(lm.prompt("1", max_tokens=limit), fk.regex("1{4}"), fk.regex("1*"), particles=8, seed=0)


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ([fk.choices(["1", "11"]), fk.grammar('start: ":"+')], r"both .choices.* and .grammar"),
        ([fk.choices(['{"a"', '{"a":']), fk.json_schema({"type": "object"})], r"both .choices.* and .json_schema"),
        ([fk.regex("1|11"), fk.length(min=3)], r"both .regex.* and .length"),
        ([fk.choices(['{"a":']), fk.length(min=5)], r"both .choices.* and .length"),
        ([fk.choices([":", "1:1"]), fk.tokens(ban=[":"])], r"both .choices.* and .tokens"),
        (
            [fk.choices(["1", ":::"]), fk.tokens(ban=["1"]), fk.length(max=2)],
            r"all of .choices.*tokens.*length",
        ),
        ([fk.choices(["1", "11"]), fk.after(":", fk.regex("1?"))], r"both .choices.* and .after"),
    ],
)
def test_texts_that_are_listed_and_excluded_otherwise_are_named(lm: Any, factors: list[Any], named: str) -> None:
    with pytest.raises(fk.AllParticlesDied, match=named):
        fk.steer(lm.prompt("1", max_tokens=4), *factors, particles=8, seed=0)


def test_constraints_that_some_text_meets_are_not_blamed(lm: Any) -> None:
    with pytest.raises(fk.AllParticlesDied) as error:
        fk.steer(lm.prompt("1", max_tokens=2), fk.regex("1{3}") * fk.regex("1*"), particles=8, seed=0)
    assert "meets" not in str(error.value)


def test_every_spelling_of_a_text_is_asked_about() -> None:
    """Against all token sequences that spell the text, by automata that tell spellings apart."""
    vocabulary = Vocabulary((b"", b"a", b"b", b"ab", b"ba", b"a", b"abab"), eos=(0,))
    ids: dict[bytes, list[int]] = {}
    for token in range(1, vocabulary.size):
        ids.setdefault(vocabulary.tokens[token], []).append(token)
    constraints = [fk.length(low, high) for low in range(5) for high in range(low, 5)]
    constraints += [fk.tokens(ban=list(banned)) for banned in itertools.combinations(range(1, 7), 3)]
    found = set()
    for constraint in constraints:
        automaton: Any = constraint.automaton(vocabulary)
        for text in (b"", b"a", b"abab", b"aba"):
            spelt = [
                each
                for n in range(5)
                for each in itertools.product(range(1, 7), repeat=n)
                if vocabulary.bytes(each) == text
            ]
            accepted = any(_accepts(automaton, each) for each in spelt)
            assert excludes(automaton, text, ids) == (not accepted), (constraint.name, text)
            found.add(accepted)
    assert found == {True, False}


def _accepts(automaton: Any, tokens: Any) -> bool:
    state = np.array([automaton.start])
    for token in tokens:
        state = automaton.advance(state, np.array([token]))
    return bool((state >= 0).all() and automaton.accepts(state)[0])


def test_a_text_of_too_many_spellings_is_not_said_to_be_excluded() -> None:
    automaton: Any = fk.length(min=3).automaton(Vocabulary((b"", b"a"), eos=(0,)))
    assert excludes(automaton, b"aa", {b"a": [1]})
    assert not excludes(automaton, b"aa", {b"a": [1]}, most=1)


def test_a_limit_that_is_long_enough_is_not_blamed(lm: Any) -> None:
    """Each of the two takes two tokens of four; what kills is a function."""
    never = fk.constraint(lambda text: False)
    with pytest.raises(fk.AllParticlesDied) as error:
        fk.steer(lm.prompt("1", max_tokens=4), fk.choices(["11", "::"]), fk.regex("..?"), never, particles=8, seed=0)
    assert "at least" not in str(error.value) and "meets" not in str(error.value)


@pytest.mark.parametrize(
    "constraints",
    [
        (fk.regex("a+"), fk.regex("b+")),
        (fk.phrases(ban=["1"]), fk.regex(".*1.*")),
        (fk.length(min=3, unit="word"), fk.choices(["a", "b c"])),
        (fk.regex("(?s).{500,}") * fk.regex("(?s)[^x]{0,400}"),),
        (fk.wfsa({"a+": 0.5}), fk.regex("b")),
        (fk.regex("[ab]c?"), fk.regex("[bc]c?"), fk.regex("[ac]c?")),
    ],
)
def test_constraints_that_no_text_meets_are_refused_before_the_run(lm: Any, monkeypatch: Any, constraints: Any) -> None:
    task = lm.prompt("1", max_tokens=8)
    monkeypatch.setattr(type(lm), "open", lambda *given: pytest.fail("the model was called"))
    for kind in (fk.ConstraintError, fk.AllParticlesDied):
        with pytest.raises(kind, match=r"no text at all meets (both|all of)"):
            fk.steer(task, *constraints, particles=4)


def test_where_the_dead_are_wanted_they_are_returned(lm: Any) -> None:
    constraints = fk.choices(["1"]), fk.choices(["1:"])
    dead = fk.steer(lm.prompt("1", max_tokens=3), *constraints, particles=4, seed=0, on_death="return")
    assert dead.log_evidence == -np.inf
