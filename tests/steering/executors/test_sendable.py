"""Every public potential, and every kind of prompt, can be sent to a worker, also after it has been used here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.steering.algorithms import Plan
from feynkac.steering.executors.packing import Packer, Store
from feynkac.steering.executors.pieces import Call, cut, run_piece
from feynkac.steering.executors.sending import pack_call
from feynkac.steering.problems import read_problems
from tests.steering.executors.test_packing import fill

LETTERS = ("a", "b", *"0123456789-SELCTFROM*tx ")


def score(text: str) -> float:
    return float(text.count("a"))


def is_short(text: str) -> bool:
    return len(text) < 3


class Encoder:
    """A sentence encoder: how often each of two letters occurs."""

    def encode(self, texts: list[str], **_: Any) -> Any:
        return np.array([[1.0 + text.count("a"), 1.0 + text.count("b")] for text in texts])


POTENTIALS: dict[str, Callable[[Any], Any]] = {
    "regex": lambda lm: fk.regex("[ab]*"),
    "json_schema": lambda lm: fk.json_schema({"type": "integer"}),
    "grammar": lambda lm: fk.grammar('start: ("a" | "b")*'),
    "choices": lambda lm: fk.choices(["a", "ab", ""]),
    "tokens": lambda lm: fk.tokens(ban=["b"]),
    "length": lambda lm: fk.length(max=3),
    "after": lambda lm: fk.after("b", fk.regex("a*")),
    "constraint": lambda lm: fk.constraint(is_short),
    "reward": lambda lm: fk.reward(score, every="word", kind="max", scale=0.5),
    "power": lambda lm: fk.power(2.0),
    "process_reward": lambda lm: fk.process_reward(score, "-"),
    "similarity": lambda lm: fk.similarity("a", Encoder(), every="token"),
    "judge": lambda lm: fk.judge(lm, lambda text: f"{text}a", answers=("a", "b"), every="token"),
    "twist": lambda lm: fk.twist(score),
    "product": lambda lm: fk.product(fk.regex("[ab]*"), score) * fk.reward(score) ** 0.5,
    "sql": lambda lm: fk.sql("select"),
    "python": lambda lm: fk.python("expression"),
    "phrases": lambda lm: fk.phrases(ban="ab"),
    "parser": lambda lm: fk.parser(lambda seen, piece: seen + piece, start=b"", accepts=lambda seen: True),
    "wfsa": lambda lm: fk.wfsa({"(a|b)*": -1.0, "a*b": 0.5}),
    "canonical": lambda lm: fk.canonical(),
    "lazy": lambda lm: fk.lazy(lambda text: "bb" not in text),
    "expert": lambda lm: fk.expert(lm.prompt("b"), power=0.5),
    "mixture": lambda lm: fk.mixture([lm.prompt("a"), lm.prompt("b")]),
}


def test_every_public_potential_has_a_case() -> None:
    import feynkac

    assert set(POTENTIALS) == set(feynkac._HOMES["feynkac.potentials"])


def send(call: Call) -> Call:
    """What a worker makes of a call."""
    packer, store = Packer(), Store()
    parcel = pack_call(packer, call)
    fill(store, packer, parcel)
    return store.load(parcel.body)


def assert_travels(call: Call) -> None:
    """A call gives there what it has given here, and its error, if it has one, is the same error."""
    (piece,) = cut(call, 1)
    here = run_piece(call, piece, lambda step: None)
    there = run_piece(send(call), piece, lambda step: None)
    assert str(there.error) == str(here.error)
    assert [result.samples for result in there.results] == [result.samples for result in here.results]
    assert [result.log_evidence for result in there.results] == [result.log_evidence for result in here.results]


@pytest.fixture(scope="module")
def lm(tiny_lm) -> Any:
    return tiny_lm(*LETTERS)


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials_are_sent(lm, name) -> None:
    task = lm.prompt("a", max_tokens=3)
    assert_travels(Call(read_problems(task, [POTENTIALS[name](lm)]), Plan("smc", 4, 1, "ssp", 0.5, None), 0))


@fk.program
def walk(p, lm, steps):
    text = lm.context("a")
    while not text.ended and len(text) < steps:
        p.sample(text.next_token())
    return str(text)


MODELS: dict[str, Callable[[Any], Any]] = {
    "a text": lambda lm: lm.prompt("a", max_tokens=3, stop="b", temperature=0.8, top_k=5),
    "tokens": lambda lm: lm.prompt(tokens=[1, 2], max_tokens=3),
    "a proposal": lambda lm: lm.prompt("a", max_tokens=3, proposal=lm.prompt("b")),
    "bytes": lambda lm: fk.bytewise(lm, beam=None).prompt("a", max_tokens=2),
    "an ensemble": lambda lm: fk.ensemble([lm.prompt("a", max_tokens=3), lm.prompt("b", max_tokens=3)]),
    "a program": lambda lm: walk(lm, 3),
    "a limited program": lambda lm: walk(lm, 3).limited(max_tokens=9),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_sent(lm, name) -> None:
    call = Call(read_problems([MODELS[name](lm)] * 2, [score]), Plan("smc", 4, 2, "ssp", 0.5, None), 0)
    assert_travels(call)


def test_moves_resamplers_and_twists_are_sent(lm) -> None:
    from feynkac.smc.resample import adaptive, systematic
    from feynkac.steering.moves import redraw

    task, shape = lm.prompt("a", max_tokens=5), fk.regex("(ab)*")
    twist = fk.markov_twist(task, shape, runs=8, seed=0)
    level = fk.markov_twist(task, shape, chain=twist.chain, guide=False) ** 0.5
    plan = Plan("smc", 4, 1, adaptive(systematic, ess=0.9), 0.5, None, redraw(2))
    for guess in (twist, level):  # a level alone does not begin to guide on its way
        assert_travels(Call(read_problems(task, [shape, guess]), plan, 0))
