"""A prompted language model as a model of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.language.proposals import Drafted, Tempered
from feynkac.models.language.protocols import Proposed
from feynkac.potentials.base import Factor
from feynkac.smc.rng import Streams


def play(task, n=8, seed=0, steps=50):
    """Sample `n` texts without potentials: the last state and each row's total increment."""
    rng = Streams(seed)
    state, total = task.init(n, rng.at("init", 0, (n,))), np.zeros(n)
    for t in range(steps):
        state, increment = task.step(t, state, rng.at("propose", t, (n,)))
        total += increment
        if task.done(state).all():
            return state, total
    raise AssertionError("the texts never ended")


def log_prob_alone(lm, prompt, text_tokens):
    """Log-probability of each token after the prompt, by one plain forward."""
    import torch

    ids = torch.tensor([[*prompt, *text_tokens]])
    with torch.inference_mode():
        log_p = torch.log_softmax(lm.model(ids).logits[0].double(), dim=-1)
    return sum(float(log_p[len(prompt) + i - 1, token]) for i, token in enumerate(text_tokens))


def test_log_prob_is_that_of_a_plain_forward(tiny_lm) -> None:
    lm = tiny_lm()
    task = lm.prompt("ab", max_tokens=12)
    state, increments = play(task, n=16)
    assert (increments == 0.0).all()
    for row in range(16):
        trace = task.trace(state, row)
        assert state.log_prob[row] == pytest.approx(log_prob_alone(lm, task.prompts[0].tokens, trace), abs=1e-4)


def test_identical_histories_are_forwarded_once(tiny_lm) -> None:
    task = tiny_lm("a").prompt("aa", max_tokens=6)
    state, _ = play(task, n=500)
    distinct = {tuple(tokens[:k]) for tokens in state.tokens(range(500)) for k in range(1, len(tokens) + 1)}
    unfinished = {prefix for prefix in distinct if len(prefix) < 6}
    assert state.forwarded == [2 + len(unfinished)]


def test_both_meanings_of_the_length_limit(tiny_lm) -> None:
    lm = tiny_lm()
    cut, total = play(lm.prompt("a", max_tokens=3), n=200)
    assert (total == 0.0).all() and cut.length.max() == 3
    ended, total = play(lm.prompt("a", max_tokens=3, at_limit="end"), n=200)
    assert ended.length.max() == 3
    at_limit = ended.length == 3
    for row in np.flatnonzero(at_limit)[:5]:
        tokens = ended.tokens([row])[0]
        prompt = lm.prompt("a").prompts[0].tokens
        forced = log_prob_alone(lm, prompt, [*tokens, 0]) - log_prob_alone(lm, prompt, list(tokens))
        assert total[row] == pytest.approx(forced, abs=1e-4)
    assert (total[~at_limit] == 0.0).all()


def test_stop_strings_end_a_text_and_stay_in_it(tiny_lm) -> None:
    state, _ = play(tiny_lm("a", "b").prompt("a", max_tokens=40, stop=["bb", "aab"]), n=100)
    for text, length in zip(state.texts(range(100)), state.length, strict=True):
        first = min((text.find(stop) + len(stop) for stop in ("bb", "aab") if stop in text), default=None)
        assert first is None or first == len(text)
        assert length == len(text)


def test_temperature_belongs_to_the_law(tiny_lm) -> None:
    lm = tiny_lm()
    cold, _ = play(lm.prompt("ab", max_tokens=5, temperature=0.01), n=20)
    assert len(set(cold.texts(range(20)))) == 1
    hot, _ = play(lm.prompt("ab", max_tokens=5, temperature=100.0), n=200)
    assert len(set(hot.texts(range(200)))) > 40


def test_several_end_tokens_all_end(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=[0, 2])
    state, _ = play(lm.prompt("a", max_tokens=30), n=300)
    assert not any(2 in tokens or 0 in tokens for tokens in state.tokens(range(300)))
    assert {0, 2} == {int(lm.prompt("a").trace(state, row)[-1]) for row in range(300) if state.ended[row] == 1}


def test_forks_share_nothing_mutable(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=8)
    rng = Streams(1)
    state = task.init(4, rng.at("init", 0, (4,)))
    state, _ = task.step(0, state, rng.at("propose", 0, (4,)))
    before, running = state.texts(range(4)), state.running
    child = state.fork(np.array([0, 3, 2, 3]))
    child.memory.array("key", 0.0)[1] = 5.0
    child.retire(np.array([3]))
    task.step(1, child, rng.at("propose", 1, (4,)))
    assert state.texts(range(4)) == before and state.memory.array("key", 0.0).sum() == 0.0
    assert (state.running == running).all() and running[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "prompt is empty"),
        ({}, "one of text"),
        ({"text": "a", "tokens": [1]}, "one of text"),
        ({"tokens": [99]}, "outside of the vocabulary"),
        ({"text": "a", "max_tokens": 0}, "at least 1"),
        ({"text": "a", "temperature": 0.0}, "give a number, such as 0.7"),
        ({"text": "a", "temperature": float("nan")}, "give a number, such as 0.7"),
        ({"text": "a", "at_limit": "stop"}, "'truncate' or 'end'"),
        ({"text": "a", "stop": ""}, "stop string is empty"),
    ],
)
def test_bad_prompts_say_what_is_wrong(tiny_lm, arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny_lm().prompt(**arguments)


def test_bad_models_say_what_is_wrong(tiny_lm) -> None:
    from feynkac.models.language.lm import CausalLM

    with pytest.raises(ModelError, match="max_tokens to at most 0"):
        tiny_lm().prompt("a" * 600)
    with pytest.raises(ModelError, match="no chat template"):
        tiny_lm().prompt(chat="hello")
    with pytest.raises(ModelError, match="cannot load a language model from 'no/such-model'"):
        CausalLM.from_pretrained("no/such-model")
    lm = tiny_lm()
    lm.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        CausalLM(lm.model, lm.tokenizer)
    assert CausalLM(lm.model, lm.tokenizer, eos=[]).vocabulary.eos == ()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda model: model, "device meta, which holds no numbers; load it again"),
        (lambda model: model.model.layers[1], r"are on cpu and meta; move it with lm\.model\.to\(device\)"),
        (lambda model: model.lm_head, r"are on cpu and meta; move it with lm\.model\.to\(device\)"),
    ],
)
def test_a_model_on_two_devices(tiny_lm, part, message) -> None:
    lm = tiny_lm()
    task = lm.prompt("a", max_tokens=3)
    play(task, n=2)
    part(lm.model).to("meta")
    with pytest.raises(ModelError, match=message):
        play(task, n=2)


@pytest.mark.parametrize("proposal", [3, "masked", Tempered])
def test_what_is_no_proposal_is_refused(tiny_lm, proposal: Any) -> None:
    with pytest.raises(ArgumentError, match=r"an object with draw\(frontier\)"):
        tiny_lm("a").prompt(tokens=[1], proposal=proposal)


@pytest.mark.parametrize("tokens", [[4, 4], [1 << 40] * 2, [0.5, 0.5], [np.nan] * 2, [1], [[1], [1]], ["a", "b"]])
@pytest.mark.parametrize("problems", [1, 2])
def test_what_is_no_token_of_a_proposal_s_is_refused_before_the_model_reads_it(tiny_lm, tokens, problems) -> None:
    class Drawn:
        def draw(self, frontier: Any) -> Proposed:
            return Proposed(np.array(tokens), np.zeros(2), np.zeros(2))

    lm = tiny_lm()  # of four tokens
    tasks = [lm.prompt("a", max_tokens=3, proposal=Drawn()), lm.prompt("a", max_tokens=3)][:problems]
    with pytest.raises(ModelError, match=r"proposal Drawn drew .* for 2 rows.*whole number below 4 or -1 for none"):
        fk.steer(tasks, particles=2, seed=0)


def test_proposals_of_one_model_in_one_batch_walk_apart(tiny_lm) -> None:
    """Two problems, with different shares of the same model: each draws what it draws alone."""
    lm, other = tiny_lm("a", "b", seed=1), tiny_lm("a", "b", seed=2)
    one = lm.prompt("ab", max_tokens=6, proposal=Drafted(other, 0.5))
    two = lm.prompt("ba", max_tokens=5, proposal=Drafted(other, 1.0))
    together = fk.steer([one, two], fk.regex("[ab]+"), particles=8, seed=3)
    alone = fk.steer(one, fk.regex("[ab]+"), particles=8, seed=3)
    assert together[0].samples == alone.samples
    np.testing.assert_allclose(together[0].log_weights, alone.log_weights, atol=1e-5)


def test_a_proposal_that_cannot_read_the_targets_prompt_is_refused(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    both = fk.ensemble([lm.prompt("a", max_tokens=3), lm.prompt("b")])
    task = both.lm.prompt("a", max_tokens=3, proposal=Drafted(lm, 0.5))
    assert len(fk.steer(task, particles=2, seed=0).samples) == 2
    own = replace(both, problems=(replace(both.problems[0], proposal=Drafted(lm, 0.5)),))
    with pytest.raises(ModelError, match="has no token 3; give it a prompt of its own"):
        fk.steer(own, particles=2, seed=0)


@pytest.mark.parametrize("kind", ["an ensemble", "a beam of bytes", "a model that never says a token"])
def test_a_proposal_that_lacks_tokens_of_the_target_is_refused(tiny_lm, kind) -> None:
    lm = tiny_lm("a", "b", "ab", seed=1)
    silent = tiny_lm("a", "b", "ab", seed=2)
    silent.model.lm_head.register_forward_hook(lambda _, given, out: out.index_fill(-1, torch.tensor([2]), -torch.inf))
    target, proposal = {
        "an ensemble": (lm, fk.ensemble([lm.prompt("a"), lm.prompt("b")], plausible=0.9)),
        "a beam of bytes": (fk.bytewise(lm), fk.bytewise(silent).prompt("a")),
        "a model that never says a token": (lm, silent.prompt("a")),
    }[kind]
    with pytest.raises(ArgumentError, match="mix it with the target's"):
        fk.steer(target.prompt("a", max_tokens=4, proposal=proposal, mix=0.0), particles=4, seed=0)
    fk.steer(target.prompt("a", max_tokens=4, proposal=proposal, mix=0.1), particles=4, seed=0)
    fk.steer(lm.prompt("a", max_tokens=4, proposal=silent.prompt("a")), fk.regex("a+"), particles=4, seed=0)


def test_a_text_tells_the_hidden_state_that_its_last_token_was_drawn_from(tiny_lm) -> None:
    """Through forks, deaths, and the proposals of several problems."""
    lm = tiny_lm("a", "b")
    heard: list[Any] = []
    lm.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: heard.append(args[0][0, -1]))

    def read_alone(prompt, tokens) -> Any:
        with torch.inference_mode():
            lm.model(torch.tensor([[*prompt.tokens, *tokens]]))
        return heard[-1]

    class Listener(Factor):
        name, asked = "listener", 0

        def guide(self, frontier) -> Any:
            for row, hidden in zip(frontier.heads, frontier.hidden, strict=True):
                self.compare(frontier.state, row, 0, hidden)
            return torch.zeros_like(frontier.logits)

        def level(self, t, state, rows) -> Any:
            for row, hidden in zip(rows, state.tell_hidden(rows), strict=True):
                self.compare(state, row, 1, hidden)
            return np.sin(7.0 * rows)  # so that populations are resampled

        def final(self, state, rows) -> Any:
            return np.zeros(len(rows))

        def compare(self, state, row, behind, hidden) -> None:
            tokens = state.tokens([row])[0]
            own = read_alone(state.prompts[state.group[row]], tokens[: len(tokens) - behind])
            torch.testing.assert_close(hidden, own, atol=1e-4, rtol=1e-4)
            self.asked += 1

    one, other, third = Listener(), Listener(), Listener()
    listed = fk.choices(["abab", "bbab", "babb"])  # which are scored behind the prompt, in the same contexts
    problems = [
        (lm.prompt("ab", max_tokens=5), one),
        (lm.prompt("b", max_tokens=7), fk.regex("[ab]{5,}"), other),
        (lm.prompt("a", max_tokens=5), listed, third),
    ]
    fk.steer(problems, particles=6, ess_threshold=1.0, seed=0)
    assert min(one.asked, other.asked, third.asked) > 10
