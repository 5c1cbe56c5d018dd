"""Detailed balance of redraws over all texts there are: as much flows from one text to another as back.

At the step of a move every run of one particle is walked to the move. What it weighs there, times what leads it on, is
summed for each pair of texts, before and behind the move, those that have ended among them. A kernel that keeps the
target of this step, p psi, and is its own reverse makes this a symmetric matrix.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from test_language_model import remember
from test_proposals import TEMPERATURE

import feynkac as fk
from feynkac.base.capabilities import Guides
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.proposals import Tempered
from feynkac.models.language.texts import AT_LIMIT, BY_EOS, BY_STOP, RUNNING
from feynkac.potentials.base import product
from feynkac.smc.engine import smc
from feynkac.smc.redraws import Redraw
from feynkac.smc.rejuvenation import Rejuvenation
from feynkac.smc.resample import never
from feynkac.smc.testing import enumerate_runs

Text = tuple[tuple[int, ...], int]
"""The tokens of a text, and how it ended."""


class Moved(Exception):
    """What a run weighs when it is moved, and its text before and behind."""


@dataclass(frozen=True)
class Watched(Redraw):
    """A redraw at which the run is over."""

    def __call__(self, t: int, now: Any, past: Any, rng: Any) -> Any:
        before = _read(now.state)
        moved, _ = super().__call__(t, now, past, rng)
        assert moved.done[0] == (moved.state.ended[0] != RUNNING)
        raise Moved(float(now.log_weight[0]), before, _read(moved.state))


def _read(state: Any) -> Text:
    return tuple(state.tokens([0])[0].tolist()), int(state.ended[0])


def find_flow(lm: Any, options: dict[str, Any], potentials: list[Any], sizes: tuple[int, int, int]) -> dict[Any, float]:
    """What flows from each text to each."""
    every, block, tail = sizes
    potential = product(*potentials)
    model = lm.prompt("a", temperature=TEMPERATURE, **options)
    model = model.constrain([each for each in potential.factors if isinstance(each, TokenConstraint)])
    model = model.heed([each for each in potential.factors if isinstance(each, Guides)])
    moves = Rejuvenation(Watched(model, potential, block, tail), every)

    def run(rng: Any) -> Any:
        try:
            for _ in smc(model, potential, n=1, resample=never, rng=rng, moves=moves):
                pass
        except Moved as found:
            return found.args
        return None  # it has ended before its block, or died

    flow: dict[Any, float] = defaultdict(float)
    for p, found in enumerate_runs(run):
        if found is not None:
            log_w, before, behind = found
            flow[before, behind] += p * math.exp(log_w)
    return flow


def assert_balanced(flow: dict[Any, float]) -> None:
    total = sum(flow.values())
    for (before, behind), mass in flow.items():
        assert mass == pytest.approx(flow.get((behind, before), 0.0), abs=1e-12 * total), (before, behind)


CASES: dict[str, Any] = {
    "nothing weighs": ({}, []),
    "stop strings": ({"stop": ["ba", "bb"]}, []),
    "an end that is forced": ({"at_limit": "end"}, []),
    "a mask": ({}, [fk.regex("a*b?a*")]),
    "another proposal": ({"proposal": Tempered(1.7)}, [fk.reward(lambda x: 0.7 * x.count("b"))]),
    "levels of the whole path": ({}, [fk.reward(lambda x: x.count("b") - 0.4 * len(x), kind="max")]),
    "a reward at the end alone": ({}, [fk.reward(lambda x: 0.9 * x.count("b"), every="end")]),
    "a law that leaves tokens out": ({"top_k": 3}, []),
    "a law that reads its history": ({"repetition_penalty": 1.5, "no_repeat_ngram_size": 3}, []),
}


@pytest.mark.parametrize("sizes", [(3, 2, 0), (3, 1, 1), (4, 1, 1)], ids=["no tail", "a tail", "a tail at the limit"])
@pytest.mark.parametrize("case", CASES)
def test_a_redraw_is_in_detailed_balance(tiny_lm, monkeypatch, case, sizes) -> None:
    remember(monkeypatch)
    options, potentials = CASES[case]
    letters = "abc" if "top_k" in options else "ab"
    flow = find_flow(tiny_lm(*letters, seed=3), {"max_tokens": 4, **options}, potentials, sizes)
    assert_balanced(flow)
    moved = [pair for pair in flow if pair[0] != pair[1]]
    assert moved
    until = sizes[0] - sizes[2]
    assert all(before[0][until:] == behind[0][until:] for before, behind in moved)
    if case == "nothing weighs" and not sizes[2]:  # texts that have ended run again, and the reverse
        assert {(before[1], behind[1]) for before, behind in moved} >= {(RUNNING, BY_EOS), (BY_EOS, RUNNING)}
    if case == "stop strings" and not sizes[2]:
        assert {(before[1], behind[1]) for before, behind in moved} >= {(RUNNING, BY_STOP), (BY_STOP, BY_EOS)}
    if sizes[0] == 4 and case == "nothing weighs":
        assert {before[1] for before, _ in moved} == {AT_LIMIT, BY_EOS}
