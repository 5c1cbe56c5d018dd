"""Texts drawn anew on a tiny language model: every run of small populations, and what the caches keep meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_language_model import Remembered, last, remember
from test_proposals import TEMPERATURE, law
from toys import BiasFound, ChainModel, MaxReward, assert_equal_masses

import feynkac as fk
from feynkac.base.capabilities import Guides
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenConstraint
from feynkac.models.language import retracing
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.lm import CausalLM
from feynkac.models.language.proposals import Drafted, Tempered
from feynkac.potentials.base import Factor, product
from feynkac.potentials.power import PowerOfLaw
from feynkac.smc.engine import smc
from feynkac.smc.redraws import Redraw
from feynkac.smc.rejuvenation import Rejuvenation
from feynkac.smc.resample import never, shrink, systematic
from feynkac.smc.testing import expectation

PATHS = fk.wfsa([("p", "a", "p", 0.3), ("p", "b", "q", -0.7), ("q", "[ab]", "q", 1.1)], "p", {"p": -1.0, "q": 0.0})


def _sum_paths(text: str) -> float:
    if "b" not in text:
        return math.exp(0.3 * len(text) - 1.0)
    k = text.index("b")
    return math.exp(0.3 * k - 0.7 + 1.1 * (len(text) - k - 1))


# Particles, steps between moves, block, tail, chains; options of the prompt; potentials, and what they weigh in all.
CASES: dict[str, Any] = {
    "a mask": ((1, 2, 1, 0, None), {}, [fk.regex("a*b?a*")], lambda x: float(x.count("b") < 2)),
    "a mask, contexts forked": (
        (2, 2, 1, 0, None), {}, [fk.regex("a[ab]{2}"), fk.reward(lambda x: 1.5 * x.count("ab"))],
        lambda x: (len(x) == 3 and x[0] == "a") * math.exp(1.5 * x.count("ab"))),
    "a running maximum": ((1, 2, 1, 0, None), {}, [fk.reward(lambda x: x.count("b") - 0.4 * len(x), kind="max")],
                          lambda x: math.exp(x.count("b") - 0.4 * len(x))),
    "a guide": ((1, 2, 1, 0, None), {}, [PATHS], _sum_paths),
    "an end that is forced": ((1, 2, 1, 0, None), {"at_limit": "end"}, [fk.constraint(lambda x: len(x) != 1)],
                              lambda x: float(len(x) != 1)),
    "another proposal": ((1, 2, 1, 0, None), {"proposal": Tempered(1.7)}, [fk.regex("a*b?a*")],
                         lambda x: float(x.count("b") < 2)),
    "a lazy constraint": (
        (1, 2, 1, 0, None), {"max_tokens": 2}, [fk.regex("b[ab]?"), fk.lazy(lambda x: "bb" not in x, draws=2)],
        lambda x: float(x in ("b", "ba"))),
    "waste-free": ((2, 2, 1, 0, 1), {}, [fk.regex("[ab]{3}"), fk.reward(lambda x: 1.5 * x.count("ab"))],
                   lambda x: (len(x) == 3) * math.exp(1.5 * x.count("ab"))),
    "a tail": ((1, 3, 1, 1, None), {}, [], lambda x: 1.0),
    "a tail, before the limit": ((1, 3, 1, 1, None), {"max_tokens": 4}, [fk.regex("a[ab]{2,3}")],
                                 lambda x: float(x[:1] == "a" and len(x) > 2)),
    "a tail, and a mask": ((1, 3, 1, 1, None), {}, [fk.regex("a*b?a*")], lambda x: float(x.count("b") < 2)),
    "a tail, and a mask that looks ahead": (
        (1, 3, 1, 1, None), {"max_tokens": 4}, [fk.regex("abbb|aaab?|aabbb")],
        lambda x: float(x in ("abbb", "aaa", "aaab"))),
    "a tail of two": ((1, 4, 1, 2, None), {"max_tokens": 4}, [fk.regex("b[ab]{2}a?")],
                      lambda x: float(x[:1] == "b" and len(x) > 2 and "b" not in x[3:])),
    "a tail, contexts forked": (
        (2, 3, 1, 1, None), {}, [fk.regex("a[ab]{2}"), fk.reward(lambda x: 1.5 * x.count("ab"))],
        lambda x: (len(x) == 3 and x[0] == "a") * math.exp(1.5 * x.count("ab"))),
    "a tail, and a running maximum": (
        (1, 3, 1, 1, None), {}, [fk.reward(lambda x: x.count("b") - 0.4 * len(x), kind="max")],
        lambda x: math.exp(x.count("b") - 0.4 * len(x))),
    "a tail, and a sum on the way": (
        (1, 3, 1, 1, None), {}, [fk.regex("[ab]{3}"), fk.reward(lambda x: 0.7 * x.count("b"), kind="sum")],
        lambda x: (len(x) == 3) * math.exp(0.7 * x.count("b"))),
    "a tail, and a guide": ((1, 3, 1, 1, None), {}, [PATHS], _sum_paths),
    "a tail, and an end that is forced": (
        (1, 3, 1, 1, None), {"at_limit": "end"}, [fk.constraint(lambda x: len(x) != 1)], lambda x: float(len(x) != 1)),
    "a tail, and another proposal": ((1, 3, 1, 1, None), {"proposal": Tempered(1.7)}, [fk.regex("a*b?a*")],
                                     lambda x: float(x.count("b") < 2)),
    "a tail, and a lazy constraint": (
        (1, 3, 1, 1, None), {}, [fk.regex("a[abc][ab]"), fk.lazy(lambda x: "ac" not in x and "bb" not in x, draws=2)],
        lambda x: float(x in ("aaa", "aab", "aba"))),
    "a tail, and a power": ((1, 3, 1, 1, None), {}, [fk.regex("a[ab]{2}"), fk.power(1.6)],
                            lambda x: float(len(x) == 3 and x[0] == "a")),
    "a tail, and listed texts": ((1, 3, 1, 1, None), {}, [fk.choices(["aab", "abb", "bab", "bba"])],
                                 lambda x: float(x in ("aab", "abb", "bab", "bba"))),
    "a tail, waste-free": ((2, 3, 1, 1, 1), {}, [fk.regex("a[ab]{2}"), fk.reward(lambda x: 1.5 * x.count("ab"))],
                           lambda x: (len(x) == 3 and x[0] == "a") * math.exp(1.5 * x.count("ab"))),
}  # fmt: skip


def measure(lm, case: str, kernel: type[Redraw] = Redraw) -> tuple[np.ndarray, np.ndarray]:
    """The expected weight of every text, and its mass."""
    (n, every, block, tail, chains), options, potentials, weigh = CASES[case]
    target: dict[str, float] = {}
    options = {"max_tokens": 3, **options}
    alpha = next((each.alpha for each in potentials if isinstance(each, PowerOfLaw)), 1.0)
    for tokens, p in law(lm, options["max_tokens"], options.get("at_limit", "truncate")).items():
        written = lm.vocabulary.text(tokens)
        target[written] = target.get(written, 0.0) + p**alpha * weigh(written)
    potential = product(*potentials)
    model = lm.prompt("a", temperature=TEMPERATURE, **options)
    model = model.constrain([each for each in potential.factors if isinstance(each, TokenConstraint)])
    model = model.heed([each for each in potential.factors if isinstance(each, Guides)])
    waste_free = () if chains is None else (shrink(systematic, chains), n // chains)
    moves = Rejuvenation(kernel(model, potential, block, tail), every, *waste_free)

    def masses(rng: Any) -> np.ndarray:
        step: Any = last(smc(model, potential, n=n, resample=systematic if n > 1 else never, rng=rng, moves=moves))
        written = step.state.texts(range(n))
        return np.array([np.exp(step.log_weight) @ [text == each for text in written] for each in target])

    return expectation(masses), np.array(list(target.values()))


@pytest.mark.parametrize("case", CASES)
def test_texts_drawn_anew_leave_the_target_invariant(tiny_lm, monkeypatch, case) -> None:
    remember(monkeypatch)
    letters = "abc" if case == "a tail, and a lazy constraint" else "ab"
    assert_equal_masses(*measure(tiny_lm(*letters, seed=3), case))


class RatioLeftOut(Redraw):
    """What is drawn is taken, whatever it weighs."""

    def __call__(self, t: int, now: Any, past: Any, rng: Any) -> Any:
        past.gained[:] = -700.0
        return super().__call__(t, now, past, rng)


class TailForNothing(Redraw):
    """What stays behind a new block is not weighed by the law there."""

    def _retrace(self, start: int, new: Any, done: Any, of: Any) -> Any:
        weighed = super()._retrace(start, new, done, of)
        law = weighed.state.tell_log_prob(np.arange(len(new.done))) - new.state.tell_log_prob(np.arange(len(new.done)))
        return replace(weighed, log_weight=np.where(weighed.alive, weighed.log_weight - law, -np.inf))


@pytest.mark.parametrize("case", ["a tail", "a tail, and a running maximum"])
def test_a_tail_that_is_not_weighed_behind_a_new_block_is_caught(tiny_lm, monkeypatch, case) -> None:
    remember(monkeypatch)
    with pytest.raises(BiasFound):
        assert_equal_masses(*measure(tiny_lm("a", "b", seed=3), case, TailForNothing))


def test_a_tail_that_masks_forbid_behind_a_new_block_is_never_taken(tiny_lm, monkeypatch) -> None:
    """It would be where a mask looks further ahead than what weighs: to texts that can end within the limit."""
    remember(monkeypatch)
    monkeypatch.setattr(retracing, "_allow", lambda model, state, rows, tokens: np.ones(len(rows), np.bool_))
    with pytest.raises(BiasFound):
        assert_equal_masses(*measure(tiny_lm("a", "b", seed=3), "a tail, and a mask that looks ahead"))


@pytest.mark.parametrize("case", ["a running maximum", "another proposal", "a tail, and a running maximum"])
def test_texts_drawn_anew_without_the_ratio_are_caught(tiny_lm, monkeypatch, case) -> None:
    remember(monkeypatch)
    with pytest.raises(BiasFound):
        assert_equal_masses(*measure(tiny_lm("a", "b", seed=3), case, RatioLeftOut))


@pytest.mark.parametrize(("every", "block", "tail"), [(2, 1, 0), (3, 2, 0), (3, 1, 1)])
def test_a_text_that_a_stop_string_ends_is_drawn_anew_as_any_other(tiny_lm, monkeypatch, every, block, tail) -> None:
    """The mass of texts with a stop string, by the length at which they stop."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    model, potential = lm.prompt("a", max_tokens=3, stop=["ba"], temperature=TEMPERATURE), product()
    target: dict[str, float] = {}
    for tokens, p in law(lm, 3, "truncate").items():
        text = lm.vocabulary.text(tokens)
        stopped = text[: text.index("ba") + 2] if "ba" in text else text
        target[stopped] = target.get(stopped, 0.0) + p

    moves = Rejuvenation(Redraw(model, potential, block, tail), every)

    def masses(rng: Any) -> np.ndarray:
        step: Any = last(smc(model, potential, n=1, resample=never, rng=rng, moves=moves))
        return np.array([math.exp(step.log_z) * (step.state.texts([0])[0] == each) for each in target])

    assert_equal_masses(expectation(masses), np.array(list(target.values())))


# --- caches ----------------------------------------------------------------------------------------------------------

STORES = {
    "shared": None,
    "plain": lambda lm, prompts, max_new: PlainContexts(lm._twins, prompts),
    "remembered": lambda lm, *given: Remembered(lm.model, *given),
}


@pytest.mark.parametrize(
    "moves",
    [fk.redraw(3, every=4), fk.redraw(3, every=4, chains=4), fk.redraw(2, tail=3), fk.redraw(2, tail=2, chains=4)],
    ids=["block", "chains", "tail", "chains with a tail"],
)
def test_every_cache_keeps_what_is_gone_back_to(tiny_lm, monkeypatch, moves) -> None:
    """The same texts from the shared cache, from the model's own, and from one that looks up whole histories."""
    lm = tiny_lm("a", "b", "e", seed=1)
    tasks = [lm.prompt("ab", max_tokens=14), lm.prompt("e", max_tokens=11, temperature=0.7)]
    potentials = [fk.regex("(ab?e?)*"), fk.reward(lambda x: 0.8 * x.count("ae"))]
    found = {}
    for name, open_store in STORES.items():
        if open_store is not None:
            monkeypatch.setattr(CausalLM, "open", open_store)
        found[name] = fk.steer(tasks, *potentials, particles=12, moves=moves, seed=5)
    for shared, plain, looked_up in zip(*found.values(), strict=True):
        assert shared.samples == plain.samples == looked_up.samples
        np.testing.assert_allclose(shared.log_weights, looked_up.log_weights, atol=1e-4)
        np.testing.assert_allclose(plain.log_weights, looked_up.log_weights, atol=1e-4)


@pytest.mark.parametrize("moves", [fk.redraw(3), fk.redraw(2, tail=2), fk.redraw(6, every=16), fk.redraw(3, chains=2)])
def test_a_prompt_in_a_batch_is_redrawn_as_it_is_alone(tiny_lm, moves) -> None:
    lm = tiny_lm("a", "b", "e", seed=1)
    first, second = lm.prompt("ab", max_tokens=14), lm.prompt("e", max_tokens=9, proposal=Tempered(1.3))
    mask = fk.regex("(ab?e?)*")
    together = fk.steer([(first, mask), second], particles=8, moves=moves, seed=2)
    alone = fk.steer(first, mask, particles=8, moves=moves, seed=2)
    assert together[0].samples == alone.samples
    np.testing.assert_allclose(together[0].log_weights, alone.log_weights, atol=1e-5)
    assert together[0].forwarded_tokens == alone.forwarded_tokens


@pytest.mark.parametrize("moves", [fk.redraw(4), fk.redraw(3, tail=3)], ids=["block", "tail"])
def test_what_is_drawn_anew_counts_as_forwarded_and_is_forwarded_once(tiny_lm, monkeypatch, moves) -> None:
    stores = []
    opened = CausalLM.open
    monkeypatch.setattr(CausalLM, "open", lambda lm, *given: stores.append(opened(lm, *given)) or stores[-1])
    task = tiny_lm("a", "b", "e", seed=1).prompt("ab", max_tokens=13)
    moved, still = (fk.steer(task, fk.regex("[ab]{13}"), particles=8, moves=each, seed=0) for each in (moves, None))
    assert [moved.forwarded_tokens, still.forwarded_tokens] == [store.forwarded for store in stores]
    assert moved.forwarded_tokens > still.forwarded_tokens


def test_a_tail_goes_through_the_model_in_one_pass(tiny_lm, monkeypatch) -> None:
    """And in several where its logits would take too much memory, with the same texts and weights."""
    passes, appended = [], SharedContexts.append
    monkeypatch.setattr(
        SharedContexts, "append", lambda *given, **options: passes.append(0) or appended(*given, **options)
    )
    task = tiny_lm("a", "b", "e", seed=1).prompt("ab", max_tokens=14)

    def steer(most: int) -> tuple[fk.Result, int]:
        passes.clear()
        monkeypatch.setattr(retracing, "PASS", most)
        return fk.steer(task, fk.regex("[ab]{14}"), particles=8, moves=fk.redraw(2, tail=5), seed=0), len(passes)

    steer(512)  # the first run of a model checks its cache
    (whole, once), (parts, often) = steer(512), steer(16)
    assert once == 2 < often  # before step 7, and before step 14, when all have ended
    assert whole.samples == parts.samples
    np.testing.assert_allclose(whole.log_weights, parts.log_weights, atol=1e-5)


class TellsOfHidden(Factor):
    """A potential that reads what the output layer read, and weighs nothing."""

    name = "reader"

    def __init__(self) -> None:
        self.read: dict[tuple[int, ...], Any] = {}

    def level(self, t: int, state: Any, rows: Any) -> np.ndarray:
        for tokens, hidden in zip(state.tokens(rows), state.tell_hidden(rows), strict=True):
            known = self.read.setdefault(tuple(tokens[:-1].tolist()), hidden)
            np.testing.assert_allclose(hidden, known, atol=1e-4)
        return np.zeros(len(rows))

    def final(self, state: Any, rows: Any) -> np.ndarray:
        return np.zeros(len(rows))


@pytest.mark.parametrize("most", [512, 8])
def test_hidden_states_are_told_of_every_token_of_a_tail(tiny_lm, monkeypatch, most) -> None:
    """Those of a text are the same, wherever it is read: drawn, drawn anew, or behind a new block."""
    monkeypatch.setattr(retracing, "PASS", most)
    lm, reader = tiny_lm("a", "b", "e", seed=1), TellsOfHidden()
    fk.steer(lm.prompt("ab", max_tokens=12), reader, particles=12, moves=fk.redraw(2, tail=3), seed=0)
    assert len(reader.read) > 20 and max(map(len, reader.read)) > 8


def test_a_run_lasts_until_no_move_can_change_a_text(tiny_lm) -> None:
    """Seven tokens are written by step 6; the move before step 8 can still draw the last ones anew."""
    task = tiny_lm("a", "b", seed=1).prompt("a", max_tokens=7)
    moved, short = (
        fk.steer(task, fk.reward(lambda x: x.count("ab"), every="end"), particles=8, moves=moves, seed=0)
        for moves in (fk.redraw(4), fk.redraw(1, every=8))
    )
    assert moved.complete and len(moved.history.ess) == 9
    assert short.complete and len(short.history.ess) == 7


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"moves": "redraw"}, "moves is 'redraw'"),
        ({"moves": fk.redraw}, r"moves is the function fk.redraw itself; call it, as in moves=fk.redraw\(8\)"),
        ({"moves": fk.redraw(2), "algorithm": "beam"}, "moves= is for algorithm='smc'"),
        ({"moves": fk.redraw(2, tail=1, chains=3)}, "chains is 3 for 8 particles"),
        ({"moves": fk.redraw(2, chains=8)}, "chains is 8 for 8 particles"),
        ({"moves": fk.redraw(2, chains=2), "islands": 4}, "a multiple of the islands"),
        ({"moves": fk.redraw(2, chains=2), "resampler": systematic}, "give the name of a scheme"),
    ],
)
def test_moves_that_fit_no_run_are_refused(tiny_lm, options, words) -> None:
    with pytest.raises(ArgumentError, match=words):
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=4), particles=8, seed=0, **options)


def test_moves_that_cannot_be_are_refused_where_they_are_made() -> None:
    for make in (lambda: fk.redraw(0), lambda: fk.redraw(4, every=3), lambda: fk.redraw(4, chains=0),
                 lambda: fk.redraw(4, tail=-1), lambda: fk.redraw(2, tail=3, every=4),
                 lambda: fk.rejuvenate(), lambda: fk.rejuvenate(3), lambda: fk.rejuvenate(len, every=0)):  # fmt: skip
        with pytest.raises(ArgumentError):
            make()


def test_a_model_that_cannot_be_led_along_a_tail_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="ChainModel cannot be led along"):
        fk.steer(ChainModel(4), MaxReward(), moves=fk.redraw(1, tail=1), seed=0)


def test_contexts_that_only_go_on_are_refused_by_name(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=1)
    task = lm.prompt("a", max_tokens=6)
    with pytest.raises(ArgumentError, match="contexts of an expert"):
        fk.steer(task, fk.expert(lm.prompt("b")), moves=fk.redraw(2), seed=0)
    with pytest.raises(ArgumentError, match="contexts of an expert"):
        fk.steer(lm.prompt("a", max_tokens=6, proposal=Drafted(lm, 0.5)), moves=fk.redraw(2), seed=0)


def test_a_move_of_ones_own_is_made_on_texts(tiny_lm) -> None:
    steps = []

    def nothing(t: int, state: Any, level: np.ndarray, alive: np.ndarray, rng: Any) -> Any:
        steps.append(t)
        return state, level

    task = tiny_lm("a", "b", seed=1).prompt("a", max_tokens=6)
    moved, still = (fk.steer(task, fk.regex("[ab]{6}"), particles=4, moves=moves, seed=0)
                    for moves in (fk.rejuvenate(nothing, every=2), None))  # fmt: skip
    assert steps == [2, 4] and moved.samples == still.samples
    fk.steer(task, fk.regex("[ab]{6}"), particles=4, moves=nothing, seed=0)
    assert steps == [2, 4, 1, 2, 3, 4, 5]
