"""Potentials written for genlm-control, as potentials of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from feynkac.base.capabilities import Tokenised, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.coroutines import start_coroutine
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.potentials.base import Factor

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.vocabulary import Vocabulary


@runtime_checkable
class GenlmPotential(Protocol):
    """What is asked of a `Potential` of genlm-control."""

    vocab: Sequence[Any]

    async def prefix(self, context: list[Any]) -> float: ...

    async def complete(self, context: list[Any]) -> float: ...

    async def logw_next(self, context: list[Any]) -> Any: ...


@runtime_checkable
class HasVocabulary(Protocol):
    """A language model of ours."""

    @property
    def vocabulary(self) -> Vocabulary: ...


def from_genlm(potential: Any, lm: HasVocabulary) -> FromGenlm:
    """A `Potential` of genlm-control (prefix, complete, logw_next) for prompts of `lm`.

    The target is p(x) exp(complete(x)); `prefix` is the level on the way, whose -inf kills. Their tokens are bytes, or
    objects with a `byte_string`, and then ours of the same bytes (one with the same `token_id` first), so that a
    coerced potential or a product serves as it is, and `logw_next` guides what is drawn; a text with a token that they
    have not weighs -inf. If their tokens are single bytes, or whole numbers from 0 to 255, each text goes to them byte
    by byte, and nothing guides. The coroutines run on one thread of their own. genlm-control need not be installed.

    Raises ArgumentError for what is no such potential, and where no token of `lm` is one of theirs.
    """
    if isinstance(potential, type) or not isinstance(potential, GenlmPotential):
        raise ArgumentError(
            f"from_genlm({quote(potential)}): give an instance with vocab and "
            "the coroutines prefix, complete, logw_next"
        )
    if isinstance(lm, type) or not isinstance(lm, HasVocabulary):
        raise ArgumentError(f"from_genlm(lm={quote(lm)}): give the language model whose tokens it is to weigh")
    return FromGenlm(potential, lm.vocabulary)


class FromGenlm(Factor):
    """See `from_genlm`."""

    def __init__(self, potential: GenlmPotential, vocabulary: Vocabulary) -> None:
        self.name = type(potential).__name__
        self._potential, self._vocabulary = potential, vocabulary
        self._bytes = _find_bytes(potential.vocab)
        self._tokens = {} if self._bytes is not None else _match(potential.vocab, vocabulary)
        if self._bytes is not None:
            self.guide = None  # pyright: ignore[reportAttributeAccessIssue] (so it is said that there is none)
        elif not self._tokens:
            raise ArgumentError(
                f"from_genlm({self.name}): no token of the language model is one of its vocabulary; coerce it, as in "
                "potential.coerce(llm, f=b''.join)"
            )

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, the prefix weights."""
        return self._ask(self._potential.prefix, state, rows)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats, the weights of complete texts."""
        return self._ask(self._potential.complete, state, rows)

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats, the next-token weights."""
        import torch

        contexts = self._read(frontier.state, frontier.heads)
        alive = self._weigh(self._potential.prefix, contexts) > -np.inf
        found = iter(_run(self._potential.logw_next, [c for c, ok in zip(contexts, alive, strict=True) if ok]))
        worth = np.zeros((len(contexts), len(self._vocabulary)))
        ids = np.array(list(self._tokens))
        for u in np.flatnonzero(alive):
            weights = next(found)
            told = dict(zip(weights.decode, np.asarray(weights.weights, np.float64), strict=True))
            worth[u] = -np.inf
            worth[u, ids] = [told.get(token, -np.inf) for token in self._tokens.values()]
            worth[u, list(self._vocabulary.eos)] = told[weights.decode[-1]]
        return torch.as_tensor(worth, dtype=frontier.logits.dtype, device=frontier.logits.device)

    def _ask(self, coroutine: Callable[..., Awaitable[float]], state: State, rows: Rows) -> LogW:
        return self._weigh(coroutine, self._read(state, rows))

    def _weigh(self, coroutine: Callable[..., Awaitable[float]], contexts: Sequence[list[Any] | None]) -> LogW:
        """(R,) nats; each distinct context is asked about once, one with foreign tokens never."""
        keys = {tuple(context): context for context in contexts if context is not None}
        values = dict(zip(keys, _run(coroutine, list(keys.values())), strict=True))
        return np.array([-np.inf if context is None else float(values[tuple(context)]) for context in contexts])

    def _read(self, state: State, rows: Rows) -> list[list[Any] | None]:
        """(R,) the texts in their tokens; None where one is not theirs."""
        texts = require(state, Tokenised, f"'{self.name}' is for prompts; {type(state).__name__} has no tokens")
        if texts.vocabulary is not self._vocabulary:
            raise PotentialError(f"'{self.name}' was made for another language model: from_genlm(potential, lm)")
        sequences = texts.tokens(rows)
        if self._bytes is not None:
            known = [[self._bytes.get(byte) for byte in texts.vocabulary.bytes(each)] for each in sequences]
        else:
            known = [[self._tokens.get(int(v)) for v in each] for each in sequences]
        return [None if any(token is None for token in each) else each for each in known]


def _find_bytes(vocab: Sequence[Any]) -> dict[int, Any] | None:
    """Their tokens by byte, where each is one byte."""
    if all(isinstance(token, int) and 0 <= token < 256 for token in vocab):
        return {token: token for token in vocab}
    written = [_spell(token) for token in vocab]
    return {each[0]: token for each, token in zip(written, vocab, strict=True)} if _are_single(written) else None


def _are_single(written: Sequence[bytes]) -> bool:
    return all(len(each) == 1 for each in written) and len(set(written)) == len(written)


def _match(vocab: Sequence[Any], vocabulary: Vocabulary) -> dict[int, Any]:
    """Their token for each of ours that they have."""
    first: dict[bytes, Any] = {}
    by_id: dict[int, Any] = {}
    for token in vocab:
        written = _spell(token)
        first.setdefault(written, token)
        number = getattr(token, "token_id", None)
        if isinstance(number, int) and number < len(vocabulary) and vocabulary.tokens[number] == written:
            by_id[number] = token
    ours = {v: first[text] for v, text in enumerate(vocabulary.tokens) if text and text in first}
    return {**ours, **by_id}


def _spell(token: Any) -> bytes:
    """The bytes of one of their tokens. Raises ArgumentError for one that has none."""
    written = token if isinstance(token, bytes) else getattr(token, "byte_string", None)
    if not isinstance(written, bytes):
        raise ArgumentError(f"from_genlm: the vocabulary has {quote(token, 40)}, which is no bytes; coerce it to bytes")
    return written


def _run(coroutine: Callable[..., Awaitable[Any]], contexts: Sequence[Any]) -> list[Any]:
    """What the coroutine gives for each context, all at once."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*[coroutine(list(context)) for context in contexts]))

    if not contexts:
        return []
    future = start_coroutine(gather, ())
    try:
        return future.result()
    finally:  # also where whoever waits is interrupted
        future.cancel()
