"""A language model over bytes, made of any language model over tokens.

bytes_of = fk.bytewise(lm, beam=16)
fk.steer(bytes_of.prompt("The sky is", max_tokens=40), fk.expert(fk.bytewise(other).prompt("The sky is")))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_real, read_whole
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.base.unicode import check_unicode
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.bytewise.beams import END, ByteContexts
from feynkac.models.language.bytewise.hypotheses import Beam
from feynkac.models.language.bytewise.kernels import Words, sort_words
from feynkac.models.language.language_model import LanguageModel
from feynkac.models.language.prompts.openings import Opening

if TYPE_CHECKING:
    import torch

    from feynkac.models.language.laws.law import Law
    from feynkac.models.language.prompted import Prompted

FIRST = END + 1
"""The id in prompts of token 0 of the model beneath; the others follow."""
_words_of: PerVocabulary[Words] = PerVocabulary()


@dataclass(frozen=True, eq=False)
class ByteVocabulary(Vocabulary):
    """The 256 bytes and the end. It reads prompts, too, which hold tokens of the vocabulary `beneath`."""

    beneath: Vocabulary | None = field(default=None, repr=False)

    def bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that bytes and tokens stand for."""
        known = () if self.beneath is None else self.beneath.tokens
        every = (*self.tokens, *known)
        return b"".join([every[i] if i < len(every) else b"" for i in ids])


class Measured(NamedTuple):
    """What a byte model knows of K texts: their true log-probabilities are at least `log_prob - dropped`."""

    log_prob: NDArray[np.float64]
    """(K,) nats of each text and its end, by the beam."""
    dropped: NDArray[np.float64]
    """(K,) nats that this may be too high by; inf where the beam lost a text."""


class ByteModel(LanguageModel):
    """A language model whose tokens are the 256 bytes and one end (see `bytewise`)."""

    def __init__(self, lm: LanguageModel, beam: Beam, heal: int) -> None:
        super().__init__(lm.tokenizer, eos=[END] if lm.vocabulary.eos else [])
        self.lm, self.beam, self.heal = lm, beam, heal
        tokens = (*(bytes([byte]) for byte in range(END)), b"")
        self._vocabulary = ByteVocabulary(tokens, tuple(self._eos), beneath=lm.vocabulary)

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> ByteContexts:
        """See `LanguageModel.open`; a prompt's tokens stand before its bytes."""
        words = _words_of.find(self.lm.vocabulary, sort_words)
        tokens = [[i - FIRST for i in prompt if i >= FIRST] for prompt in prompts]
        behind = [[i for i in prompt if i < FIRST] for prompt in prompts]
        contexts = self.lm.open(tokens, max(map(len, behind)) + max_new)
        return ByteContexts(
            contexts, behind, [*map(len, prompts)], words, self.lm.vocabulary.eos, self.beam, self.device
        )

    def identify(self) -> dict[str, Any]:
        """The model beneath, and the beam."""
        return {**self.lm.identify(), "beam": [self.beam.width, self.beam.log_least], "heal": self.heal}

    @property
    def window(self) -> int | None:
        """Tokens of the prompt and bytes that a text may have: as many as it has tokens where each is one byte."""
        return self.lm.window

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self.lm.device

    @property
    def n_logits(self) -> int:
        """257: the bytes and the end."""
        return FIRST

    @property
    def n_embeddings(self) -> int:
        """The bytes, the end, and the tokens of the model beneath, which only prompts have."""
        return FIRST + self.lm.n_embeddings

    def measure(self, prompt: Prompted, texts: Iterable[str]) -> Measured:
        """The log-probabilities of K texts with their ends, and what the beam dropped of each.

        `prompt`: `prompt(...)` of this model. Raises as `score` does.
        """
        listed = list(texts)
        log_p = self.score(prompt, listed)
        contexts = self.open([prompt.prompts[0].tokens], max([1, *map(len, listed)]))
        contexts.start()
        contexts.append(np.zeros(len(listed), np.int64), [self.spell(text) for text in listed])
        return Measured(log_p, contexts.dropped)

    def begin(self, text: str) -> tuple[int, ...]:
        """A text that begins with `text`: the tokens of the model beneath, of which the last ones may be healed."""
        return self._heal(self.lm.begin(text))

    def spell(self, text: str) -> tuple[int, ...]:
        """The bytes of `text`. Raises ArgumentError for lone surrogates, and for the names of control tokens."""
        check_unicode(text, f"the text {quote(text)}")
        if name := self.lm._speller.find_control(text):
            raise ArgumentError(
                f"the text {quote(text)} has the name of the control token {quote(name)}, which has no bytes; a byte "
                "model reads such tokens in prompts only, as in prompt(chat=...)"
            )
        return tuple(text.encode())

    def _begin(self, opening: Opening) -> tuple[int, ...]:
        return self._heal(self.lm._begin(opening))

    def _heal(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A prompt of tokens, the last `heal` of which are given as their bytes."""
        tokens, cut = self.lm.vocabulary.tokens, len(ids)
        while len(ids) - cut < self.heal and cut > 1 and ids[cut - 1] < len(tokens) and tokens[ids[cut - 1]]:
            cut -= 1
        return (*(FIRST + i for i in ids[:cut]), *b"".join(tokens[i] for i in ids[cut:]))

    def admit(self, law: Law) -> Law:
        """See `LanguageModel.admit`: the tokens so far are no bytes."""
        if law.reads_history:
            raise ArgumentError(
                "repetition_penalty, no_repeat_ngram_size and logits_processor read the tokens so far, and a byte "
                "model's prompt has other tokens than its texts; leave them out"
            )
        return law

    def __repr__(self) -> str:
        width = "all spellings" if self.beam.width is None else f"beam {self.beam.width}"
        return f"ByteModel({self.lm!r}, {width})"


@suggest_names()
def bytewise(lm: LanguageModel, *, beam: int | None = 16, least: float = 1e-4, heal: int = 0) -> ByteModel:
    """The law that a language model over tokens has over texts as bytes: a language model with 257 tokens.

        bytes_of = fk.bytewise(lm)
        fk.steer(bytes_of.prompt("The sky is", max_tokens=40), fk.regex("[^e]*"))

    The probability of a text is the sum over all ways to spell it in tokens, unusual ones included: what
    `lm.score(prompt, texts, spellings="all")` gives. Tokens without text (control tokens) are left out of each
    next-token law, and all ends of sequence are one end. Prompts, constraints, rewards, programs and experts work as on
    any language model; since models of whatever tokenizers have these same 257 tokens, they can be experts of each
    other, with levels at every byte. `max_tokens` counts bytes; the temperature and top-k, top-p and min-p are those
    of the next byte.

    `beam`: so many of the heaviest spellings are kept at each byte, of those with at least the share `least` of the
    mass, and always the heaviest that ends with a whole token, behind which any text can follow. What is dropped makes
    the law another one, next byte by next byte. It is counted: log p of a text is at least what the beam says, less
    `dropped` (see `ByteModel.measure`); it may be any more, as what was dropped might have been worth more later. With
    `beam=None` nothing is dropped, which is exact and only for short texts: n bytes may have 2^(n-1) spellings. A
    hypothesis of the beam takes a forward pass only where
    it completes a token, and all particles' hypotheses share one.

    `heal`: how many of the prompt's last tokens are given as bytes, so that what follows may be spelt across the
    prompt's end; 0 keeps the prompt's own tokens.

    Source: Vieira et al. 2024, "From Language Models over Tokens to Language Models over Characters"; Phan et al. 2024,
    "Exact Byte-Level Probabilities from Tokenized Language Models". Raises ArgumentError for arguments that cannot be
    used.
    """
    if not isinstance(lm, LanguageModel) or isinstance(lm, ByteModel):
        raise ArgumentError(f"bytewise: {quote(lm)}; give a language model over tokens, such as fk.CausalLM")
    width = None if beam is None else read_whole("beam", beam, 1, ", or None to keep all spellings")
    share = read_real("least", least, 0.0, " and below 1")
    if share >= 1.0:
        raise ArgumentError(f"least is {quote(least)}; it must be at least 0 and below 1")
    log_least = math.log(share) if share else -math.inf
    return ByteModel(lm, Beam(width, log_least), read_whole("heal", heal, 0))
