"""The exact bytes of every token, derived from a tokenizer's own decoder.

Text that follows a prompt keeps its leading space: a decoder's rule to strip it from the start of a whole text does
not apply. Everything else is the decoder's own definition, so the bytes of a token list are the text's UTF-8.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.digests import digest
from feynkac.base.errors import ModelError

Piece: TypeAlias = str | bytes
"""What a token decodes to on its way through the decoder; bytes are final."""
Stage: TypeAlias = Callable[[Piece], Piece]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model as bytes; compared and hashed by identity.

    `tokens`: (V,) bytes of each id up to the model's padded size; b"" has no text: control tokens, padding ids and
    the end-of-sequence tokens `eos`, which are sorted, may be several, and may be none.
    `tokenizer`: the `tokenizers.Tokenizer` that they are of, where there is one.
    """

    tokens: tuple[bytes, ...] = field(repr=False)
    eos: tuple[int, ...] = ()
    tokenizer: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        tokens, eos = list(self.tokens), tuple(sorted({int(i) for i in self.eos}))
        for i in eos:
            if not 0 <= i < len(tokens):
                raise ModelError(f"end-of-sequence id {i} is outside the vocabulary of {len(tokens)} tokens")
            tokens[i] = b""
        object.__setattr__(self, "tokens", tuple(tokens))
        object.__setattr__(self, "eos", eos)

    @property
    def size(self) -> int:
        return len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def ends(self) -> NDArray[np.bool_]:
        """(V,) the end-of-sequence tokens; read-only."""
        return _freeze(np.isin(np.arange(self.size), self.eos))

    @functools.cached_property
    def with_text(self) -> NDArray[np.bool_]:
        """(V,) the tokens that have a text, which ends and control tokens have not; read-only."""
        return _freeze(np.array([bool(token) for token in self.tokens], np.bool_))

    @functools.cached_property
    def digest(self) -> str:
        """A number that tells it from other vocabularies."""
        return digest(self.eos, *self.tokens)

    def bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for."""
        tokens = self.tokens
        return b"".join([tokens[i] for i in ids])

    def text(self, ids: Iterable[int]) -> str:
        """The tokens' text: an unfinished character at the end is left out, other invalid bytes become U+FFFD."""
        return codecs.utf_8_decode(self.bytes(ids), "replace", False)[0]

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, size: int | None = None, eos: Sequence[int] | None = None) -> Vocabulary:
        """Derive the bytes from a `transformers` fast tokenizer or a `tokenizers.Tokenizer`.

        `size`: the model's padded vocabulary, which may be larger or smaller than the tokenizer's.
        `eos`: the end-of-sequence ids; by default the tokenizer's own. Raises ModelError for a decoder whose tokens
        have no bytes of their own.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        name = type(tokenizer).__name__
        if not hasattr(backend, "get_added_tokens_decoder"):
            raise ModelError(f"{name} has no definition to read the bytes of its tokens from; load the fast tokenizer")
        added = backend.get_added_tokens_decoder()
        vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        decode, unknown = _make_decoder(backend.decoder, name), _find_unknown(backend.model)
        n = max([*vocab.values(), *added, -1]) + 1 if size is None else size
        tokens = [b""] * n
        for piece, i in vocab.items():
            if i < n and i not in added and piece != unknown:
                tokens[i] = _encode(decode(piece))
        for i, token in added.items():
            if i < n and not token.special and token.content != unknown:
                # Written as they are, past the decoder, unless the normalizer rewrote what they match ("▁<tool>").
                piece = backend.id_to_token(i)
                tokens[i] = _encode(piece if piece == token.content else decode(piece))
        if eos is None:
            own = getattr(tokenizer, "eos_token_id", None)
            eos = () if own is None else (own,)
        return cls(tuple(tokens), tuple(eos), backend)


def _encode(piece: Piece) -> bytes:
    return piece if isinstance(piece, bytes) else piece.encode()


def _find_unknown(model: Any) -> str | None:
    """The piece that stands for what a tokenizer cannot write: it has no text."""
    if type(model).__name__ != "Unigram":
        return getattr(model, "unk_token", None)
    unk_id = json.loads(model.__getstate__())["unk_id"]
    return None if unk_id is None else model.id_to_token(unk_id)


def _make_decoder(decoder: Any, name: str) -> Stage:
    """The function from a token's piece to its text or bytes."""
    if decoder is None:  # the tokenizer joins its tokens by spaces
        return lambda piece: " " + piece if isinstance(piece, str) else piece
    stages = _make_stages(json.loads(decoder.__getstate__()), name)

    def decode(piece: Piece) -> Piece:
        for stage in stages:
            piece = stage(piece)
        return piece

    return decode


def _make_stages(spec: dict[str, Any], name: str, fused: bool = False) -> list[Stage]:
    """The stages of a decoder definition that act on one token; `fused`: on the whole text, from here on."""
    kind = spec["type"]
    if kind == "Sequence":
        stages: list[Stage] = []
        for part in spec["decoders"]:
            stages += _make_stages(part, name, fused)
            fused |= part["type"] == "Fuse"
        return stages
    if kind in ("Fuse", "ByteFallback", "ByteLevel", "Metaspace", "BPEDecoder", "WordPiece", "Replace", "Strip"):
        stage = _make_stage(kind, spec, fused)
        if stage is not None:
            return [stage]
    raise ModelError(f"{name}: the bytes of its tokens do not follow from its decoder {json.dumps(spec)}")


def _make_stage(kind: str, spec: dict[str, Any], fused: bool) -> Stage | None:
    """One stage; None where a token's bytes would depend on its neighbours."""
    match kind:
        case "Fuse":
            return lambda piece: piece
        case "ByteLevel":
            return _on_text(_byte_level)
        case "ByteFallback":
            return _on_text(_byte_fallback)
        case "Metaspace":
            return _on_text(lambda piece: piece.replace(spec["replacement"], " "))
        case "BPEDecoder":
            return _on_text(lambda piece: piece.replace(spec["suffix"], " "))
        case "WordPiece":
            return _on_text(functools.partial(_word_piece, prefix=spec["prefix"], cleanup=spec["cleanup"]))
        case "Replace" if "String" in spec["pattern"] and (not fused or len(spec["pattern"]["String"]) == 1):
            return _on_text(lambda piece: piece.replace(spec["pattern"]["String"], spec["content"]))
        case "Strip" if fused:  # the ends of a whole text: its start is the prompt's, its end is not known yet
            return (lambda piece: piece) if spec["stop"] == 0 else None
        case "Strip":
            return _on_text(functools.partial(_strip, spec=spec))
    return None


def _on_text(stage: Callable[[str], Piece]) -> Stage:
    return lambda piece: piece if isinstance(piece, bytes) else stage(piece)


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return table | {chr(0x100 + i): b for i, b in enumerate(others)}


def _byte_level(piece: str) -> Piece:
    table = _byte_of_char()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()


def _byte_fallback(piece: str) -> Piece:
    return bytes([int(piece[3:5], 16)]) if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece) else piece


def _strip(piece: str, spec: dict[str, Any]) -> str:
    char = spec["content"]
    start = next((i for i in range(min(spec["start"], len(piece))) if piece[i] != char), min(spec["start"], len(piece)))
    stop = next((i for i in range(spec["stop"]) if piece[len(piece) - 1 - i : len(piece) - i] != char), spec["stop"])
    return piece[start : len(piece) - stop]


_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _word_piece(piece: str, prefix: str, cleanup: bool) -> str:
    text = piece[len(prefix) :] if piece.startswith(prefix) else " " + piece
    for old, new in _CLEANED if cleanup else ():
        text = text.replace(old, new)
    return text


def _freeze(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask.setflags(write=False)
    return mask
