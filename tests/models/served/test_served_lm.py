"""A served model: what one round asks for, what fails and how, and what is refused by name."""

from __future__ import annotations

import copy
import gc
import math
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from fake_server import END, FakeServer

import feynkac as fk

LAW = {"a": {"b": 0.5, ";": 0.5}, "b": {"a": 0.5, "b": 0.5}, ";": {"a": 1.0}}
QUICK = {"retries": 2, "pause": 0.001}


@pytest.fixture
def serve():
    """Starts servers, and gives each with a model on it."""
    servers = []

    def start(law=LAW, *, options=None, **manners):
        servers.append(FakeServer(law, **manners).__enter__())
        return servers[-1], fk.ServedLM(servers[-1].url, "tiny", **{**QUICK, **(options or {})})

    yield start
    for server in servers:
        server.stop()


@fk.program
def write(p, lm, pieces=3, **gen):
    text = lm.context("a")
    for _ in range(pieces):
        if text.ended:
            break
        p.sample(text.gen(**(gen or {"max_tokens": 1})))
    return str(text)


# --- what is asked for


def test_particles_behind_one_text_share_a_request(serve) -> None:
    server, lm = serve()
    fk.steer(write(lm, 1), particles=50, seed=0)
    assert [body["n"] for body in server.asked] == [50]


def test_particles_behind_different_texts_are_asked_for_at_once(serve) -> None:
    server, lm = serve()
    result = fk.steer(write(lm, 3), particles=50, seed=0)
    assert len(server.asked) == 1 + 2 + 3 and sum(body.get("n", 1) for body in server.asked) == 150
    assert {len(text) for text in result.samples} == {3} and result.complete


def test_a_request_asks_for_no_more_texts_than_servers_allow(serve) -> None:
    server, lm = serve()
    fk.steer(write(lm, 1), particles=200, seed=0)
    assert sorted(body["n"] for body in server.asked) == [72, 128]


@pytest.mark.parametrize("manner", [{"takes_n": False}, {"refuses_n": True}])
def test_a_server_that_draws_one_text_a_request_is_asked_once_for_each(serve, manner) -> None:
    server, lm = serve(**manner)
    result = fk.steer(write(lm, 2), particles=6, seed=0)
    assert len(result.samples) == 6
    assert sum("n" in body for body in server.asked) == 1  # it is seen by the first answer
    assert len(server.asked) == 12 + manner.get("refuses_n", 0)


def test_a_certain_law_is_drawn_once_for_all(serve) -> None:
    server, lm = serve()

    @fk.program
    def greedy(p, lm):
        return p.sample(lm.context("a", temperature=0).gen(max_tokens=2))

    result = fk.steer(greedy(lm), particles=8, seed=0)
    assert len(set(result.samples)) == 1 and len(server.asked) == 1
    assert server.asked[0]["temperature"] == 0 and "n" not in server.asked[0]


def test_sampling_options_are_sent_and_none_is_left_to_the_server(serve) -> None:
    server, lm = serve()

    @fk.program
    def hot(p, lm):
        one = lm.context("a", temperature=1.5, top_p=0.9, extra={"top_k": 0})
        return p.sample(one.gen(max_tokens=1)) + p.sample(lm.context("a").gen(max_tokens=1))

    fk.steer(hot(lm), particles=2, seed=0)
    assert [(body["temperature"], body["top_p"], body.get("top_k")) for body in server.asked] == [
        (1.5, 0.9, 0),
        (1.0, 1.0, None),
    ]


def test_a_seeded_model_sends_a_seed_for_each_particle_and_repeats_itself(serve) -> None:
    server, lm = serve(options={"seeded": True})
    fk.steer(write(lm, 2), particles=4, seed=7)
    first, server.asked[:] = sorted(body["seed"] for body in server.asked), []
    fk.steer(write(lm, 2), particles=4, seed=7)
    assert sorted(body["seed"] for body in server.asked) == first and len(set(first)) == 8


def test_a_fork_asks_for_nothing_again(serve) -> None:
    server, lm = serve()

    @fk.program
    def choose(p, lm):
        text = lm.context("a")
        for _ in range(4):
            p.factor(5.0 * p.sample(text.gen(max_tokens=1)).count("b"))
        return str(text)

    result = fk.steer(choose(lm), particles=16, seed=0, ess_threshold=1.0)
    assert len(result.history.resampled) > 1
    assert sum(body.get("n", 1) for body in server.asked) == 4 * 16


def test_several_programs_share_their_rounds(serve) -> None:
    server, lm = serve()
    one, two = fk.steer([write(lm, 1), write(lm, 1)], particles=3, seed=0)
    assert len(one.samples) == len(two.samples) == 3 and [body["n"] for body in server.asked] == [6]


# --- pieces

LONG = {"a": {"a": 0.95, ".": 0.05}, ".": {" ": 1.0}, " ": {"a": 0.7, END: 0.3}}


@pytest.mark.parametrize("gen", [{"until": ". "}, {"until": [". ", "!"]}, {"unit": "sentence"}, {"unit": "word"}])
@pytest.mark.parametrize("owner", ["vllm", "nobody"])
def test_a_piece_goes_on_to_its_end_over_several_requests(serve, gen, owner) -> None:
    server, lm = serve(LONG, owner=owner)
    result = fk.steer(write(lm, 1, max_tokens=400, **gen), particles=100, seed=0)
    end = ". " if "until" in gen else "."
    assert all(text.endswith(end) and text.count(".") == 1 for text in result.samples)
    if owner == "vllm" and "until" in gen:
        assert len(server.asked) == 1 and server.asked[0]["stop"]  # it stops by itself
    else:
        assert len(server.asked) > 1 and not any("stop" in body for body in server.asked)


def test_a_piece_ends_at_its_limit_and_where_the_model_ends(serve) -> None:
    _, lm = serve({"a": {"a": 1.0}, "b": {END: 1.0}})

    @fk.program
    def both(p, lm):
        cut, ended = lm.context("a"), lm.context("b")
        return p.sample(cut.gen(until=".", max_tokens=70)), cut.ended, p.sample(ended.gen(until=".")), ended.ended

    assert fk.steer(both(lm), particles=1, seed=0).samples == [("a" * 70, False, "", True)]


def test_half_a_character_at_the_end_of_a_piece_is_drawn_anew(serve) -> None:
    _, lm = serve({"a": {"é\ufffd": 1.0}, "é\ufffd": {"b": 1.0}, "é": {"a": 1.0}})
    assert fk.steer(write(lm, 2), particles=1, seed=0).samples == ["éa"]


def test_what_is_drawn_has_the_log_probability_of_its_tokens(serve) -> None:
    _, lm = serve(options={"log_probs": True})

    @fk.program
    def watch(p, lm):
        text = lm.context("a")
        piece = p.sample(text.gen(until=";", max_tokens=3))
        return piece, text.log_drawn

    for piece, log_p in fk.steer(watch(lm), particles=30, seed=0).samples:
        assert log_p == pytest.approx(len(piece) * math.log(0.5))


def test_potentials_weigh_the_texts_of_pieces(serve) -> None:
    _, lm = serve()
    seen = []
    result = fk.steer(
        write(lm, 3), fk.reward(lambda text: seen.append(text) or 2.0 * text.count("b"), every=1), particles=8, seed=0
    )
    assert {len(text) for text in seen} == {1, 2, 3} and np.isfinite(result.log_evidence)


# --- failures


@pytest.mark.parametrize("fault", [503, 429])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(serve, fault) -> None:
    server, lm = serve(faults=[fault, fault])
    result = fk.steer(write(lm, 1), particles=4, seed=0)
    assert result.complete and lm.usage.retries == 2 and len(server.asked) == 3


def test_a_server_that_dies_on_the_way_leaves_the_particles_there_are(serve) -> None:
    server, lm = serve()

    @fk.program
    def long(p, lm):
        text = lm.context("a")
        for step in range(6):
            if step == 3:
                p.once(server.stop)
            p.sample(text.gen(max_tokens=1))
        return str(text)

    result = fk.steer(long(lm), particles=1, seed=0)
    assert not result.complete and len(str(result.samples[0])) == 3
    assert "has broken off" in result.warnings[0] or "tried 3 times" in result.warnings[0]


def test_a_server_that_is_busy_for_good_leaves_the_particles_there_are(serve) -> None:
    _, lm = serve(faults=[None, None, None, *[503] * 100])
    result = fk.steer(write(lm, 6), particles=4, seed=0)
    assert not result.complete and {len(str(text)) for text in result.samples} <= {1, 2}
    assert "answers 503: busy" in result.warnings[0]
    assert np.isfinite(result.log_weights).all()


def test_a_server_that_is_down_from_the_start_is_an_error(serve) -> None:
    server, lm = serve()
    server.stop()
    with pytest.raises(fk.ModelError, match=r"cannot be reached .* tried 3 times; start it again"):
        fk.steer(write(lm), particles=2, seed=0)


def test_a_draw_that_is_late_is_not_drawn_again_which_would_favour_short_texts(serve) -> None:
    server, lm = serve(faults=[None, 1.5], options={"timeout": 0.3})
    result = fk.steer(write(lm, 3), particles=1, seed=0)
    assert not result.complete and [len(str(text)) for text in result.samples] == [1]
    assert "has not answered within 0.3 seconds; the piece is not drawn anew" in result.warnings[0]
    assert len(server.asked) == 2 and lm.usage.retries == 0


@pytest.mark.parametrize("status", [408, 504])
def test_a_draw_that_is_late_at_a_proxy_is_not_drawn_again(serve, status) -> None:
    server, lm = serve(faults=[None, (status, b"upstream timed out")])
    result = fk.steer(write(lm, 3), particles=1, seed=0)
    assert not result.complete and len(server.asked) == 2
    assert f"answers {status}: upstream timed out; the piece is not drawn anew" in result.warnings[0]


@pytest.mark.parametrize(("fault", "said"), [(500, "answers 500"), (502, "answers 502"), ("drop", "has broken off")])
def test_a_draw_over_which_the_server_fails_is_not_drawn_again(serve, fault, said) -> None:
    server, lm = serve(faults=[None, fault])
    result = fk.steer(write(lm, 3), particles=1, seed=0)
    assert not result.complete and len(server.asked) == 2 and lm.usage.retries == 0
    assert said in result.warnings[0] and "the piece is not drawn anew" in result.warnings[0]


@pytest.mark.parametrize("fault", [500, 502, "drop"])
def test_what_is_the_same_again_is_asked_for_again_when_a_server_fails(serve, fault) -> None:
    _, lm = serve(faults=[fault, fault])
    assert fk.steer(score(lm, "b"), particles=1, seed=0).complete and lm.usage.retries == 2
    _, lm = serve(faults=[fault], options={"seeded": True})
    assert fk.steer(write(lm, 1), particles=1, seed=0).complete and lm.usage.retries == 1


def test_a_server_that_loses_some_of_the_texts_is_an_error(serve) -> None:
    _, lm = serve(loses=2)
    with pytest.raises(fk.ModelError, match="asked for 6 texts and gave 4; which are missing may depend on what"):
        fk.steer(write(lm, 1), particles=6, seed=0)


def test_texts_are_handed_out_by_their_numbers_whenever_they_were_done(serve) -> None:
    hasty = {"a": {"a": 0.5, END: 0.5}}
    texts = [fk.steer(write(serve(hasty, hurries=hurries)[1], 1, max_tokens=4), particles=12, seed=0).samples
             for hurries in (False, True)]  # fmt: skip
    assert texts[0] == texts[1] and [len(text) for text in texts[0]] != sorted(len(text) for text in texts[0])


def test_a_given_text_behind_a_unit_is_refused(serve) -> None:
    _, lm = serve({"a": {" ": 1.0}, " ": {"a": 1.0}})

    @fk.program
    def observe_behind(p, lm):
        text = lm.context("a ")
        p.sample(text.gen(unit="word"))
        text.observe_text(" a")

    with pytest.raises(fk.ModelError, match="the word before it ended by what followed"):
        fk.steer(observe_behind(lm), particles=1, seed=0)


def test_a_law_without_chance_that_does_not_go_on_as_it_did_is_an_error(serve) -> None:
    _, lm = serve({"a": {"b ": 1.0}, "b": {"c": 1.0}, "b ": {"a": 1.0}, "c": {"a": 1.0}})

    @fk.program
    def write_words(p, lm):
        text = lm.context("a", temperature=0.0)
        return [p.sample(text.gen(unit="word")) for _ in range(2)]

    with pytest.raises(
        fk.ModelError, match=r"a word ended at 'b' by what followed, .* never goes on like that \(1 draws"
    ):
        fk.steer(write_words(lm), particles=2, seed=0)


def test_a_given_text_that_is_late_is_asked_for_again(serve) -> None:
    _, lm = serve(faults=[1.5], options={"timeout": 0.3, "concurrency": 1})
    assert fk.steer(score(lm, "b"), particles=1, seed=0).log_evidence == pytest.approx(math.log(0.5))
    assert lm.usage.retries == 1


def test_what_a_server_refuses_is_told_with_its_own_words(serve) -> None:
    _, lm = serve(faults=[(400, {"error": {"message": "maximum context length is 8 tokens"}})])
    with pytest.raises(fk.ModelError, match="refuses the request with 400: maximum context length is 8 tokens"):
        fk.steer(write(lm), particles=1, seed=0)


def test_an_error_in_mid_run_keeps_the_particles(serve) -> None:
    _, lm = serve(faults=[None, (400, {"detail": "no more"})])
    with pytest.raises(fk.ModelError, match="no more") as caught:
        fk.steer(write(lm), particles=1, seed=0)
    assert [len(str(text)) for text in caught.value.partial.samples] == [1]


@pytest.mark.parametrize(
    "answer", [b"<html>", b"3", {}, {"choices": []}, {"choices": [{"text": "b"}]}, {"choices": [{"text": 1}]}]
)
def test_an_answer_of_another_kind_is_an_error(serve, answer) -> None:
    _, lm = serve(faults=[(200, answer)])
    with pytest.raises(fk.ModelError, match="the server"):
        fk.steer(write(lm), particles=1, seed=0)


def test_a_text_that_the_server_broke_off_is_an_error(serve) -> None:
    broken = {"choices": [{"text": "b", "finish_reason": "abort"}]}
    _, lm = serve(faults=[(200, broken)])
    with pytest.raises(fk.ModelError, match=r"'abort'.*no finished text"):
        fk.steer(write(lm), particles=1, seed=0)


def test_another_model_than_asked_for_is_named(serve) -> None:
    server, _ = serve(name="large")
    with pytest.raises(fk.ModelError, match=r"serves 'large', not 'tiny'; ask for what it serves, or say listed=False"):
        fk.steer(write(fk.ServedLM(server.url, "tiny")), particles=1, seed=0)
    assert fk.steer(write(fk.ServedLM(server.url, "tiny", listed=False)), particles=1, seed=0).complete


def test_a_server_without_a_list_must_be_trusted_by_name(serve) -> None:
    server, lm = serve(lists=False)
    with pytest.raises(fk.ModelError, match="no model by name"):
        fk.steer(write(lm), particles=1, seed=0)
    assert fk.steer(write(fk.ServedLM(server.url, "tiny", listed=False)), particles=1, seed=0).complete


def test_a_server_without_log_probabilities_is_named(serve) -> None:
    _, lm = serve(log_probs=False, options={"log_probs": True})
    with pytest.raises(fk.ModelError, match="returns no log-probabilities; leave out log_probs=True"):
        fk.steer(write(lm), particles=1, seed=0)


# --- given texts


@fk.program
def score(p, lm, text, prompt="a", **options):
    context = lm.context(prompt, **options)
    context.observe_text(text)
    return str(context)


def test_a_given_text_is_asked_for_once_by_all_particles(serve) -> None:
    server, lm = serve()
    result = fk.steer(score(lm, "ba"), particles=10, seed=0)
    assert result.log_evidence == pytest.approx(math.log(0.25)) and len(server.asked) == 2


@pytest.mark.parametrize("manner", [{"echoes": False}, {"log_probs": False}])
def test_a_server_that_does_not_echo_refuses_given_texts(serve, manner) -> None:
    _, lm = serve(**manner)
    with pytest.raises(fk.ModelError, match="does not echo a prompt with its log-probabilities"):
        fk.steer(score(lm, "ba"), particles=2, seed=0)


def test_a_given_text_under_sampling_options_is_refused(serve) -> None:
    _, lm = serve()
    with pytest.raises(fk.ModelError, match=r"observe_text: servers report the probabilities of the model itself"):
        fk.steer(score(lm, "ba", temperature=0.5), particles=2, seed=0)


def test_a_given_text_that_begins_inside_of_a_token_is_refused(serve) -> None:
    _, lm = serve({**LAW, "ab": {"a": 1.0}})
    with pytest.raises(fk.ModelError, match="one token across their border"):
        fk.steer(score(lm, "b", prompt="aa"), particles=2, seed=0)


def test_a_given_text_behind_nothing_is_refused(serve) -> None:
    _, lm = serve()
    with pytest.raises(fk.ModelError, match="behind nothing; give a prompt"):
        fk.steer(score(lm, "b", prompt=""), particles=2, seed=0)


# --- what a server cannot give

REFUSED = {
    "next_token": lambda p, text: p.sample(text.next_token()),
    "mask": lambda p, text: p.observe(text.mask(["a"]), True),
    "draft": lambda p, text: p.sample(text.draft(text)),
    r"gen\(regex=...\)": lambda p, text: p.sample(text.gen(regex="a+")),
    r"gen\(json_schema=...\)": lambda p, text: p.sample(text.gen(json_schema={})),
    r"gen\(choices=...\)": lambda p, text: p.sample(text.gen(choices=["a", "b"])),
    r"gen\(constraint=...\)": lambda p, text: p.sample(text.gen(fk.regex("a+"))),
    "tokens": lambda p, text: text.tokens,
    "eos": lambda p, text: text.eos,
    "len": lambda p, text: len(text),
    "the log-probability of a piece": lambda p, text: p.sample(fk.Bernoulli(0.5), proposal=text.gen(max_tokens=1)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_logits_or_masks_is_refused_by_name_at_its_line(serve, what) -> None:
    _, lm = serve()

    @fk.program
    def ask(p, lm):
        return REFUSED[what](p, lm.context("a"))

    with pytest.raises(fk.ModelError, match=f"^{what}.*: a served model gives pieces of text, and neither logits nor"):
        fk.steer(ask(lm), particles=1, seed=0)


@pytest.mark.parametrize("what", ["prompt", "score", "edited", "remember"])
def test_a_served_model_is_no_model_of_tokens(what) -> None:
    with pytest.raises(fk.ModelError, match=f"^lm.{what}: a served model gives pieces of text"):
        getattr(fk.ServedLM("http://localhost:1", "tiny"), what)("a")


def test_potentials_that_need_a_model_of_tokens_refuse_it() -> None:
    lm = fk.ServedLM("http://localhost:1", "tiny")
    with pytest.raises(fk.FeynkacError):
        fk.bytewise(lm)  # pyright: ignore[reportArgumentType]
    with pytest.raises(fk.FeynkacError):
        fk.steer(lm)  # pyright: ignore[reportArgumentType]


# --- bad arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({"base_url": "ftp://host/v1"}, "base_url is"),
        ({"base_url": None}, "base_url is None"),
        ({"model": ""}, "model is ''"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "long"}, "timeout is 'long'"),
        ({"retries": -1}, "retries is -1"),
        ({"pause": -1.0}, "pause is -1.0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"seeded": "yes"}, "seeded is 'yes'"),
        ({"api_key": 5}, "api_key is no string"),
    ],
)
def test_a_wrong_argument_is_named(options, said) -> None:
    with pytest.raises(fk.ArgumentError, match=said):
        fk.ServedLM(**{"base_url": "http://localhost:1", "model": "tiny", **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"extra": ["top_k"]}, "extra is"),
        ({"extra": {"n": 3}}, "'n', which is set by feynkac itself"),
        ({"extra": {"top_p": 0.5}}, "'top_p', which is an argument of context"),
        ({"extra": {"top_k": object()}}, "cannot be sent as JSON"),
        ({"text": [{"role": "user", "content": "a"}]}, "takes no list of messages"),
    ],
)
def test_a_wrong_option_of_a_context_is_named(serve, options, said) -> None:
    _, lm = serve()

    @fk.program
    def open_one(p, lm):
        return str(lm.context(**{"text": "a", **options}))

    with pytest.raises(fk.ArgumentError, match=said):
        fk.steer(open_one(lm), particles=1, seed=0)


@pytest.mark.parametrize(
    ("gen", "said"),
    [
        (lambda text: text.gen(), "bound it"),
        (lambda text: text.gen(until=".", unit="word"), "one of until and unit"),
        (lambda text: text.gen(unit="page"), "choose 'word' or 'sentence'"),
        (lambda text: text.gen(until=""), "a string that is not empty"),
        (lambda text: text.gen(until=[]), "a string that is not empty"),
        (lambda text: text.gen(max_tokens=0), "max_tokens is 0"),
        (lambda text: text.append(3), "give a string"),
        (lambda text: text.append("\ud800"), "append"),
        (lambda text: text.gen(until="\ud800"), "until"),
        (lambda text: text.lm.context("\ud800"), "context"),
        (lambda text: text.observe_text(None), "give a string"),
    ],
)
def test_a_wrong_argument_of_a_piece_is_named(serve, gen, said) -> None:
    _, lm = serve()

    @fk.program
    def ask(p, lm):
        return gen(lm.context("a"))

    with pytest.raises(fk.ArgumentError, match=said):
        fk.steer(ask(lm), particles=1, seed=0)


def test_a_piece_is_drawn_once_and_not_observed(serve) -> None:
    _, lm = serve()

    @fk.program
    def twice(p, lm):
        piece = lm.context("a").gen(max_tokens=1)
        return p.sample(piece), p.sample(piece)

    @fk.program
    def observe(p, lm):
        return p.observe(lm.context("a").gen(max_tokens=1), "b")

    with pytest.raises(fk.ProgramError, match="has moved on; call gen"):
        fk.steer(twice(lm), particles=1, seed=0)
    with pytest.raises(fk.ArgumentError, match="is not observed"):
        fk.steer(observe(lm), particles=1, seed=0)


def test_a_text_that_has_ended_cannot_go_on(serve) -> None:
    _, lm = serve({"a": {END: 1.0}})

    @fk.program
    def go_on(p, lm):
        text = lm.context("a")
        return p.sample(text.gen(max_tokens=5)) + p.sample(text.gen(max_tokens=5))

    with pytest.raises(fk.ProgramError, match=r"has ended.*ask text.ended"):
        fk.steer(go_on(lm), particles=1, seed=0)


def test_a_budget_of_tokens_is_refused(serve) -> None:
    _, lm = serve()
    with pytest.raises(fk.ArgumentError, match="limit each piece instead"):
        fk.steer(write(lm).limited(max_tokens=5), particles=1, seed=0)


def test_a_context_belongs_to_a_program() -> None:
    with pytest.raises(fk.ProgramError, match="open it inside of a program"):
        fk.ServedLM("http://localhost:1", "tiny").context("a")


# --- the model as an object


def test_a_model_is_copied_and_pickled_without_its_connections(serve) -> None:
    _, lm = serve()
    fk.steer(write(lm, 1), particles=1, seed=0)
    for other in (copy.deepcopy(lm), pickle.loads(pickle.dumps(lm))):
        assert fk.steer(write(other, 1), particles=1, seed=0).complete
        other.close()
    lm.close()
    assert fk.steer(write(lm, 1), particles=1, seed=0).complete  # it opens new ones


def test_runs_at_once_share_a_model(serve) -> None:
    server, lm = serve()
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fk.steer(write(lm, 2), particles=4, seed=0))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(result.samples) for result in results] == [4] * 4
    assert sum(body.get("n", 1) for body in server.asked) == 4 * 4 * 2


def test_the_key_is_sent_and_never_shown(serve) -> None:
    server, _ = serve()
    lm = fk.ServedLM(server.url, "tiny", api_key="secret")
    assert fk.steer(write(lm, 1), particles=1, seed=0).complete
    assert "secret" not in repr(lm)


def test_an_address_without_a_path_is_that_of_the_api() -> None:
    assert repr(fk.ServedLM("http://localhost:8000/", "m")) == "ServedLM('http://localhost:8000/v1', 'm')"
    assert repr(fk.ServedLM("http://host/openai/v1/", "m")) == "ServedLM('http://host/openai/v1', 'm')"


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(fk.FeynkacError, match=r"pip install 'feynkac\[served\]'"):
        fk.ServedLM("http://localhost:1", "tiny")


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(serve, monkeypatch) -> None:
    """On one connection both would read what the other has asked for."""
    _, lm = serve()
    fk.steer(write(lm, 1), particles=1, seed=0)
    of_parent = lm.source.client._open()
    assert lm.source.client._open() is of_parent
    monkeypatch.setattr(os, "getpid", lambda: -1)
    fk.steer(write(lm, 1), particles=1, seed=0)
    gc.collect()
    assert lm.source.client._open() is not of_parent and not of_parent.is_closed


GIVEN_UP = """
import signal, socket, threading, time
from feynkac.models.served.client import Client

server = socket.create_server(("127.0.0.1", 0))

def press():
    come = [server.accept()[0] for _ in range(2)]  # and never answered
    assert all(each.recv(1) for each in come)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Event().wait()

threading.Thread(target=press, daemon=True).start()
options = {"api_key": None, "timeout": 3600.0, "retries": 0, "pause": 0.0, "concurrency": 4}
client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", **options)
try:
    client.post_all("completions", [{}, {}], draws=True)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_request_that_was_given_up_keeps_no_process_from_ending() -> None:
    found = subprocess.run([sys.executable, "-c", GIVEN_UP], capture_output=True, text=True, timeout=30, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "interrupted\n", "")


def test_connections_that_were_closed_are_freed_while_the_model_goes_on(serve) -> None:
    _, lm = serve()
    opened = []
    for _ in range(3):
        fk.steer(write(lm, 1), particles=1, seed=0)
        opened.append(weakref.ref(lm.source.client._open()))
        lm.close()
    gc.collect()
    assert [each() for each in opened] == [None] * 3
