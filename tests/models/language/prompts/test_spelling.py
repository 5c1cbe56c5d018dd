"""Texts as tokens: bytes are what was given, on every kind of tokenizer, and a prompt is open at its end."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers_of_kinds import BYTES, KINDS, model_of, wrap

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.prompts.spelling import Speller

TEXTS = [
    "b",
    " b",
    "yes",
    " yes",
    "  the",
    "the cat",
    "\n",
    "a\n\nb",
    "yes ",
    " ",
    "12 34",
    "café",
    "🙂",
    "x</s>b",
    "</s>",
]


def speller(tokenizer, n_embeddings=10**6):
    return Speller(tokenizer, Vocabulary.from_tokenizer(tokenizer), n_embeddings)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "word piece"])
@pytest.mark.parametrize("text", TEXTS)
def test_what_is_put_behind_a_text_has_its_bytes_and_no_blank_before_it(kind, text) -> None:
    tokenizer = wrap(KINDS[kind](), template="<s> $A")
    ids = speller(tokenizer).spell(text)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    written = b"".join(b"</s>" if i == tokenizer.eos_token_id else vocabulary.tokens[i] for i in ids)
    assert written == text.encode()


@pytest.mark.parametrize(
    "kind", ["legacy", "metaspace first", "metaspace always", "unigram", "byte level, blank first"]
)
def test_the_spelling_without_a_blank_is_the_tokenizers_own(kind) -> None:
    """As a text reads where it stands inside of a longer one."""
    tokenizer = wrap(KINDS[kind]())
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    inside = tokenizer("a\nyes", add_special_tokens=False)["input_ids"]
    assert vocabulary.bytes(inside).lstrip() == b"a\nyes"
    ids = speller(tokenizer).spell("yes")
    assert inside[-len(ids) :] == list(ids)


@pytest.mark.parametrize(
    ("kind", "text", "reads"),
    [
        ("word piece", " The", "' the'"),  # lower-cased
        ("word piece", "the", "' the'"),  # no word without a blank
        ("word piece", " café", "'<unk>'"),
        ("word piece", " a\nb", "' a b'"),
        ("unigram", "ﬁne", "'fine'"),  # normalized
    ],
)
def test_a_text_that_the_tokenizer_would_change_is_refused(kind, text, reads) -> None:
    with pytest.raises(
        ModelError, match=f"makes {reads} of the text {re.escape(repr(text))}; give a text that it keeps"
    ):
        speller(wrap(KINDS[kind]())).spell(text)


def test_a_text_that_word_piece_keeps_is_spelt() -> None:
    tokenizer = wrap(KINDS["word piece"]())
    ids = speller(tokenizer).spell(" the cats")
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "cat", "##s"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["$A </s>", "<s> $A </s>", "<s> $A"])
def test_an_end_of_sequence_that_the_tokenizer_appends_is_not_in_a_prompt(kind, template) -> None:
    closed, plain = wrap(KINDS[kind](), template=template), wrap(KINDS[kind]())
    bos = [0] if template.startswith("<s>") else []
    assert list(speller(closed).begin("yes")) == bos + plain("yes")["input_ids"]
    # What is in the text itself stays.
    assert list(speller(closed).begin("yes</s>")) == bos + plain("yes</s>")["input_ids"]
    assert speller(closed).spell(" yes") == speller(plain).spell(" yes")


@pytest.mark.parametrize("template", ["", "<s> $A", "<s> $A </s>", "$A </s>", "</s> $A"])
def test_the_empty_prompt_is_the_beginning_of_sequence(template) -> None:
    lm = model_of(wrap(KINDS["metaspace first"](), template=template))
    assert lm.prompt("").prompts[0].tokens == (0,)
    result = fk.steer(lm.prompt("", max_tokens=2), particles=4, seed=0)
    assert np.isfinite(result.log_evidence)
    same = wrap(KINDS["byte level"](), template=template, bos_token="</s>")  # as GPT-2 has it
    assert speller(same).begin("") == ((1,) if not template.startswith("<s>") else (0,))


def test_the_empty_prompt_without_a_beginning_of_sequence_is_refused() -> None:
    with pytest.raises(ArgumentError, match="the prompt is empty"):
        speller(wrap(KINDS["byte level"](), bos_token=None)).begin("")


def test_a_token_without_an_embedding_is_named() -> None:
    tokenizer = wrap(KINDS["byte level"]())
    tokenizer.add_tokens(["<extra>"])
    lm = model_of(tokenizer, size=len(tokenizer) - 1)
    message = rf"makes token '<extra>' \({len(tokenizer) - 1}\) of this text, and the model has embeddings for"
    with pytest.raises(ModelError, match=message):
        lm.prompt("a <extra>")
    with pytest.raises(ModelError, match=message):
        lm.spell("<extra>")
    with pytest.raises(ArgumentError, match=rf"tokens\[1\] is {len(tokenizer) - 1}, which lies outside"):
        lm.prompt(tokens=[1, len(tokenizer) - 1])


def test_a_token_that_can_be_read_and_not_written_may_stand_in_a_prompt_only() -> None:
    tokenizer = wrap(KINDS["byte level"]())
    lm = model_of(tokenizer)
    lm.model.lm_head = torch.nn.Linear(16, len(tokenizer) - 1, bias=False)
    lm = fk.CausalLM(lm.model, tokenizer)
    last = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    text = tokenizer.decode([len(tokenizer) - 1])
    assert lm.prompt(text).prompts[0].tokens == (len(tokenizer) - 1,)
    with pytest.raises(ModelError, match=f"token {last!r}.* beyond the {len(tokenizer) - 1} that the model can write"):
        lm.spell(text)


def test_a_model_that_draws_tokens_it_cannot_read_is_refused() -> None:
    tokenizer = wrap(KINDS["byte level"]())
    lm = model_of(tokenizer)
    lm.model.lm_head = torch.nn.Linear(16, len(tokenizer) + 3, bias=False)
    lm = fk.CausalLM(lm.model, tokenizer)
    with pytest.raises(ModelError, match="could not go on behind some; resize its embeddings"):
        fk.steer(lm.prompt("a", max_tokens=2), particles=2, seed=0)


def test_an_end_that_is_an_ordinary_token_is_spelt_too() -> None:
    tokenizer = wrap(KINDS["byte level"]())
    b = tokenizer("b")["input_ids"][0]
    lm = model_of(tokenizer, eos=b)
    assert lm.vocabulary.tokens[b] == b"" and lm.spell("abc").count(b) == 1


def test_a_tokenizer_that_cannot_be_taken_apart_still_spells_what_it_can() -> None:
    class Spaces:
        def pre_tokenize(self, pretok):
            pretok.split(lambda i, text: text.split(" ", "isolated"))

    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate([*BYTES, "a"])}, merges=[]))
    tokenizer = wrap(made, bos_token=None, eos_token=None, unk_token=None)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Spaces())
    with pytest.raises(ModelError, match="makes ' a' of the text 'a'"):
        speller(tokenizer).spell("a")


@pytest.mark.parametrize("kind", ["legacy", "metaspace first", "metaspace always", "byte level"])
def test_a_program_appends_and_observes_the_bytes_it_gives(kind) -> None:
    tokenizer = wrap(KINDS[kind](), template="<s> $A")
    lm = model_of(tokenizer)

    @fk.program
    def writes(p):
        text = lm.context("a")
        text.append("b")
        text.observe_text("yes")
        return text.bytes

    result = fk.steer(writes(), particles=2, seed=0)
    assert set(result.samples) == {b"byes"}
    # The weight is that of these very tokens, by one plain pass.
    prompt, given, observed = tokenizer("a")["input_ids"], lm.spell("b"), lm.spell("yes")
    with torch.no_grad():
        log_p = torch.log_softmax(lm.model(torch.tensor([[*prompt, *given, *observed]])).logits[0].double(), -1)
    at = len(prompt) + len(given) - 1
    assert result.log_evidence == pytest.approx(sum(float(log_p[at + i, t]) for i, t in enumerate(observed)), abs=1e-5)
    assert lm.vocabulary.bytes([*given, *observed]) == b"byes"


def test_several_turns_stand_in_one_context() -> None:
    tokenizer = wrap(KINDS["byte level"]())
    lm = model_of(tokenizer)

    @fk.program
    def talk(p):
        text = lm.context("a")
        text.append("b</s>c")
        assert not text.ended and [token.is_eos for token in text.tokens] == [False, True, False]
        before = text.fork()
        text.append([text.eos.id, 5])
        token = p.sample(text.next_token())
        assert len(text) == 5 + (not token.is_eos)
        return str(before), before.next_token().log_prob("b")

    result = fk.steer(talk(), particles=1, seed=0)
    text, log_prob = result.samples[0]
    ids = [*tokenizer("a")["input_ids"], *tokenizer("b</s>c")["input_ids"]]
    assert text == "bc" and 1 in ids
    with torch.no_grad():
        law = torch.log_softmax(lm.model(torch.tensor([ids])).logits[0, -1].double(), -1)
    assert log_prob == pytest.approx(float(law[lm.spell("b")[0]]), abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda text: text.append("\ud83d"), ArgumentError, "half of a character"),
        (lambda text: text.observe_text("\ud83d"), ArgumentError, "half of a character"),
        (lambda text: text.append(b"ab"), ArgumentError, "tokens is b'ab'; give a list of token ids"),
        (lambda text: text.append(5), ArgumentError, "tokens is 5; give a list of token ids"),
        (lambda text: text.append([1.0]), ArgumentError, r"tokens\[0\] is 1.0; give token ids"),
        (lambda text: text.append([10**6]), ArgumentError, r"tokens\[0\] is 1000000, which lies outside"),
        (lambda text: text.observe_text(["a"]), ArgumentError, r"\['a'\] is no text; give a string"),
        (lambda text: text.gen(until="\udcff"), ArgumentError, "until holds '.udcff' at 0, half of a character"),
        (lambda text: text.gen(max_tokens=2.0), ArgumentError, "max_tokens is 2.0; it must be an integer"),
        (lambda text: text.append("é"), ModelError, "makes '' of the text 'é'"),
    ],
)
def test_what_cannot_be_put_behind_a_context_is_refused(tiny_lm, wrong, error, message) -> None:
    lm = tiny_lm("a", "b")

    @fk.program
    def writes(p):
        wrong(lm.context("a"))
        return 0

    with pytest.raises(error, match=message):
        fk.steer(writes(), particles=1, seed=0)


def test_numbers_of_numpy_are_numbers_in_a_context(tiny_lm) -> None:
    lm = tiny_lm("a", "b", eos=())

    @fk.program
    def writes(p):
        text = lm.context(tokens=np.array([1]), temperature=np.float32(0.5))
        text.append(np.array([1, 2]))
        p.sample(text.gen(max_tokens=np.int64(2)))
        p.sample(text.draft(lm.context("a"), tokens=np.int32(2)))
        return tuple(token.id for token in text.tokens)

    assert all(ids[:2] == (1, 2) and len(ids) == 6 for ids in fk.steer(writes(), particles=3, seed=0).samples)
