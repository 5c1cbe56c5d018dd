"""The arguments of a prompt: what each may be, and what is said of what it may not."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.base.tokens import Token
from feynkac.models.language.lm import CausalLM


@pytest.fixture(scope="module")
def lm(tiny_lm) -> Any:
    return tiny_lm("a", "b")


SEVERAL = "one prompt a call; a list of prompts is a list of models"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["a", "b"], SEVERAL),
        (("a",), SEVERAL),
        ([], SEVERAL),
        (np.array(["a", "b"]), "give token ids as tokens="),
        (b"a", r"the prompt is b'a'; decode it: text\.decode\(\)"),
        (5, "the prompt is 5; give a string"),
        (1.5, "the prompt is 1.5; give a string"),
        ([1, 2], "give token ids as tokens="),
        (torch.tensor([1]), "give token ids as tokens="),
        ({"role": "user", "content": "a"}, r"give messages as chat=\[message\]"),
        ([{"role": "user", "content": "a"}], "give messages as chat="),
        ("a\ud83d", "the prompt holds '.ud83d' at 1, half of a character"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(lm, text, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        lm.prompt(text)


def test_the_advice_for_a_list_of_prompts_works(lm) -> None:
    results = fk.steer([lm.prompt(one, max_tokens=2) for one in ["a", "b"]], particles=2, seed=0)
    assert len(results) == 2


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2],
        (1, 2),
        [[1, 2]],
        np.array([1, 2]),
        np.array([[1, 2]], np.uint16),
        [np.int64(1), np.int32(2)],
        [np.array([1, 2])],
        torch.tensor([1, 2]),
        torch.tensor([[1, 2]]),
        [torch.tensor(1), torch.tensor(2)],
        range(1, 3),
        iter([1, 2]),
    ],
)
def test_token_ids_are_taken_in_every_form(lm, tokens) -> None:
    ids = lm.prompt(tokens=tokens).prompts[0].tokens
    assert ids == (1, 2) and {type(id) for id in ids} == {int}


def test_tokens_of_the_same_model_are_a_prompt(lm, tiny_lm) -> None:
    assert lm.prompt(tokens=[Token.of(lm.vocabulary, 1)]).prompts[0].tokens == (1,)
    with pytest.raises(ArgumentError, match=r"tokens\[0\] is 'a' of another model's vocabulary"):
        lm.prompt(tokens=[Token.of(tiny_lm("a").vocabulary, 1)])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "the prompt is empty"),
        (torch.zeros(1, 0, dtype=torch.long), "the prompt is empty"),
        ([[1], [2]], f"tokens holds 2 rows; {SEVERAL}"),
        (torch.ones(3, 1, dtype=torch.long), f"tokens holds 3 rows; {SEVERAL}"),
        (torch.tensor(1), r"give a list of token ids, or a text"),
        (np.array(1), "give a list of token ids, or a text"),
        (1, "tokens is 1; give a list of token ids, or a text"),
        ("ab", r"tokens is 'ab'; give a list of token ids, or a text as lm\.prompt\(text\)"),
        (b"ab", "tokens is b'ab'; give a list of token ids"),
        ({1, 2}, "give a list of token ids"),
        ({"input_ids": [1]}, r"give its input_ids: tokens=tokenizer\(text\)\.input_ids"),
        ([1.0], r"tokens\[0\] is 1\.0; give token ids, which are integers"),
        (torch.tensor([1.0]), r"tokens\[0\] is 1\.0; give token ids"),
        (np.array([True]), r"tokens\[0\] is True; give token ids"),
        ([1, "a"], r"tokens\[1\] is 'a'; give token ids"),
        ([1, None], r"tokens\[1\] is None; give token ids"),
        ([1, -1], r"tokens\[1\] is -1, which lies outside of the vocabulary of 3"),
        ([3], r"tokens\[0\] is 3, which lies outside of the vocabulary of 3"),
    ],
)
def test_what_is_no_list_of_token_ids_is_refused(lm, tokens, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        lm.prompt(tokens=tokens)


@pytest.mark.parametrize("limit", [None, 10.0, "5", float("nan"), 0, -1, True, np.float64(3), [3], np.array([3, 4])])
def test_a_limit_that_is_no_whole_number_is_refused(lm, limit) -> None:
    with pytest.raises(ArgumentError, match=r"max_tokens is .*; it must be an integer of at least 1"):
        lm.prompt("a", max_tokens=limit)


@pytest.mark.parametrize("limit", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_of_numpy_are_limits(lm, limit) -> None:
    prompt = lm.prompt("a", max_tokens=limit).prompts[0]
    assert prompt.max_tokens == 3 and type(prompt.max_tokens) is int


@pytest.mark.parametrize(
    "temperature",
    ["0.7", None, float("nan"), 0, -1.0, float("inf"), 1e-40, 1e-300, 1e40, True, [1.0], 1j, np.array([1.0, 2.0])],
)
def test_a_temperature_that_no_logit_can_be_divided_by_is_refused(lm, temperature) -> None:
    with pytest.raises(ArgumentError, match=r"temperature is .*; give a number, such as 0.7"):
        lm.prompt("a", temperature=temperature)


@pytest.mark.parametrize(
    "temperature", [1, 0.5, np.float32(0.5), np.float64(2), np.int64(2), np.array(0.5), np.float16(2), Fraction(1, 2)]
)
def test_every_kind_of_positive_number_is_a_temperature(lm, temperature) -> None:
    made = lm.prompt("a", temperature=temperature).prompts[0].law.temperature
    assert made == float(temperature) and type(made) is float


@pytest.mark.parametrize("temperature", [1e-30, 1e-8, 1e30])
def test_extreme_temperatures_give_the_limits_of_the_law(lm, temperature) -> None:
    result = fk.steer(lm.prompt("a", max_tokens=3, temperature=temperature), particles=256, seed=0)
    assert result.log_evidence == 0.0 and np.isfinite(result.log_weights).all()
    ids = lm.prompt("a").prompts[0].tokens
    with torch.no_grad():
        greedy = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
    first = {text[:1] for text in result.samples}
    assert first == ({lm.vocabulary.text([greedy])} if temperature < 1 else {"", "a", "b"})


@pytest.mark.parametrize(("stop", "stops"), [
    (None, ()), ((), ()), ([], ()), ("b", (b"b",)), (["b", "é"], (b"b", "é".encode())), (("b",), (b"b",)),
    (np.array(["b"]), (b"b",)), ({"b"}, (b"b",)), (iter(["b"]), (b"b",)), (np.str_("b"), (b"b",)),
])  # fmt: skip
def test_stop_strings_in_every_form(lm, stop, stops) -> None:
    assert lm.prompt("a", stop=stop).prompts[0].stop == stops


@pytest.mark.parametrize(("stop", "message"), [
    ([b"x"], "stop holds b'x'; give a string"), (b"x", "stop is b'x'; give a string"), (5, "stop is 5; give a string"),
    ([1], "stop holds 1; give a string"), ({"a": 1}, "stop is {'a': 1}; give a string"), ("", "stop string is empty"),
    (["a", ""], "stop string is empty"), ("\ud83d", "a stop string holds"), ([None], "stop holds None; give a string"),
])  # fmt: skip
def test_what_is_no_stop_string_is_refused(lm, stop, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        lm.prompt("a", stop=stop)


@pytest.mark.parametrize("eos", [2, np.int64(2), [2], (2, 2), {2}, np.array([2]), iter([2]), torch.tensor([2])])
def test_one_id_or_several_end_a_text(tiny_lm, eos) -> None:
    given = tiny_lm("a", "b")
    assert CausalLM(given.model, given.tokenizer, eos=eos).vocabulary.eos == (2,)


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        ("</s>", "eos is '</s>'; give a token id, or a list of ids"),
        (2.0, r"eos is 2\.0; give a token id"),
        (True, "eos is True; give a token id"),
        (["</s>"], r"eos is \['</s>'\]; give a token id"),
        ([1.5], r"eos is \[1\.5\]; give a token id"),
        (-1, "eos is -1; give a token id"),
        ([None], r"eos is \[None\]; give a token id"),
        (3, "eos 3 is outside of the vocabulary of 3 tokens"),
    ],
)
def test_what_is_no_end_of_sequence_is_refused(tiny_lm, eos, message) -> None:
    given = tiny_lm("a", "b")
    with pytest.raises(ArgumentError, match=message):
        CausalLM(given.model, given.tokenizer, eos=eos)


def test_a_configuration_that_says_minus_one_has_no_end_of_sequence(tiny_lm) -> None:
    given = tiny_lm("a", "b")
    given.model.generation_config = SimpleNamespace(eos_token_id=-1)
    assert CausalLM(given.model, given.tokenizer).vocabulary.eos == (0,)


@pytest.mark.parametrize("what", ["tools", "documents", "template"])
def test_what_belongs_to_a_chat_is_refused_beside_a_text(lm, what) -> None:
    with pytest.raises(ArgumentError, match=f"{what}= is for the template of a chat; give the prompt as chat="):
        lm.prompt("a", **{what: []})


@pytest.mark.parametrize("at_limit", [None, "stop", 1, ["end"], np.array(["end", "end"])])
def test_a_meaning_of_the_limit_that_there_is_not_is_refused(lm, at_limit) -> None:
    with pytest.raises(ArgumentError, match="it must be 'truncate' or 'end'"):
        lm.prompt("a", at_limit=at_limit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["a", "b"]}, SEVERAL),
        ({"text": "\ud83d"}, "half of a character"),
        ({"text": "a", "temperature": "1"}, "temperature is '1'; give a number"),
        ({"text": "a", "temperature": 1e-40}, "give a number, such as 0.7, from"),
        ({"tokens": [1.0]}, "give token ids"),
        ({"tokens": torch.tensor([[1], [2]])}, "tokens holds 2 rows"),
        ({}, "give the prompt as one of"),
        ({"chat": {"role": "user", "content": "a"}}, r"chat=\[message\]"),
    ],
)
def test_a_context_is_asked_for_as_a_prompt_is(lm, arguments, message) -> None:
    @fk.program
    def opens(p):
        lm.context(**arguments)

    with pytest.raises(ArgumentError, match=message):
        fk.steer(opens(), particles=1, seed=0)


def test_contexts_behind_long_arrays_are_told_apart(lm) -> None:
    """They are read once a run, by what they hold: the repr of a long array leaves out its middle."""
    long = np.ones(400, int)
    other = long.copy()
    other[200] = 2

    @fk.program
    def opens(p):
        return tuple(len(set(lm.context(tokens=each).node.prompt)) for each in (long, torch.tensor(other)))

    assert fk.steer(opens(), particles=1, seed=0).samples == [(1, 2)]
