"""Programs over a served model have the server's law: all draws of the server and of the engine are walked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_server import END, FakeServer

import feynkac as fk
from feynkac.models.served import pieces
from feynkac.models.served.pieces import find_first
from feynkac.models.served.questions import Ending
from feynkac.programs.served import endings
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic
from feynkac.smc.testing import Choices, enumerate_runs

LAW = {"a": {"b": 0.6, ";": 0.4}, "b": {";": 0.7, END: 0.3}, ";": {"a": 0.5, END: 0.5}}
MANNERS = {
    "takes n": {},
    "ignores n": {"takes_n": False},
    "refuses n": {"refuses_n": True},
    "tells its stops": {"owner": "vllm"},
}


@fk.program
def write(p, lm):
    text = lm.context("a")
    for _ in range(2):
        piece = p.sample(text.gen(until=";", max_tokens=2))
        p.factor(piece.count("b") - 0.5 * piece.count(";"))
        if text.ended:
            break
    return str(text)


def list_pieces(before: str, room: int) -> Iterator[tuple[str, bool, float]]:
    """Every piece up to ";" of at most `room` tokens, whether the text has ended, and its probability."""
    if not room:
        yield "", False, 1.0
        return
    for token, p in LAW[before].items():
        if token in (END, ";"):
            yield token, token == END, p
        else:
            yield from ((token + rest, ended, p * q) for rest, ended, q in list_pieces(token, room - 1))


def weigh(piece: str) -> float:
    return math.exp(piece.count("b") - 0.5 * piece.count(";"))


def list_truth() -> dict[str, float]:
    """The mass of every text under the target."""
    masses: dict[str, float] = {}
    for first, ended, p in list_pieces("a", 2):
        rest = [("", True, 1.0)] if ended else list_pieces(first[-1], 2)
        for second, _, q in rest:
            mass = p * q * weigh(first) * (1.0 if ended else weigh(second))
            masses[first + second] = masses.get(first + second, 0.0) + mass
    return masses


def expect(server: FakeServer, program, resample, n: int) -> dict[str, float]:
    """The expected mass of each text, over all that the server may draw and the engine may choose."""

    def run(rng: Choices) -> dict[str, float]:
        server.choose = rng.choose
        *_, last = smc(program(server.serve_here()), fk.product(), n=n, resample=resample, rng=rng)
        assert last.ended
        texts = last.state.samples(np.arange(len(last.log_weight)))
        return {text: sum(np.exp(last.log_weight[[t == text for t in texts]])) for text in texts}

    found: dict[str, float] = {}
    for p, masses in enumerate_runs(run):
        for text, mass in masses.items():
            found[text] = found.get(text, 0.0) + p * mass
    return found


def assert_same(found: dict[str, float], truth: dict[str, float]) -> None:
    assert {text for text, mass in found.items() if mass} == set(truth)
    for text, mass in truth.items():
        assert found[text] == pytest.approx(mass, rel=1e-10)


@pytest.mark.parametrize("manner", MANNERS)
def test_the_law_is_the_servers_however_it_serves(manner) -> None:
    server = FakeServer(LAW, **MANNERS[manner])
    assert_same(expect(server, write, adaptive(systematic, ess=0.9), 2), list_truth())


def test_killing_and_its_forks_share_texts_and_keep_the_law() -> None:
    server = FakeServer(LAW)
    assert_same(expect(server, write, killing, 2), list_truth())


def test_pieces_that_are_drawn_token_by_token_have_the_same_law(monkeypatch) -> None:
    def find(stops):
        return Ending("until", lambda text: find_first(stops, text), stops, chunk=1)

    monkeypatch.setattr(endings, "_find_strings", find)
    server = FakeServer(LAW)
    assert_same(expect(server, write, adaptive(systematic, ess=0.9), 2), list_truth())


@fk.program
def observe(p, lm):
    text = lm.context("a")
    p.sample(text.gen(max_tokens=1))
    text.append(";")
    p.factor(text.log_prob("b;"))
    text.observe_text("ab")
    return str(text)


def test_a_given_text_weighs_its_probability() -> None:
    server = FakeServer(LAW | {";": {"a": 0.3, "b": 0.2, END: 0.5}})
    p_given = 0.2 * 0.7 * 0.3 * 0.6
    truth = {"b;ab": 0.6 * p_given, ";;ab": 0.4 * p_given}
    assert_same(expect(server, observe, killing, 2), truth)


def test_conditional_smc_keeps_the_posterior_and_asks_for_no_reference() -> None:
    truth = list_truth()
    texts = list(truth)
    pi = np.array(list(truth.values())) / sum(truth.values())
    server = FakeServer(LAW)
    program = write(server.serve_here())
    paths = find_paths(server, program)

    def sweep(rng: Choices, text: str) -> str:
        server.choose = rng.choose
        server.asked.clear()
        *_, step = csmc(program, fk.product(), paths[text], n=2, rng=rng)
        assert all(body.get("n", 1) == 1 for body in server.asked)  # for the particle that is free
        return str(step.state.samples(np.arange(2))[select(step, rng)])

    kernel = np.zeros((len(texts), len(texts)))
    for i, text in enumerate(texts):
        for p, found in enumerate_runs(lambda rng, text=text: sweep(rng, text)):
            kernel[i, texts.index(found)] += p
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-10)


def find_paths(server: FakeServer, program) -> dict:
    """A path of the program for each text."""

    def run(rng):
        server.choose = rng.choose
        *_, last = smc(program, fk.product(), n=1, resample=killing, rng=rng)
        return str(last.state.samples(np.arange(1))[0]), program.trace(last.state, 0)

    return dict(result for _, result in enumerate_runs(run))


WORDS = {"a": {"a": 0.3, " ": 0.5, END: 0.2}, " ": {"a": 0.6, " ": 0.4}}


@fk.program
def write_words(p, lm):
    text = lm.context("a")
    first = p.sample(text.gen(unit="word", max_tokens=3))
    return first, "" if text.ended else p.sample(text.gen(max_tokens=1))


def list_words(room: int, written: str = "") -> Iterator[tuple[str, str, float]]:
    """A word behind "a" of at most `room` tokens, what is known to follow it (None: nothing), and its probability."""
    if not room:
        yield written, "anything", 1.0
        return
    for token, p in WORDS[("a" + written)[-1]].items():
        if token == END:
            yield written, "the end", p
        elif token == " " and written.strip():
            yield written, "white space", p
        else:
            yield from ((word, after, p * q) for word, after, q in list_words(room - 1, written + token))


@pytest.mark.parametrize("chunk", [1, 3])
def test_what_comes_behind_a_unit_begins_as_what_ended_it(monkeypatch, chunk) -> None:
    tries = 3  # so that there is an end of all runs: those that are not over then are given up
    monkeypatch.setattr(pieces, "_TRIES", tries)
    ending = endings.read_ending(None, "word")
    monkeypatch.setattr(endings, "_find_unit", lambda unit: replace(ending, chunk=chunk))
    server, found = FakeServer(WORDS), dict[Any, float]()

    def run(rng: Choices) -> Any:
        server.choose = rng.choose
        try:
            *_, last = smc(write_words(server.serve_here()), fk.product(), n=1, resample=killing, rng=rng)
        except fk.ModelError as error:
            assert "a word ended at" in str(error)
            return None
        return last.state.samples(np.arange(1))[0]

    for p, sample in enumerate_runs(run):
        found[sample] = found.get(sample, 0.0) + p
    truth = dict[Any, float]()
    for word, after, p in list_words(3):
        if after == "white space":
            truth[word, " "] = truth.get((word, " "), 0.0) + p * (1.0 - (1.0 - WORDS["a"][" "]) ** tries)
        elif after == "the end":
            truth[word, ""] = truth.get((word, ""), 0.0) + p
        else:
            for token, q in WORDS[("a" + word)[-1]].items():
                truth[word, token] = truth.get((word, token), 0.0) + p * q
    found.pop(None, None)
    assert found == pytest.approx(truth, rel=1e-12)
