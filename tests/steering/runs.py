"""Runs of many kinds, for tests of what must be the same for all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

import feynkac as fk
from tests.exact.toys import chain

KINDS = ("prompt", "problems", "program", "toy", "gibbs", "islands of gibbs", "problems of gibbs", "optimal", "beam")


@fk.program
def walk(p, lm, steps):
    text = lm.context("a")
    while not text.ended and len(text) < steps:
        p.sample(text.next_token())
    return str(text)


def count(text: str) -> float:
    return 0.5 * text.count("b")


def make(kind: str, tiny_lm: Any) -> tuple[Any, list[Any], dict[str, Any]]:
    """A model, potentials and options of a run of some kind."""
    lm = tiny_lm()
    prompts = [lm.prompt("a", max_tokens=6), lm.prompt("bb", max_tokens=4)]
    toy, reward = chain(), fk.reward(count)
    gibbs = {"algorithm": "gibbs", "sweeps": 3}
    return {
        "prompt": (prompts[0], [reward, fk.regex("[ab]*")], {}),
        "problems": (prompts, [reward], {}),
        "program": (walk(lm, 5), [reward], {}),
        "toy": (toy.model, [toy.potential], {}),
        "gibbs": (prompts[0], [reward], gibbs),
        "islands of gibbs": (prompts[0], [reward], {**gibbs, "islands": 2}),
        "problems of gibbs": (prompts, [reward], gibbs),
        "optimal": (prompts[0], [reward], {"algorithm": "optimal"}),
        "beam": (prompts[0], [reward], {"algorithm": "beam"}),
    }[kind]


def list_results(found: Any) -> list[fk.Result]:
    """The results of a call, of one problem or of a list."""
    return [found] if isinstance(found, fk.Result) else found


def assert_same(found: Any, wanted: Any) -> None:
    """Results are equal, bit for bit, in all but the time that they took."""
    for one, other in zip(list_results(found), list_results(wanted), strict=True):
        for each in fields(fk.Result):
            if each.name not in ("timing", "reader"):
                np.testing.assert_equal(read(getattr(one, each.name)), read(getattr(other, each.name)), each.name)


def read(value: Any) -> Any:
    """What is compared: the samples of a toy are states; in a history, nan is as good as nan."""
    if isinstance(value, fk.History):
        return vars(value)
    return [getattr(each, "pasts", each) for each in value] if isinstance(value, list) else value
