"""The law of the next token: what a prompt makes of its model's logits before anything else sees them.

    lm.prompt("Once", temperature=0.7, top_k=50, top_p=0.9, repetition_penalty=1.2)

What are sampling parameters to `generate` of transformers is a declaration here: it changes p itself, and so the
evidence, scores, exact answers, proposals and weights, all of which see this one law.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_real, read_whole
from feynkac.models.language.laws.nucleus import keep_nucleus
from feynkac.models.language.laws.processors import Processor, Watched
from feynkac.models.language.prompts.openings import read_temperature
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from torch import Tensor

History: TypeAlias = "Sequence[int] | NDArray[np.int64]"
"""(T,) the tokens so far, the prompt's first."""


@dataclass(frozen=True)
class Law:
    """How the logits of the next token become its probabilities: by transformers' rules, in the order of `generate`.

    The repetition penalty, the n-gram rule and processors of the user's own read the tokens so far, those of the prompt
    among them, and change logits; the temperature divides these; then top-k, top-p and min-p leave out what is
    unlikely. The rest is normalised, and p is zero outside of it. The defaults change nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    """So many of the likeliest tokens are left, and all that are as likely as the last of them; 0 for all."""
    top_p: float = 1.0
    """The fewest of the likeliest tokens are left that have this mass."""
    min_p: float = 0.0
    """Tokens are left that have at least this share of the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """It divides the positive logits of tokens that the text has already, and multiplies the negative ones."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice; 0 for no such rule."""
    logits_processor: tuple[Processor, ...] = field(default=(), hash=False)
    """Functions of the tokens so far and of the logits; each is given a copy of the logits."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Laws of one key are one law. Processors count by identity, as they may have neither hash nor equality."""
        numbers = (self.top_k, self.top_p, self.min_p, self.repetition_penalty, self.no_repeat_ngram_size)
        return (self.temperature, *numbers, *map(id, self.logits_processor))

    @cached_property
    def is_plain(self) -> bool:
        """Whether the law is the softmax of the logits at the temperature."""
        return self.key[1:] == PLAIN.key[1:]

    @property
    def leaves_out(self) -> bool:
        """Whether the law is known to give no probability to some tokens; of processors nothing is known."""
        return bool(self.top_k or self.top_p < 1.0 or self.min_p or self.no_repeat_ngram_size)

    @property
    def reads_history(self) -> bool:
        """Whether the tokens so far count, beyond the logits that they lead to."""
        return bool(self.repetition_penalty != 1.0 or self.no_repeat_ngram_size or self.logits_processor)

    def apply(self, logits: Tensor, ids: Tensor | None) -> Tensor:
        """(U, V) logits whose softmax at the temperature is the law; those given are left as they are.

        `ids` (U, T) are the tokens so far. Raises ModelError where no token is left.
        """
        for name, step in self._steps:
            assert ids is not None
            logits = _check(step(ids, logits), logits, name, ids.shape[1])
        if not self._filters:
            return logits
        scores = logits if self.temperature == 1.0 else logits / self.temperature
        for each in self._filters:
            scores = each(scores)
        # What is left keeps its logits, so that temperatures are taken in one place, whatever the law.
        return scores if self.temperature == 1.0 else logits.masked_fill(scores.isneginf(), -np.inf)

    @cached_property
    def _steps(self) -> list[tuple[str, Processor]]:
        """What changes logits, with names for errors."""
        from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

        steps: list[tuple[str, Processor]] = []
        if self.repetition_penalty != 1.0:
            name = f"repetition_penalty={self.repetition_penalty:g}"
            steps.append((name, RepetitionPenaltyLogitsProcessor(self.repetition_penalty)))
        if self.no_repeat_ngram_size:
            name = f"no_repeat_ngram_size={self.no_repeat_ngram_size}"
            steps.append((name, NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size)))
        return steps + [(f"'{name_of(own)}' in logits_processor", Watched(own)) for own in self.logits_processor]

    @cached_property
    def _filters(self) -> list[Callable[[Tensor], Tensor]]:
        """What leaves tokens out, whatever the text so far."""
        from transformers import MinPLogitsWarper, TopKLogitsWarper

        no_ids: Any = None
        top_k = [partial(TopKLogitsWarper(self.top_k), no_ids)] if self.top_k else []
        top_p = [partial(keep_nucleus, top_p=self.top_p)] if self.top_p < 1.0 else []
        min_p = [partial(MinPLogitsWarper(self.min_p), no_ids)] if self.min_p else []
        return [*top_k, *top_p, *min_p]


PLAIN = Law()


def shape(logits: Tensor, laws: Sequence[Law], find_history: Callable[[int], History]) -> Tensor:
    """(U, V) logits whose softmax at the temperature of its law is the law of each row; those given stay as they are.

    `laws` has one for each row; `find_history(u)` are the tokens so far of row u, the prompt's first, asked for only
    where they count. Raises ModelError where a law leaves no token.
    """
    import torch

    groups: dict[tuple[Any, ...], list[int]] = {}
    histories: dict[int, History] = {}
    for u, law in enumerate(laws):
        if not law.is_plain:
            if law.reads_history:
                histories[u] = find_history(u)
            groups.setdefault((law.key, len(histories.get(u, ()))), []).append(u)
    shaped = logits
    for rows in groups.values():
        some = [histories[u] for u in rows if u in histories]
        ids = torch.as_tensor(np.array(some, np.int64), device=logits.device) if some else None
        if len(rows) == len(laws):
            return laws[0].apply(logits, ids)
        shaped = logits.clone() if shaped is logits else shaped
        shaped[rows] = laws[rows[0]].apply(logits[rows], ids)
    return shaped


def _check(found: Tensor, given: Tensor, name: str, n_tokens: int) -> Tensor:
    """The logits `found`. Raises ModelError where they are no law, and those that were `given` are."""
    top = found.amax(1)  # NaN where one is NaN
    wrong = ~top.isfinite() & given.amax(1).isfinite()
    if not wrong.any():
        return found
    value = float(top[wrong][0])
    what = "leaves no token" if value == -np.inf else f"makes a logit {value}"
    raise ModelError(
        f"{name} {what} behind a text of {n_tokens} tokens, the prompt's among them, so that there is no law of the "
        "next; loosen it, or leave it out"
    )


def read_law(
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition_penalty: Any,
    no_repeat_ngram_size: Any,
    logits_processor: Any,
) -> Law:
    """The law that arguments of these names mean; None leaves one out. Raises ArgumentError for what means none."""
    law = Law(
        read_temperature(temperature),
        0 if top_k is None else read_whole("top_k", top_k, 0, "; 0 leaves all tokens"),
        1.0 if top_p is None else _read_share("top_p", top_p),
        0.0 if min_p is None else _read_share("min_p", min_p),
        1.0 if repetition_penalty is None else read_real("repetition_penalty", repetition_penalty, 0.0),
        0 if no_repeat_ngram_size is None else read_whole("no_repeat_ngram_size", no_repeat_ngram_size, 0),
        () if logits_processor is None else _read_processors(logits_processor),
    )
    if law.repetition_penalty == 0.0:
        raise ArgumentError("repetition_penalty is 0; it must be positive, and 1 changes nothing")
    kinds = [type(each).__name__ for each in law.logits_processor]
    for name, kind in (
        ("repetition_penalty", "RepetitionPenaltyLogitsProcessor"),
        ("no_repeat_ngram_size", "NoRepeatNGramLogitsProcessor"),
    ):
        if kind in kinds and getattr(law, name) != getattr(PLAIN, name):
            raise ArgumentError(f"{name}= and a {kind} in logits_processor= say the same twice; give one of them")
    return law


def _read_share(name: str, value: Any) -> float:
    share = read_real(name, value, 0.0, " and at most 1")
    if share > 1.0:
        raise ArgumentError(f"{name} is {quote(value)}; it must be a number of at least 0 and at most 1")
    return share


def _read_processors(given: Any) -> tuple[Processor, ...]:
    if (listed := as_sequence(given)) is None:
        raise ArgumentError(f"logits_processor is {quote(given)}; give a list of functions of (input_ids, scores)")
    for i, each in enumerate(listed):
        if isinstance(each, type) or not callable(each):
            raise ArgumentError(
                f"logits_processor[{i}] is {quote(each)}; give a function of (input_ids, scores), or an object of a "
                "class of transformers such as NoBadWordsLogitsProcessor"
            )
        try:
            inspect.signature(each).bind(None, None)
        except TypeError as cause:
            raise ArgumentError(
                f"logits_processor[{i}], {quote(each)}, does not take the two arguments (input_ids, scores): {cause}"
            ) from cause
        except ValueError:  # of compiled code nothing is known
            pass
    return tuple(listed)
