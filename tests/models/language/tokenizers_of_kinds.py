"""Small tokenizers of the kinds that there are, trained on a few lines, and a tiny model over each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = ["the cat sat on the mat", "a b c yes no\n", "The answer is yes.", "naïve café ﬁne", "<|end|> 12 34"] * 3
BYTES = [f"<0x{b:02X}>" for b in range(256)]
CONTROL = ["<s>", "</s>", "<unk>"]


def byte_level(add_prefix_space: bool = False) -> Tokenizer:
    """GPT-2's kind."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=CONTROL, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    return made


def _pieces() -> dict[str, int]:
    """Llama's pieces: control tokens, bytes, characters with and without a blank, and some words."""
    letters = sorted({c for line in LINES for c in line.replace(" ", "▁") if c != "\n"})
    words = ["▁t", "▁th", "▁the", "▁y", "▁ye", "▁yes", "ye", "yes", "▁a", "▁b", "▁c", "at", "▁▁"]
    listed = [*CONTROL, *BYTES, *letters, *(word for word in words if word not in letters)]
    return {piece: i for i, piece in enumerate(listed)}


def _sentencepiece() -> Tokenizer:
    vocab = _pieces()
    merges = [
        (piece[:k], piece[k:])
        for piece in vocab
        for k in range(1, len(piece))
        if piece not in (*CONTROL, *BYTES) and piece[:k] in vocab and piece[k:] in vocab
    ]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in CONTROL])
    return made


def legacy() -> Tokenizer:
    """Llama 2 as it was: a blank goes before every text, by the normalizer."""
    made = _sentencepiece()
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


def metaspace(scheme: Any = "first") -> Tokenizer:
    """Llama 2 as it is now: a blank goes before the first piece, or before every one."""
    made = _sentencepiece()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return made


def unigram() -> Tokenizer:
    """T5's and XGLM's kind: Unicode is normalized first."""
    vocab = [(piece, -20.0 if piece in BYTES else -3.0) for piece in _pieces()]
    made = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in CONTROL])
    return made


def word_piece() -> Tokenizer:
    """BERT's kind: lower case, words, and what continues them."""
    pieces = [*CONTROL, "the", "cat", "yes", "##s", "##t", "a", "b", "c", ".", "t", "s"]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in CONTROL])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte level, blank first": lambda: byte_level(add_prefix_space=True),
    "legacy": legacy,
    "metaspace first": metaspace,
    "metaspace always": lambda: metaspace("always"),
    "unigram": unigram,
    "word piece": word_piece,
}


def wrap(made: Tokenizer, *, template: str = "", **kwargs: Any) -> Any:
    """The tokenizer as transformers has it; `template`, such as "<s> $A", says what it puts around a text."""
    from transformers import PreTrainedTokenizerFast

    if template:
        ids = [(name, made.token_to_id(name)) for name in CONTROL]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def model_of(tokenizer: Any, size: int | None = None, **kwargs: Any) -> Any:
    """A tiny language model with random weights over `tokenizer`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from feynkac.models.language.lm import CausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer) if size is None else size, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return CausalLM(model, tokenizer, **kwargs)
