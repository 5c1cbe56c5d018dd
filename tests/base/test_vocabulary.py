"""The bytes of every token, against what the tokenizers themselves decode."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from feynkac.base.errors import ModelError
from feynkac.base.vocabulary import Vocabulary

CORPUS = [
    "The weather today is fine, isn't it? Yes: it's 21°C.",
    "Größe naïve café — “quoted” … 世界 你好 こんにちは 🎉🙂 Ελλάδα",
    "def f(x):\n    return x ** 2  # two  spaces\n\tand a tab",
] * 3
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece(tokenizer: Tokenizer, strip: bool) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
    return tokenizer


def unigram() -> Tokenizer:
    pieces = sorted({c for text in CORPUS for c in text.replace(" ", "▁") if ord(c) < 0x3000})
    words = ["▁weather", "▁the", "ther", "▁is", "ein", "turn"]
    vocab = [("<unk>", 0.0), *((b, -20.0) for b in BYTES), *((p, -5.0) for p in pieces), *((w, -3.0) for w in words)]
    return _sentencepiece(Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True)), strip=False)


def metaspace_bpe() -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=150, limit_alphabet=50, special_tokens=["<unk>"])
    )
    vocab = trained.get_vocab()
    merges = [
        (piece[:k], piece[k:])
        for piece in sorted(vocab, key=lambda p: vocab[p])
        for k in range(1, len(piece))
        if piece != "<unk>" and piece[:k] in vocab and piece[k:] in vocab
    ]
    for piece in BYTES:
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    return _sentencepiece(tokenizer, strip=True)


BUILT = {"byte_level": byte_level, "unigram": unigram, "metaspace_bpe": metaspace_bpe}


def sample_texts(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    alphabet = "abcXYZ  \n\t.,'äß世界🎉\u0301\u200d\x7f" + chr(0x10FFFF)
    return ["".join(rng.choices(alphabet, k=rng.randrange(1, 40))) for _ in range(n)] + CORPUS


def check_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Each token alone, after an anchor that keeps its leading space, decodes to the text of its bytes."""
    for i, piece in enumerate(vocabulary.tokens):
        if not piece:
            continue
        anchor = tokenizer.encode("x", add_special_tokens=False).ids
        shown = tokenizer.decode([*anchor, i], skip_special_tokens=False)
        # a SentencePiece decoder writes a stray byte as one U+FFFD each, as we do for a single byte
        assert shown.endswith(piece.decode("utf-8", "replace")), (i, piece)
        assert len(shown.lstrip()) == len("x" + piece.decode("utf-8", "replace")), (i, piece)


def check_texts(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    for text in sample_texts(0, 200):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        written = vocabulary.bytes(ids)
        assert written in (text.encode(), b" " + text.encode())
        assert vocabulary.text(ids) in (text, " " + text)


@pytest.mark.parametrize("name", BUILT)
def test_bytes_are_exact(name: str) -> None:
    tokenizer = BUILT[name]()
    tokenizer.add_tokens(["<tool>", AddedToken("é世", normalized=False)])
    tokenizer.add_special_tokens(["<|end|>", "<|pad|>"])
    n = tokenizer.get_vocab_size()
    end, tool = tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<tool>")
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=n + 7, eos=[end])
    assert len(vocabulary) == vocabulary.size == n + 7
    assert vocabulary.eos == (end,)
    assert vocabulary.tokens[end] == vocabulary.tokens[n] == b""
    # The SentencePiece-like ones normalize the text "<tool>" to "▁<tool>", so this is what the token matches.
    assert vocabulary.tokens[tool] == (b"<tool>" if name == "byte_level" else b" <tool>")
    assert (
        vocabulary.tokens[tool + 1] == "é世".encode()
    )  # its characters are in GPT-2's byte alphabet, its bytes are not
    check_texts(tokenizer, vocabulary)
    check_tokens(tokenizer, vocabulary)


def test_every_byte_has_a_token() -> None:
    for build in BUILT.values():
        assert {bytes([b]) for b in range(256)} <= set(Vocabulary.from_tokenizer(build()).tokens)


def test_duplicates_and_sizes() -> None:
    vocabulary = Vocabulary.from_tokenizer(unigram())
    same = [i for i, token in enumerate(vocabulary.tokens) if token == b"a"]
    assert len(same) == 2  # the letter and its byte
    assert Vocabulary.from_tokenizer(unigram(), size=5).size == 5
    assert vocabulary.tokens[0] == b""  # unknown


def test_text_of_partial_and_invalid_bytes() -> None:
    vocabulary = Vocabulary((b"a", "界".encode()[:2], "界".encode()[2:], b"\xff", b"</s>"), (4,))
    assert vocabulary.text([0, 1]) == "a"
    assert vocabulary.text([0, 1, 2]) == "a界"
    assert vocabulary.text([1, 0]) == "\ufffda"
    assert vocabulary.text([3, 0, 4]) == "\ufffda"
    assert vocabulary.text([]) == ""


def test_end_of_sequence() -> None:
    vocabulary = Vocabulary((b"a", b"b", b"c"), (2, 1, 2))
    assert vocabulary.eos == (1, 2)
    assert vocabulary.tokens == (b"a", b"", b"")
    assert Vocabulary((b"a",)).eos == ()
    with pytest.raises(ModelError, match="id 3 is outside the vocabulary of 3"):
        Vocabulary((b"a", b"b", b"c"), (3,))


def test_word_piece() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, ".": 3, "##s": 4}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.tokens == (b"", b" play", b"ing", b".", b"s")
    assert vocabulary.text([1, 2, 3]) == " " + tokenizer.decode([1, 2, 3])


def test_word_level_is_joined_by_spaces() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="?"))
    assert Vocabulary.from_tokenizer(tokenizer).text([0, 1, 0]) == " " + tokenizer.decode([0, 1, 0])


@pytest.mark.parametrize("decoder", [decoders.CTC(), decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])])
def test_refuses_what_has_no_bytes(decoder: decoders.Decoder) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))
    tokenizer.decoder = decoder
    with pytest.raises(ModelError, match="Tokenizer: the bytes of its tokens"):
        Vocabulary.from_tokenizer(tokenizer)
    with pytest.raises(ModelError, match="object has no definition"):
        Vocabulary.from_tokenizer(object())


def test_real_tokenizer(smollm2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.eos == (tokenizer.eos_token_id,)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    for i, token in enumerate(vocabulary.tokens):
        assert token.decode("utf-8", "replace") == ("" if i in special else tokenizer.decode([i]))
    check_texts(tokenizer.backend_tokenizer, vocabulary)
