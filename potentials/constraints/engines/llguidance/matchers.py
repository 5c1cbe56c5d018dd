"""llguidance's tokenizer, its matchers, and what its errors mean: no other file speaks to it, but for its matchers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError, quote, shorten_report
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.base.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

# Without this the mask is not the set of valid tokens: where bytes are forced it holds their one canonical
# token, and the target would be another. Of several such lines the last one counts.
_EXACT = '\n%llguidance {"no_forcing": true}\n'
_FEW = 8  # matchers that are asked one by one: to wake threads takes longer
_tokenizers: PerVocabulary[LLTokenizer] = PerVocabulary()


class _Tokens:
    """A vocabulary in the shape that LLTokenizer reads. Tokens without text can be matched by nothing."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: Vocabulary, eos: int) -> None:
        self.tokens = list(vocabulary.tokens)
        self.eos_token_id = eos

    def __call__(self, text: str | bytes) -> list[int]:
        raise NotImplementedError("constraints spell texts by tokens in every possible way, not in the canonical one")


def find_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """The vocabulary as llguidance knows it, built once (0.2 s for 49,152 tokens)."""
    return _tokenizers.find(vocabulary, _make_tokenizer)


def _make_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    from llguidance import LLTokenizer

    # It wants an end of sequence also where there is none; the bits of both are ours to set in any case.
    blank = next((v for v, token in enumerate(vocabulary.tokens) if not token), None)
    ends = list(vocabulary.eos) or ([] if blank is None else [blank])
    wrapper: Any = _Tokens(vocabulary, ends[0] if ends else vocabulary.size)
    if not ends:
        wrapper.tokens.append(b"")
    return LLTokenizer(wrapper, eos_token=ends or [vocabulary.size])


def make_matcher(vocabulary: Vocabulary, lark: str, name: str) -> LLMatcher:
    """A matcher at the start of a grammar in llguidance's Lark. Raises ConstraintError with what it says is wrong."""
    matcher = _start(find_tokenizer(vocabulary), lark)
    if matcher.is_error():
        raise ConstraintError(f"{name}: {shorten_report(explain_error(matcher))}")
    return matcher


def try_grammar(lark: str, trials: Iterable[str]) -> str | None:
    """What is wrong with a grammar over a vocabulary of all bytes, or None; `trials` are beginnings of its texts."""
    matcher = _start(_make_bytewise(), lark)
    for trial in () if matcher.is_error() else trials:
        copy = matcher.deep_copy()
        if copy.try_consume_tokens(list(trial.encode())) == len(trial.encode()):
            copy.compute_bitmask()
        if copy.is_error() and not is_dead_end(copy):
            return f"llguidance gave up after {quote(trial)}: {explain_error(copy)}; make it simpler"
    return explain_error(matcher) if matcher.is_error() else None


@lru_cache(maxsize=1)
def _make_bytewise() -> LLTokenizer:
    return _make_tokenizer(Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,)))


def _start(tokenizer: LLTokenizer, lark: str) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    # Enough for objects of thousands of optional properties, at some 10 ms a mask.
    # The fuel is for patterns of words in texts of bounded length, such as (\S+ ){0,49}\S+ in 500 characters.
    limits = LLParserLimits(
        max_items_in_row=20_000, step_max_items=200_000, initial_lexer_fuel=10_000_000, step_lexer_fuel=2_000_000
    )
    return LLMatcher(tokenizer, lark + _EXACT, log_level=0, limits=limits)


def compute_bits(matchers: Sequence[LLMatcher], n_words: int) -> NDArray[np.uint32]:
    """(M, n_words) the tokens that each of `matchers` allows, 32 a word; of matchers in error what is there is void."""
    if len(matchers) <= _FEW:
        rows = [np.frombuffer(matcher.compute_bitmask(), dtype="<u4")[:n_words] for matcher in matchers]
        return np.array(rows, dtype=np.uint32).reshape(len(matchers), n_words)
    from llguidance.numpy import fill_next_token_bitmask_par

    bits = np.zeros((len(matchers), n_words), np.int32)
    fill_next_token_bitmask_par(_find_executor(), [(matcher, i) for i, matcher in enumerate(matchers)], bits)
    return bits.view(np.uint32)


def consume(matchers: Sequence[LLMatcher], tokens: Sequence[int]) -> list[bool]:
    """Move each of `matchers`, all different, on by its token; whether it could."""
    if len(matchers) <= _FEW:
        return [matcher.consume_token(token) for matcher, token in zip(matchers, tokens, strict=True)]
    from llguidance.numpy import consume_token_par

    return consume_token_par(_find_executor(), list(zip(matchers, tokens, strict=True)))


def _find_executor() -> LLExecutor:
    """The threads of llguidance, as many as those of the draws; a forked process starts its own."""
    return _start_executor(os.getpid())


@lru_cache(maxsize=1)
def _start_executor(process: int) -> LLExecutor:
    import numba
    from llguidance import LLExecutor

    return LLExecutor(numba.config.NUMBA_NUM_THREADS)  # pyright: ignore


def explain_error(matcher: LLMatcher) -> str:
    """The error of a matcher, without the dump of its state and without the line that we added."""
    text = re.split(r"\n<(?:state|backtrace)>", matcher.get_error())[0]
    ours = re.compile(r"\s*\d+ \|\s*(%llguidance.*)?")
    kept = "\n".join(line for line in text.splitlines() if not ours.fullmatch(line)).strip()
    return re.sub(r"^(?:at )?(\d+)\((\d+)\):", r"line \1, column \2:", kept)


def is_dead_end(matcher: LLMatcher) -> bool:
    """Whether a matcher in error has merely found that no token fits, which is legal."""
    return matcher.get_error().startswith("NoExtension")
