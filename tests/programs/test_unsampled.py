"""What a context offers and was never sampled: it is used as a value nowhere, and returned in nothing."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any

import pydantic
import pytest

import feynkac as fk
from feynkac.base.errors import ProgramError
from feynkac.programs import Bernoulli, Categorical, Distribution, Normal, program

OFFERS = {
    "gen": lambda text: text.gen(until="b"),
    "next_token": lambda text: text.next_token(),
    "mask": lambda text: text.mask(["a"]),
    "draft": lambda text: text.draft(text.fork()),
}
USES = {
    "format": lambda x: f"{x}",
    "format with a width": lambda x: f"{x:>9}",
    "str.format": lambda x: "{}".format(x),  # noqa: UP032
    "%s": lambda x: "%s" % x,  # noqa: UP031
    "str": str,
    "if": lambda x: 1 if x else 2,
    "not": lambda x: not x,
    "or": lambda x: x or "nothing",
    "==": lambda x: x == "b",
    "!=": lambda x: x != "b",
    "in": lambda x: x in ["a", "b"],
}


@program
def applies(p, lm, offer, use):
    return str(use(offer(lm.context("ab"))))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("offer", OFFERS)
def test_what_was_never_sampled_is_used_as_no_value(tiny_lm, offer, use) -> None:
    with pytest.raises(ProgramError, match=r"never sampled, p\.sample is missing; write x = p\.sample"):
        fk.steer(applies(tiny_lm("a", "b"), OFFERS[offer], USES[use]), particles=2, seed=0)


@pytest.mark.parametrize("dist", [Bernoulli(0.5), Categorical({"a": 1}), Normal()])
def test_a_plain_distribution_has_a_name_and_no_truth_value(dist) -> None:
    for use in ("format", "if", "not", "or"):
        with pytest.raises(ProgramError, match=r"p\.sample is missing"):
            USES[use](dist)
    assert str(dist) == repr(dist) and dist == dist and dist != "b" and len({dist, dist}) == 1
    assert f"{dist!r}" == repr(dist)


def test_distributions_of_a_context_are_told_apart_and_kept_in_sets(tiny_lm) -> None:
    @program
    def keeps(p, lm):
        text = lm.context("ab")
        offers = [text.mask(["a"]), text.mask(["b"]), text.next_token()]
        assert len(set(offers)) == 3 and offers[0] != offers[1] and offers[2] in offers
        return p.sample(offers[0])

    assert set(fk.steer(keeps(tiny_lm("a", "b")), particles=16, seed=0).samples) == {True, False}


@dataclasses.dataclass
class Record:
    answer: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    answer: Any


class Answer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow")
    answer: Any
    _hidden: Any = None


class Plain:
    def __init__(self, answer: Any) -> None:
        self.answer = answer


class Child(Plain):
    __slots__ = ("other",)

    def __init__(self, answer: Any) -> None:
        super().__init__(1)
        self.other = answer


def hide(x: Any) -> Answer:
    made = Answer(answer=1)
    made._hidden = x
    return made


def circle(x: Any) -> Plain:
    made = Plain(x)
    made.itself = made  # pyright: ignore[reportAttributeAccessIssue]
    return made


HOLDERS = {
    "dataclass": Record, "slots": Slotted, "pydantic": lambda x: Answer(answer=x), "object": Plain, "child": Child,
    "extra": lambda x: Answer.model_validate({"answer": 1, "more": x}), "private": hide, "circle": circle,
    "namespace": lambda x: types.SimpleNamespace(x=x),
    "deep": lambda x: [{"a": Record(Plain((1, Answer(answer=[x]))))}],
    "deque": lambda x: collections.deque([x]), "key": lambda x: {x: 1},
}  # fmt: skip


@program
def returns(p, lm, hold, offer):
    return hold(offer(lm.context("ab")))


@pytest.mark.parametrize("hold", HOLDERS)
def test_an_object_that_holds_what_was_never_sampled_is_not_returned(tiny_lm, hold) -> None:
    for offer in OFFERS.values():
        with pytest.raises(ProgramError, match=r"'returns' returned .* never sampled: write x = p\.sample"):
            fk.steer(returns(tiny_lm("a", "b"), HOLDERS[hold], offer), particles=2, seed=0)


@program
def samples(p, lm, hold):
    text = lm.context("ab")
    return hold(p.sample(text.gen(max_tokens=2)))


@pytest.mark.parametrize("hold", HOLDERS)
def test_an_object_that_holds_what_was_sampled_is_returned(tiny_lm, hold) -> None:
    assert len(fk.steer(samples(tiny_lm("a", "b"), HOLDERS[hold]), particles=2, seed=0).samples) > 0


def test_a_chain_of_objects_may_be_as_long_as_it_likes() -> None:
    @program
    def chains(p):
        made = None
        for _ in range(5000):
            made = Plain(made)
        return made

    assert len(fk.steer(chains(), particles=2, seed=0).samples) == 2


def test_a_plain_distribution_may_be_returned() -> None:
    @program
    def picks(p):
        return Record(p.sample(Categorical({Bernoulli(0.5): 1, Normal(): 1})))

    found = fk.steer(picks(), particles=8, seed=0).samples
    assert all(isinstance(record.answer, Distribution) for record in found)


@pytest.mark.parametrize(
    "make",
    [
        lambda draw: (draw() for _ in range(2)),
        lambda draw: {"a": map(lambda _: draw(), "ab")},
        lambda draw: [zip("ab", filter(None, (draw() for _ in range(2))), strict=True)],
    ],
)
def test_what_would_sample_only_after_the_program_is_not_returned(make) -> None:
    @fk.program
    def lazy(p):
        return make(lambda: p.sample(fk.Bernoulli(0.5)))

    with pytest.raises(ProgramError, match=r"program 'lazy' returned <.*, of which nothing has run yet; return what"):
        fk.steer(lazy(), particles=2, seed=0)
