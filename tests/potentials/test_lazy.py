"""`lazy`: who is asked about what, how often, and what is said of functions that answer wrongly."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ConstraintError, PotentialError
from feynkac.base.masks import TokenConstraint, count_least, unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.proposals import MASKED, Tempered
from feynkac.potentials.constraints.checked import automaton as checked
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, by_name
from feynkac.smc.rng import Streams

VOCABULARY = Vocabulary((b"", b"a", b"b", b"ab", b"\xc3", b"\xa9", b"(", b")", b""), eos=(0,))


def no_b(text: str) -> bool:
    return "b" not in text


def walk(constraint, *tokens: int) -> int:
    automaton = constraint.automaton(VOCABULARY)
    state = np.array([automaton.start])
    for token in tokens:
        state = automaton.advance(state, np.array([token]))
    return int(state[0])


def allowed(constraint, *tokens: int) -> list[int]:
    state = np.array([walk(constraint, *tokens)])
    return np.flatnonzero(unpack(constraint.automaton(VOCABULARY).masks(state), VOCABULARY.size)[0]).tolist()


class Counted:
    """A function that counts what it is asked about."""

    def __init__(self, f) -> None:
        self.f, self.asked = f, Counter()

    def __call__(self, *given):
        self.asked[given[-1]] += 1
        return self.f(*given)


def test_a_function_of_the_text_so_far_says_what_may_come() -> None:
    assert allowed(fk.lazy(no_b)) == [0, 1, 4, 5, 6, 7]
    assert walk(fk.lazy(no_b), 3) == -1
    assert walk(fk.lazy(no_b), 8) == -1  # a control token has no text


def test_a_text_ends_only_where_it_is_complete() -> None:
    constraint = fk.lazy(no_b, accepts=lambda text: len(text) == 2)
    assert 0 not in allowed(constraint, 1)
    assert 0 in allowed(constraint, 1, 1)


def test_a_parser_goes_along_with_the_text_and_equal_states_are_one() -> None:
    def advance(depth: int, text: str) -> int | None:
        for c in text:
            depth += {"(": 1, ")": -1}.get(c, 0)
            if depth < 0:
                return None
        return depth

    counted = Counted(advance)
    constraint = fk.lazy(counted, start=0, accepts=lambda depth: depth == 0)
    assert walk(constraint, 7) == -1
    assert walk(constraint, 6, 1, 7) == walk(constraint, 6, 6, 7, 7) == walk(constraint, 1)
    assert 0 in allowed(constraint, 6, 7) and 0 not in allowed(constraint, 6)
    assert counted.asked.total() <= 2 * VOCABULARY.size + 4


def test_a_state_may_be_none_or_have_no_hash() -> None:
    assert walk(fk.lazy(lambda s, c: [c] if s is None else [*s, c], start=None), 1, 2) > 0
    assert allowed(fk.lazy(lambda s, c: [*s, c] if len(s) < 1 else None, start=[]), 1) == [0, 4]


def test_a_character_is_asked_about_when_it_is_whole() -> None:
    """One that comes in two tokens, to functions and to parsers; what never becomes one reads as U+FFFD."""
    for make in (lambda f: fk.lazy(f), lambda f: fk.lazy(lambda s, c: s + c if f(s + c) else None, start="")):
        asked = []
        constraint = make(lambda text, asked=asked: asked.append(text) or "é" not in text)
        half = walk(constraint, 1, 4)
        assert half > 0 and asked[-1] == "a"
        assert walk(constraint, 1, 4, 5) == -1 and asked[-1] == "aé"
        assert walk(constraint, 1, 4, 1) > 0 and asked[-1] == "a\ufffda"


def test_each_state_and_token_is_asked_about_once() -> None:
    counted = Counted(no_b)
    automaton: Any = fk.lazy(counted).automaton(VOCABULARY)
    for _ in range(3):
        assert automaton.check(np.zeros(6, np.int64), np.array([1, 1, 2, 0, 3, 2])).tolist() == [
            True, True, False, True, False, False,
        ]  # fmt: skip
    assert counted.asked == {"": 1, "a": 1, "b": 1, "ab": 1}


def test_what_was_forgotten_is_found_again(monkeypatch) -> None:
    monkeypatch.setattr(checked, "_MOVES", 2)
    monkeypatch.setattr(checked, "_VALUES", 2)
    for constraint in (fk.lazy(no_b), fk.lazy(lambda s, c: s + c if no_b(s + c) else None, start="")):
        automaton: Any = constraint.automaton(VOCABULARY)
        states = [0]
        for _ in range(30):
            states.append(int(automaton.advance(np.array([states[-1]]), np.array([1]))[0]))
        early = np.array(states[3:9])
        assert (automaton.advance(early, np.full(6, 2)) == -1).all()
        assert (automaton.advance(early, np.full(6, 6)) >= 0).all()
        assert len(automaton._moves) <= 6 and len(automaton._values) <= 24


def test_paths_that_are_overwritten_are_told_and_not_mistaken(monkeypatch) -> None:
    monkeypatch.setattr(checked, "_PATHS", 1024)
    monkeypatch.setattr(checked, "_VALUES", 4)
    automaton = fk.lazy(lambda text: True).automaton(VOCABULARY)
    state = first = automaton.advance(np.zeros(1, np.int64), np.array([1]))
    for _ in range(1100):
        state = automaton.advance(state, np.array([1]))
    with pytest.raises(ConstraintError, match="older than 1024 others"):
        automaton.advance(first, np.array([2]))


@pytest.mark.parametrize("reader", ["texts", "a parser"])
def test_one_question_answers_for_all_tokens_that_begin_alike(reader: str) -> None:
    letters, ends = "xyzéa", "bcdefghijk"
    words = [letter + end + end for letter in letters for end in ends]
    vocabulary = Vocabulary((b"", *(word.encode() for word in words)), eos=(0,))
    counted = Counted(lambda *given: set(given[-1]) <= set("a" + ends))
    given = {"start": 0} if reader == "a parser" else {}
    f = (lambda state, text: 0 if counted(state, text) else None) if given else counted
    automaton = fk.lazy(f, draws=2, timeout=None, **given).automaton(vocabulary)
    counted.asked.clear()
    for token, word in enumerate(words, 1):
        for _ in range(2):
            assert (automaton.advance(np.array([0]), np.array([token]))[0] >= 0) == word.startswith("a")
    # All ten tokens of x, eight of them before anybody wonders about its x; one of each of the other letters.
    assert sorted(text for text in counted.asked if len(text) == 1) == ["x", "y", "z", "é"]
    assert sum(counted.asked.values()) == 9 + 3 + 10 + 4


def test_a_character_that_may_come_excludes_no_token_that_begins_with_it() -> None:
    words = ["a" + end for end in "bcdefghijklz"]
    vocabulary = Vocabulary((b"", *(word.encode() for word in words)), eos=(0,))
    automaton = fk.lazy("az".startswith, timeout=None).automaton(vocabulary)
    for token, word in enumerate(words, 1):
        assert (automaton.advance(np.array([0]), np.array([token]))[0] >= 0) == (word == "az")


def test_questions_about_first_characters_end_where_they_are_vain() -> None:
    letters, ends = "abcdefgh", "xyz"
    words = [letter + end for letter in letters for end in ends]
    vocabulary = Vocabulary((b"", *(word.encode() for word in words)), eos=(0,))
    counted = Counted(lambda text: len(text) < 2)
    automaton = fk.lazy(counted, timeout=None).automaton(vocabulary)
    counted.asked.clear()
    for token in range(1, 1 + len(words)):
        assert automaton.advance(np.array([0]), np.array([token]))[0] == -1
    assert sum(len(text) == 1 for text in counted.asked) == 2


def test_all_tokens_of_a_state_are_known_by_few_questions() -> None:
    words = [first + second for first in "abcdefgh" for second in "xyzuvw"]
    vocabulary = Vocabulary((b"", b"a", *(word.encode() for word in words)), eos=(0,))
    counted = Counted(lambda text: text[:1] in ("", "a") and "z" not in text)
    automaton = fk.lazy(counted, timeout=None).automaton(vocabulary)
    counted.asked.clear()
    mask = unpack(automaton.masks(np.array([0])), vocabulary.size)[0]
    assert [vocabulary.tokens[i].decode() for i in np.flatnonzero(mask)] == ["", "a", "ax", "ay", "au", "av", "aw"]
    assert sum(counted.asked.values()) == 8 + 6


def test_a_batch_is_asked_at_once() -> None:
    calls = []

    def none_b(texts):
        calls.append(texts)
        return np.array(["b" not in text for text in texts])

    automaton = fk.lazy(none_b, batch=True).automaton(VOCABULARY)
    assert (automaton.advance(np.zeros(4, np.int64), np.array([1, 2, 6, 1])) >= 0).tolist() == [True, False, True, True]
    assert calls == [[""], ["a", "b", "("]]


def test_steering_asks_rarely_and_agrees_with_the_mask(tiny_lm) -> None:
    """The evidence of 100 runs against the exact one by masks (z-test, false alarm 6e-5), with any mass accepted."""
    lm = tiny_lm("a", "b", "e", seed=3)
    task = lm.prompt("a", max_tokens=3)
    exact = fk.steer(task, fk.regex("[^b]*"), algorithm="exact").log_evidence
    counted = Counted(no_b)
    results = fk.steer([task] * 100, fk.lazy(counted), particles=8, seed=2, on_death="return")
    ratio = np.exp([result.log_evidence - exact for result in results])
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / 10.0
    assert max(counted.asked.values()) == 1
    assert all(no_b(text) for result in results for text in result.texts)


def test_a_seed_gives_the_same_whatever_was_asked_before(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e", seed=3)
    task, used = lm.prompt("a", max_tokens=4), fk.lazy(no_b)
    for seed in range(4):
        fk.steer(task, used, particles=8, seed=seed)
    first, again = (fk.steer(task, each, particles=8, seed=9) for each in (used, fk.lazy(no_b)))
    assert first.texts == again.texts and first.log_evidence == again.log_evidence


def test_problems_of_a_batch_have_lazy_constraints_of_their_own_as_they_have_alone(tiny_lm) -> None:
    """With other draws, other proposals and no lazy constraint beside them, which must not move a random number."""
    lm = tiny_lm("a", "b", "e", seed=3)
    plain, tempered = (lm.prompt("a", max_tokens=4, proposal=each) for each in (None, Tempered(1.5)))
    problems = [(plain, fk.lazy(no_b)), (tempered, fk.lazy(no_b, draws=2)), (plain, fk.regex("[^b]*")), (plain,)]
    together = fk.steer(problems, particles=8, seed=5)
    for g, (task, *potentials) in enumerate(problems):
        alone = smc_alone(task, potentials, g)
        assert together[g].texts == alone[0]
        np.testing.assert_allclose(together[g].log_evidence, alone[1], rtol=0, atol=1e-5)


def smc_alone(task, potentials, g):
    """Texts and log-evidence of problem `g` of a batch with seed 5, run by itself."""
    from feynkac.potentials.base import product

    masks = [each for each in potentials if isinstance(each, TokenConstraint)]
    *_, step = smc(
        task.constrain(masks), product(*potentials), n=8, resample=adaptive(by_name("ssp"), ess=0.5),
        rng=Streams(5, group=g),
    )  # fmt: skip
    return cast(Any, step.state).texts(np.arange(8)), step.log_z


@pytest.mark.parametrize("algorithm", ["smc", "importance", "best_of_n", "beam", "gibbs"])
def test_every_algorithm_takes_a_lazy_constraint(tiny_lm, algorithm) -> None:
    task = tiny_lm("a", "b", "e", seed=3).prompt("a", max_tokens=3)
    result = fk.steer(task, fk.lazy(no_b), particles=8, algorithm=algorithm, seed=1, on_death="return")
    weights = np.exp(result.log_weights - result.log_weights.max())
    assert all(no_b(text) for text, w in zip(result.texts, weights, strict=True) if w > 0)


def test_exact_lists_what_a_lazy_constraint_allows(tiny_lm) -> None:
    task = tiny_lm("a", "b", "e", seed=3).prompt("a", max_tokens=3)
    masked, lazy = (fk.steer(task, each, algorithm="exact").posterior() for each in (fk.regex("[^b]*"), fk.lazy(no_b)))
    assert dict(lazy) == pytest.approx(dict(masked))


def test_the_end_at_the_limit_costs_one_question(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e", seed=3)
    ends, counted = Counted(lambda text: True), Counted(lambda text: True)
    fk.steer(
        lm.prompt("a", max_tokens=1, at_limit="end"), fk.lazy(counted, accepts=ends), particles=32, seed=0,
        on_death="return",
    )  # fmt: skip
    assert set(counted.asked) <= {"", "a", "b", "e"}
    assert ends.asked.total() <= 4


def test_no_token_is_too_unlikely_to_be_found(tiny_lm) -> None:
    """The accepted token has 1e-9 of the mass, where a sampler that gives up at 1e-5 kills every particle."""
    lm = tiny_lm("a", "b", "e", seed=3)
    lm.model.lm_head.weight.data[:] = 0.0
    task = lm.prompt("a", max_tokens=1)

    class Faint:
        def draw(self, frontier):
            logits = frontier.logits.clone()
            logits[:, 1] -= float(np.log(1e9))
            frontier = type(frontier)(**(vars(frontier) | {"logits": logits}))
            return MASKED.draw(frontier)

    task = lm.prompt("a", max_tokens=1, proposal=Faint())
    results = fk.steer([task] * 200, fk.lazy(lambda text: text in ("", "a"), accepts=bool), particles=2, seed=0)
    ratio = np.exp([result.log_evidence for result in results]) / (1e-9 / (3.0 + 1e-9))
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / np.sqrt(200) + 1e-5
    assert all(set(result.texts) == {"a"} for result in results)


def test_two_lazy_constraints_and_a_mask_meet(tiny_lm) -> None:
    task = tiny_lm("a", "b", "e", seed=3).prompt("a", max_tokens=4)
    second = Counted(lambda text: "ee" not in text)
    result = fk.steer(task, fk.lazy(no_b) * fk.lazy(second) * fk.regex("[ae]*"), particles=8, seed=0)
    assert all(no_b(text) and "ee" not in text for text in result.texts)
    assert not any("b" in text for text in second.asked)  # what the first rejects the second is not asked about


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fk.lazy(cast(Any, "a")), "give a function of \\(text\\)"),
        (lambda: fk.lazy(lambda a, b: True), "is called with \\(text\\)"),
        (lambda: fk.lazy(lambda text: True, start=0), "is called with \\(state, text\\)"),
        (lambda: fk.lazy(no_b, accepts=lambda a, b: True), "accepts takes"),
        (lambda: fk.lazy(lambda s, c: s, start=0, batch=True), "batch=True is for functions of texts"),
        (lambda: fk.lazy(no_b, timeout=0), "timeout is 0"),
        (lambda: fk.lazy(no_b, timeout=cast(Any, "1")), "timeout is '1'"),
        (lambda: fk.lazy(no_b, name=cast(Any, 3)), r"name=3\): give a string"),
        (lambda: fk.lazy(no_b, draws=1), "draws is 1; it must be an integer of at least 2"),
        (lambda: fk.lazy(lambda text: text.startswith("a")), "rejects the empty text"),
        (lambda: fk.after("b", fk.lazy(no_b)), "gives no masks to put behind a marker"),
    ],
)
def test_what_cannot_be_lazy_is_refused_where_it_is_made(make, said) -> None:
    with pytest.raises((ArgumentError, ConstraintError), match=said):
        make()


async def later(text: str) -> bool:
    return True


def test_an_async_function_is_refused() -> None:
    with pytest.raises(ArgumentError, match="is async"):
        fk.lazy(later)


def grow(state: list, text: str) -> list:
    state.append(text)
    return state


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fk.lazy(lambda text: 1 // (text != "a") == 1), "asked about the text 'a', raised ZeroDivisionError"),
        (lambda: fk.lazy(lambda text: None if text else True), "asked about the text 'a', returned None"),
        (lambda: fk.lazy(lambda text: 1.0 if text else True), "returned float 1.0; return True or False"),
        (lambda: fk.lazy(lambda texts: [True] * (1 + (texts != [""])), batch=True), "returned 2 values"),
        (lambda: fk.lazy(lambda texts: True if texts[0] else [True], batch=True), "returned bool True; with batch"),
        (lambda: fk.lazy(lambda texts: {True} if texts[0] else [True], batch=True), r"returned set \{True\}; with"),
        (lambda: fk.lazy(grow, start=[]), "returned the very state that it was given"),
    ],
)
def test_a_wrong_answer_is_named_with_its_text(make, said) -> None:
    with pytest.raises(PotentialError, match=said):
        make().automaton(VOCABULARY).advance(np.zeros(1, np.int64), np.array([1]))


def test_a_wrong_answer_about_the_end_is_named_with_its_text() -> None:
    constraint = fk.lazy(no_b, accepts=lambda text: "yes")
    with pytest.raises(PotentialError, match="accepts', asked about the text 'a', returned str 'yes'"):
        constraint.automaton(VOCABULARY).accepts(np.array([walk(constraint, 1)]))


def test_a_function_that_hangs_is_named_with_its_text() -> None:
    stop = threading.Event()
    constraint = fk.lazy(lambda text: text != "a" or stop.wait(20.0), timeout=0.05)
    began = time.perf_counter()
    with pytest.raises(PotentialError, match=r"text 'a', took longer than timeout=0\.05 seconds"):
        walk(constraint, 1)
    stop.set()
    assert time.perf_counter() - began < 10.0
    assert walk(constraint, 6) > 0  # others go on
    raising = fk.lazy(lambda text: text == "" or 1 // 0, timeout=5.0)
    with pytest.raises(PotentialError, match="raised ZeroDivisionError"):
        walk(raising, 1)


def test_a_check_has_a_time_limit_on_another_thread_and_none_on_that_of_the_run() -> None:
    threads = set[int]()

    def notice(text: str) -> bool:
        threads.add(threading.get_ident())
        return True

    walk(fk.lazy(notice), 1)
    assert threads and threading.get_ident() not in threads
    threads.clear()
    walk(fk.lazy(notice, timeout=None), 1)
    assert threads == {threading.get_ident()}


def test_the_functions_that_are_asked_have_one_default_time_limit() -> None:
    limits = {f: inspect.signature(f).parameters["timeout"].default for f in (fk.lazy, fk.parser)}
    assert set(limits.values()) == {10.0}


def test_a_check_is_called_by_the_name_that_it_was_given() -> None:
    named = fk.lazy(no_b, accepts=lambda text: cast(Any, "yes"), name="no letter b")
    assert named.name == "no letter b"
    with pytest.raises(PotentialError, match="'no letter b: accepts', asked about"):
        named.automaton(VOCABULARY).accepts(np.zeros(1, np.int64))
    assert fk.lazy(no_b, name="").name == fk.lazy(no_b).name == "lazy(no_b)"


def test_a_parser_that_rejects_what_it_accepted_before_is_named_with_the_text(monkeypatch) -> None:
    monkeypatch.setattr(checked, "_MOVES", 1)
    monkeypatch.setattr(checked, "_VALUES", 1)
    fickle = [True]
    automaton = fk.lazy(lambda s, c: s + c if fickle[0] else None, start="").automaton(VOCABULARY)
    state = first = automaton.advance(np.zeros(1, np.int64), np.array([1]))
    for _ in range(12):
        state = automaton.advance(state, np.array([1]))
    fickle[0] = False
    with pytest.raises(PotentialError, match="rejects the text 'a', which it accepted before"):
        automaton.advance(first, np.array([6]))


def test_nothing_is_asked_to_tell_the_fewest_tokens() -> None:
    counted = Counted(no_b)
    assert count_least(fk.lazy(counted, accepts=lambda text: False).automaton(VOCABULARY)) == 1
    assert counted.asked == {"": 1}


def test_a_span_of_a_program_refuses_it(tiny_lm) -> None:
    @fk.program
    def write(p, lm):
        return p.sample(lm.context("a").gen(constraint=fk.lazy(no_b), max_tokens=2))

    with pytest.raises(fk.FeynkacError, match="a lazy constraint has none"):
        fk.steer(write(tiny_lm("a", "b")), particles=2, seed=0)


def test_threads_ask_one_automaton() -> None:
    automaton = fk.lazy(no_b).automaton(VOCABULARY)

    def explore(seed: int) -> list[bool]:
        rng = np.random.default_rng(seed)
        states, alive = np.zeros(8, np.int64), []
        for _ in range(40):
            tokens = rng.choice([1, 6, 7, 2], 8, p=[0.3, 0.33, 0.33, 0.04])
            states = automaton.advance(states, tokens)
            alive += (states >= 0).tolist()
        return alive

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(explore, [0, 1, 0, 1] * 4)) == [explore(0), explore(1)] * 8


def test_copies_and_pickles_ask_anew() -> None:
    constraint = fk.lazy(no_b)
    walk(constraint, 1)
    for other in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):
        assert walk(other, 2) == -1 and walk(other, 1) > 0


def test_a_real_parser_by_its_own_error() -> None:
    """JSON so far: what `json` complains of at the very end of the text can still become right."""

    def can_go_on(text: str) -> bool:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            return error.pos >= len(text) or "Unterminated" in error.msg
        return True

    vocabulary = Vocabulary((b"", b"[", b"]", b"1", b",", b"}"), eos=(0,))
    automaton = fk.lazy(can_go_on, accepts=lambda text: text.endswith("]")).automaton(vocabulary)
    state = np.zeros(1, np.int64)
    for token in (1, 3, 4, 3, 2):
        state = automaton.advance(state, np.array([token]))
    assert automaton.accepts(state)[0]
    assert automaton.advance(state, np.array([5]))[0] == -1
