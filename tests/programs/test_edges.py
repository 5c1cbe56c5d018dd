"""Programs at the edges: masks that leave nearly nothing or all, logits that are no law, turns of a chat."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError, ProgramError
from feynkac.programs import program
from feynkac.programs.compat.llamppl import CachedCausalLM, LMContext, Model, smc_standard


@pytest.fixture
def steep(tiny_lm):
    """A model that says "a" all but surely: `steep(nats)` is the model, and the log-law behind "ab" in float64."""

    def make(nats: float):
        lm = tiny_lm("a", "b", "e")
        with torch.no_grad():
            logits = lm.model(torch.tensor([lm.tokenizer("ab").input_ids])).logits[0, -1].double()
            hidden = torch.linalg.pinv(lm.model.lm_head.weight.double())
            wanted = torch.tensor([-nats - 1.0, 0.0, -nats, -nats - 2.0], dtype=torch.float64)
            # The head is turned so that the logits behind "ab" are those wanted.
            x = hidden @ logits
            lm.model.lm_head.weight.copy_(torch.outer(wanted, x) / (x @ x))
            law = lm.model(torch.tensor([lm.tokenizer("ab").input_ids])).logits[0, -1].double().log_softmax(0)
        return lm, law.numpy()

    return make


@program
def observed(p, lm, tokens, holds):
    text = lm.context("ab")
    p.observe(text.mask(tokens), holds)
    return p.sample(text.next_token())


@pytest.mark.parametrize("nats", [5.0, 33.0, 36.5, 40.0, 80.0])
def test_what_a_mask_leaves_out_keeps_its_mass_however_small(steep, nats) -> None:
    lm, law = steep(nats)
    outside = fk.steer(observed(lm, ["a"], False), particles=4, seed=0)
    rest = fk.steer(observed(lm, lambda text: text != "a", True), particles=4, seed=0)
    ids = [2, 3]  # b and e; the end of sequence has no text
    without_end = np.logaddexp.reduce(law[ids])
    assert rest.log_evidence == pytest.approx(without_end, abs=1e-5)
    assert outside.log_evidence == pytest.approx(np.logaddexp.reduce(law[[0, 2, 3]]), abs=1e-5)
    assert fk.steer(observed(lm, [0, 2, 3], True), particles=4, seed=0).log_evidence == outside.log_evidence
    assert outside.log_evidence < -nats + 1.0 and "a" not in outside.samples


@program
def twice(p, lm, first, second):
    text = lm.context("ab")
    p.observe(text.mask(first), True)
    p.observe(text.mask(second), False)
    return p.sample(text.next_token())


@pytest.mark.parametrize("nats", [5.0, 40.0])
def test_what_a_mask_leaves_out_of_another_keeps_its_mass(steep, nats) -> None:
    lm, law = steep(nats)
    result = fk.steer(twice(lm, ["a", "b"], ["a"]), particles=4, seed=0)
    assert result.log_evidence == pytest.approx(law[2], abs=1e-5) and set(result.samples) == {"b"}
    result = fk.steer(twice(lm, ["b", "e"], ["b"]), particles=4, seed=0)
    assert result.log_evidence == pytest.approx(law[3], abs=1e-5) and set(result.samples) == {"e"}
    with pytest.raises(fk.AllParticlesDied):
        fk.steer(twice(lm, ["b"], ["b", "e"]), particles=4, seed=0)


@pytest.mark.parametrize("nats", [5.0, 40.0])
def test_what_a_mask_of_llamppl_leaves_out_keeps_its_mass(steep, nats) -> None:
    lm, law = steep(nats)
    wrapped = CachedCausalLM(lm)

    class Outside(Model):
        async def step(self):
            context = LMContext(wrapped, "ab")
            await self.observe(context.mask_dist({1}), False)
            self.finish()

    found = asyncio.run(smc_standard(Outside(), 2))
    assert found.log_evidence == pytest.approx(np.logaddexp.reduce(law[[0, 2, 3]]), abs=1e-5)


def test_the_other_side_of_a_rare_event_keeps_its_mass() -> None:
    assert fk.Bernoulli(1e-20).log_prob(False) == -1e-20
    assert fk.Geometric(1e-20).log_prob(3) == pytest.approx(math.log(1e-20) - 2e-20, abs=1e-18)
    assert fk.Bernoulli(1.0).log_prob(False) == -math.inf


# --- logits that are no law


class Spoilt:
    """Contexts whose token 1 has `bad` logits from their forward pass number `after` on."""

    def __init__(self, contexts, bad: float, after: int) -> None:
        self._contexts, self._bad, self._left = contexts, bad, after

    def __getattr__(self, name):
        return getattr(self._contexts, name)

    def _spoil(self, logits):
        self._left -= 1
        if self._left < 0:
            logits = logits.clone()
            logits[..., 1] = self._bad
        return logits

    def start(self):
        return self._spoil(self._contexts.start())

    def extend(self, parents, tokens):
        return self._spoil(self._contexts.extend(parents, tokens))

    def append(self, *args, **kwargs):
        return self._spoil(self._contexts.append(*args, **kwargs))


@program
def tokens(p, lm):
    text = lm.context("ab")
    while not text.ended and len(text) < 6:
        p.sample(text.next_token())
    return str(text)


@program
def scores(p, lm):
    text = lm.context("ab")
    for _ in range(5):
        text.observe_text("a")
        p.sample(fk.Bernoulli(0.5))
    return str(text)


@program
def masks(p, lm):
    text = lm.context("ab")
    for _ in range(5):
        p.observe(text.mask(["a", "b"]), True)
        p.sample(text.next_token())
    return str(text)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("make", "third"), [(tokens, 2), (scores, 1), (masks, 1), (lambda lm: lm.prompt("ab", max_tokens=6), 2)]
)
def test_logits_that_are_no_law_are_a_model_error_that_names_the_step(monkeypatch, tiny_lm, bad, make, third) -> None:
    """`third`: the step in which the third forward pass is made."""
    lm, opened = tiny_lm("a", "b", eos=()), fk.CausalLM.open
    for after, step in ((2, third), (0, 0)):
        monkeypatch.setattr(fk.CausalLM, "open", lambda *args, n=after: Spoilt(opened(*args), bad, n))
        with pytest.raises(ModelError, match=f"hold {bad} for token 1.*step {step}") as caught:
            fk.steer(make(lm), particles=4, seed=0)
        assert caught.value.step == step and (caught.value.partial is not None) == (after > 0)


# --- ends of sequence in given text


def truth(lm, text: str) -> float:
    """The log-probability of `text` behind "ab", its tokens all alike."""
    start, ids = lm.tokenizer("ab").input_ids, lm.tokenizer(text).input_ids
    law = lm.model(torch.tensor([[*start, *ids]])).logits[0].detach().double().log_softmax(-1)
    return sum(float(law[len(start) + i - 1, token]) for i, token in enumerate(ids))


def test_turns_of_a_chat_stand_in_one_context(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    @program
    def turns(p, appended, scored):
        text = lm.context("ab")
        text.append(appended)
        assert not text.ended and len(text) == len(lm.tokenizer(appended).input_ids)
        text.observe_text(scored)
        assert not text.ended
        p.factor(text.next_token().log_prob("a"))
        return str(text)

    for appended, scored in [("a</s>b", "a"), ("a", "b</s>a"), ("</s>", "</s></s>b"), ("b</s>", "a</s>")]:
        result = fk.steer(turns(appended, scored), particles=2, seed=0)
        wanted = truth(lm, appended + scored + "a") - truth(lm, appended)
        assert result.log_evidence == pytest.approx(wanted, abs=1e-5)
        assert result.best == (appended + scored).replace("</s>", "")


def test_an_end_that_is_drawn_or_given_as_a_token_still_ends(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    @program
    def ended(p, how):
        text = lm.context("ab")
        if how == "append":
            text.append(text.eos)
        elif how == "observe":
            p.observe(text.next_token(), text.eos)
        else:
            ahead = text.fork()
            while not text.ended:
                p.sample(text.draft(ahead))
        p.condition(text.ended and "</s>" not in str(text))
        return len(text)

    for how in ("append", "observe", "draft"):
        assert fk.steer(ended(how), particles=8, seed=0).log_evidence > -30.0


@pytest.mark.parametrize("ids", [[1.0], [True], [-1], [99], ["a"]])
def test_what_is_no_token_is_not_appended(tiny_lm, ids) -> None:
    lm = tiny_lm("a", "b")

    @program
    def appended(p):
        lm.context("ab").append(ids)
        return 1

    with pytest.raises(ArgumentError, match=r"tokens\[0\] is .*(integers|outside of the vocabulary of 3)"):
        fk.steer(appended(), particles=2)


# --- what is returned, and numbers


@pytest.mark.parametrize(
    "returned",
    ["text.gen(until='b')", "text.next_token()", "('yes', text.gen(max_tokens=2))", "{'a': [text.mask(['a'])]}",
     "text.draft(text.fork())"],
)  # fmt: skip
def test_what_was_never_sampled_is_not_returned(tiny_lm, returned) -> None:
    lm = tiny_lm("a", "b")

    @program
    def forgets(p):
        text = lm.context("ab")
        return eval(returned, {"text": text})

    with pytest.raises(ProgramError, match=r"'forgets' returned .* never sampled: write x = p\.sample"):
        fk.steer(forgets(), particles=2, seed=0)


def test_numbers_of_numpy_bound_spans_and_drafts(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=())

    @program
    def spans(p):
        text = lm.context("ab")
        p.sample(text.gen(max_tokens=np.int64(3)))
        first = len(text)
        p.sample(text.draft(text.fork(), np.int32(2)))
        return first, len(text)

    assert set(fk.steer(spans(), particles=4, seed=0).samples) == {(3, 5)}


@pytest.mark.parametrize("limit", [math.nan, 2.0, 0, True, "3", math.inf])
def test_what_is_no_number_of_tokens_is_refused(tiny_lm, limit) -> None:
    lm = tiny_lm("a", "b")

    @program
    def spans(p):
        return p.sample(lm.context("ab").gen(max_tokens=limit))

    with pytest.raises(ArgumentError, match=r"max_tokens is .*; it must be an integer of at least 1"):
        fk.steer(spans(), particles=2, seed=0)


@pytest.mark.parametrize("limit", [math.nan, 2.0, 0, True, "3", math.inf])
@pytest.mark.parametrize("name", ["max_steps", "max_tokens"])
def test_what_is_no_budget_is_refused_where_it_is_given(name, limit) -> None:
    with pytest.raises(ArgumentError, match=rf"{name} is .*; it must be an integer of at least 1"):
        program(**{name: limit})(lambda p: 1)
    with pytest.raises(ArgumentError, match=name):
        program(lambda p: 1)().limited(**{name: limit})
    program(lambda p: 1)().limited(**{name: np.int64(3)})
