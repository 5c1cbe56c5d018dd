"""Canonical tokens, encode(decode(ids)) == ids: all sequences of small tokenizers, and random ones of a real one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import feynkac as fk
from feynkac.base.errors import ConstraintError
from feynkac.base.masks import unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import canonical, regex
from feynkac.potentials.constraints.spelling import SPLITS


def make(merges: list[tuple[str, str]], letters: str, before: Any, **options: Any) -> Vocabulary:
    """The vocabulary of a byte-level BPE with an end of sequence, 0."""
    pieces = dict.fromkeys(["</s>", *letters, *(left + right for left, right in merges)])
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, eos=[0])


@st.composite
def merge_lists(draw: Any, letters: str) -> list[tuple[str, str]]:
    """Merges as training makes them, and some that no training would: of parts that come later, of one token twice."""
    known, merges = list(letters), []
    for _ in range(draw(st.integers(1, 6))):
        pair = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        if pair not in merges and len(pair[0] + pair[1]) <= 4:
            merges.append(pair)
            known.append(pair[0] + pair[1])
    return draw(st.permutations(merges)) if draw(st.booleans()) else merges


def is_canonical(vocabulary: Vocabulary, ids: Any) -> bool:
    try:
        text = vocabulary.bytes(ids).decode()
    except UnicodeDecodeError:
        return False
    return vocabulary.tokenizer.encode(text, add_special_tokens=False).ids == list(ids)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(merge_lists("ab"))
def test_neighbours_tell_all_where_nothing_is_split(merges: Any) -> None:
    """Without borders the mask is the predicate itself, if merges stand in order; else it leaves out too little."""
    vocabulary = make(merges, "ab", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    automaton = canonical().automaton(vocabulary)
    texts = [v for v, token in enumerate(vocabulary.tokens) if token]
    ordered = automaton._rules._merges is not None  # type: ignore[attr-defined]
    for n in range(1, 4):
        for ids in itertools.product(texts, repeat=n):
            state = np.zeros(1, np.int64)
            for token in ids:
                if state[0] >= 0:
                    state = automaton.advance(state, np.array([token]))
            if ordered:
                assert (state[0] >= 0) == is_canonical(vocabulary, ids), ids
            else:
                assert state[0] >= 0 or not is_canonical(vocabulary, ids), ids


BORDERS = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]),
    "llama 3": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLITS[0]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
    "qwen 2": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLITS[1]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
    "unknown": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("s"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
}  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(merge_lists("s't1Ġl"), st.sampled_from(sorted(BORDERS)))
def test_no_canonical_text_is_masked(population: Any, merges: Any, kind: str) -> None:
    """All sequences of three tokens: contractions, digits and white space draw borders between the same tokens."""
    vocabulary = make(merges, "s't1Ġl", BORDERS[kind]())
    constraint = canonical()
    automaton = constraint.automaton(vocabulary)
    texts = [v for v, token in enumerate(vocabulary.tokens) if token]
    sequences = [ids for n in range(4) for ids in itertools.product(texts, repeat=n)]
    found = constraint.final(population(sequences, vocabulary), np.arange(len(sequences)))
    expected = [0.0 if is_canonical(vocabulary, ids) else -np.inf for ids in sequences]
    np.testing.assert_array_equal(found, expected)
    for ids, value in zip(sequences, expected, strict=True):
        if value == 0.0:
            state = np.zeros(1, np.int64)
            for token in ids:
                allowed = unpack(automaton.masks(state), vocabulary.size)[0]
                assert allowed[token] and allowed[0]
                state = automaton.advance(state, np.array([token]))


def test_on_random_ids_of_a_real_tokenizer_the_predicate_decides(smollm2: Any, population: Any) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    vocabulary = Vocabulary.from_tokenizer(tokenizer, eos=[0, 2])
    constraint, rng = canonical(), np.random.default_rng(0)
    automaton = constraint.automaton(vocabulary)
    texts = np.flatnonzero(vocabulary.with_text)
    # Whole encodings, random ids, and encodings of which a token is cut in two: what a model is tempted to do.
    said = "It's 1999: the café'll  open\n\n at 10:30, don't you think? Ⅻ 日本語 naïve_names = f(x)[0]  # 'rest'"
    sequences = [rng.choice(texts, size=rng.integers(1, 4)).tolist() for _ in range(1500)]
    for _ in range(300):
        cut = sorted(rng.integers(0, len(said), 2))
        ids = tokenizer.encode(said[cut[0] : cut[1]], add_special_tokens=False).ids
        sequences.append(ids)
        sequences.append([t for i in ids for t in (_cut(vocabulary, tokenizer, i, rng) if rng.random() < 0.3 else [i])])
    expected = np.array([is_canonical(vocabulary, ids) for ids in sequences])
    assert 300 < expected.sum() < len(sequences) - 300
    found = constraint.final(population(sequences, vocabulary), np.arange(len(sequences)))
    np.testing.assert_array_equal(found == 0.0, expected)
    masked = []
    for ids in sequences:
        state = np.zeros(1, np.int64)
        for token in ids:
            state = automaton.advance(state, np.array([token]))
        masked.append(bool(state[0] < 0))
    assert not (np.array(masked) & expected).any()
    # Most of what is not canonical is masked at once, and need not be found out at the end.
    assert np.array(masked).sum() > 0.5 * (~expected[1500:]).sum()


def _cut(vocabulary: Vocabulary, tokenizer: Any, token: int, rng: Any) -> list[int]:
    text = vocabulary.tokens[token].decode(errors="replace")
    if len(text) < 2 or "\ufffd" in text:
        return [token]
    at = rng.integers(1, len(text))
    parts = [tokenizer.encode(part, add_special_tokens=False).ids for part in (text[:at], text[at:])]
    return [*parts[0], *parts[1]]


def test_of_the_spellings_of_a_text_one_is_left() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = {"</s>": 0, "a": 1, "b": 2, "ab": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    lm = fk.CausalLM(model, fast, eos=(0,))
    task = lm.prompt(tokens=[1], max_tokens=3, at_limit="end")
    with torch.inference_mode():
        first, second = (model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0) for ids in ([1], [1, 3]))
    both = fk.steer(task, regex("ab"), algorithm="exact")
    one = fk.steer(task, regex("ab"), canonical(), algorithm="exact")
    assert one.log_evidence == pytest.approx(float(first[3] + second[0]), abs=1e-5)
    assert one.log_evidence < both.log_evidence - 0.01


@pytest.mark.parametrize(
    ("vocabulary", "problem"),
    [
        (lambda: Vocabulary((b"a", b""), (1,)), "is not made from a tokenizer"),
        (lambda: make([("a", "b")], "ab", pre_tokenizers.ByteLevel(add_prefix_space=True)), "without a prefix space"),
        (lambda: make([("a", "b")], "ab", pre_tokenizers.Whitespace()), r"BPE with \['Whitespace'\]"),
        (lambda: make([("a", "b")], "ab", pre_tokenizers.ByteLevel(False), dropout=0.1), "drops merges at random"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused_by_name(vocabulary: Any, problem: str) -> None:
    with pytest.raises(ConstraintError, match=problem):
        canonical().automaton(vocabulary())


def test_where_merges_do_not_tell_the_whole_text_is_checked(population: Any) -> None:
    borders = pre_tokenizers.ByteLevel(False, use_regex=False)
    vocabulary = make([("a", "b"), ("b", "a")], "ab", borders, ignore_merges=True)
    constraint = canonical()
    texts = [v for v, token in enumerate(vocabulary.tokens) if token]
    sequences = [ids for n in range(4) for ids in itertools.product(texts, repeat=n)]
    found = constraint.final(population(sequences, vocabulary), np.arange(len(sequences)))
    np.testing.assert_array_equal(found == 0.0, [is_canonical(vocabulary, ids) for ids in sequences])
