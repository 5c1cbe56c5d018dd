"""Edits whose strength at each token follows how far they move the next-token law there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real
from feynkac.models.edits.activations import write_edit
from feynkac.models.edits.fitting.passes import find_anatomy
from feynkac.models.language.caches.plain import append_one_by_one
from feynkac.models.language.editing import Anatomy, Change, Edit, Prepared, Where
from feynkac.models.language.language_model import LanguageModel

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.lm import CausalLM
    from feynkac.models.language.prompts.openings import Opening
    from feynkac.models.language.protocols import Contexts

_AMOUNTS: ContextVar[Callable[[Where], Tensor] | None] = ContextVar("amounts", default=None)
"""The strengths of the pass that is made now; None in the self-check, where they are 1."""

_PASSES = 3
"""Tokens that go through a model for each token of a text."""


class DivergentLM(LanguageModel):
    """A model whose edits act at each token as strongly as they change what comes next (Scalena et al. 2024).

        lm = DivergentLM(plain, Add(direction, layer=14), most=2.0)

    Behind each text the divergence KL(edited || plain) of the next-token laws is taken, in nats, and what the edits
    change there is multiplied by it, up to `most`. So they rest where they would change nothing, and where they would
    break the text they are bounded. A text takes three forward passes: of the plain model, of the edited one, and of
    this one. The paper takes the divergence on the likeliest tokens only; here it is that of the whole laws.

    Raises ArgumentError for a `most` that is not positive, and what `lm.edited` raises.
    """

    def __init__(self, plain: CausalLM, *edits: Edit, most: float = 2.0) -> None:
        find_anatomy(plain)
        bound = as_real(most)
        if bound is None or bound <= 0.0:
            raise ArgumentError(f"most is {quote(most)}; give the largest strength, a positive number")
        super().__init__(plain.tokenizer, eos=plain.vocabulary.eos)
        self.plain, self.full = plain, plain.edited(*edits)
        self._measured = plain.edited(*(_Measured(edit) for edit in edits))
        self._most = bound

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Contexts:
        """See `LanguageModel.open`."""
        plain, full, measured = (lm.open(prompts, max_new) for lm in (self.plain, self.full, self._measured))
        return _Contexts(plain, full, measured, self._most)

    def _begin(self, opening: Opening) -> tuple[int, ...]:
        return self.full._begin(opening)  # which refuses prompts that its edits do not fit

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the plain model, the same object."""
        return self.plain.vocabulary

    @property
    def window(self) -> int | None:
        """That of the plain model."""
        return self.plain.window

    @property
    def device(self) -> torch.device:
        """That of the plain model."""
        return self.plain.device

    @property
    def n_logits(self) -> int:
        """That of the plain model."""
        return self.plain.n_logits

    def __repr__(self) -> str:
        return f"DivergentLM({self.full!r}, most={self._most})"


@dataclass(frozen=True, eq=False, repr=False)
class _Measured:
    """An edit that acts as strongly as the present pass says."""

    edit: Edit

    def __repr__(self) -> str:
        return write_edit(self)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        prepared = self.edit.prepare(anatomy)
        if prepared.weights or prepared.biases:
            raise ArgumentError(
                f"{quote(self.edit)} changes no activations; only what does has a strength at each token"
            )
        return replace(prepared, changes=[self._weaken(change) for change in prepared.changes])

    def _weaken(self, change: Change) -> Change:
        def act(value: Tensor, given: Tensor, where: Where) -> Tensor:
            amounts, new = _AMOUNTS.get(), change.function(value, given, where)
            if amounts is None:
                return new
            return value + amounts(where)[..., None].to(value.dtype) * (new - value)

        return replace(change, function=act)


class _Contexts:
    """See `feynkac.models.language.protocols.Contexts`: three stores that go on together."""

    def __init__(self, plain: Contexts, full: Contexts, measured: Contexts, most: float) -> None:
        self.forwarded = 0
        self.spent: NDArray[np.int64] = np.empty(0, np.int64)
        """See `feynkac.models.language.protocols.Spends`."""
        self._plain, self._full, self._measured, self._most = plain, full, measured, most

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._measured.lengths

    def start(self) -> Tensor:
        strengths = self._measure(self._plain.start(), self._full.start())

        def find(where: Where) -> Tensor:
            # Of a prompt, its last token only: what stands before decides on nothing new.
            return torch.where(where.steps == 0, strengths[where.prompt][:, None], 0.0)

        logits = self._run(find, self._measured.start)
        self.spent = _PASSES * self.lengths
        return logits

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        strengths = self._measure(self._plain.extend(parents, tokens), self._full.extend(parents, tokens))
        number = torch.from_numpy(np.cumsum(tokens >= 0) - 1).to(strengths.device)  # among those that go on

        def find(where: Where) -> Tensor:
            assert where.context is not None
            return strengths[number[where.context]][:, None]

        self.spent = _PASSES * (np.asarray(tokens) >= 0)
        return self._run(find, lambda: self._measured.extend(parents, tokens))

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        logits = append_one_by_one(self.extend, parents, tokens, every)
        self.spent = _PASSES * np.array([len(some) for some in tokens], np.int64)
        return logits

    def _measure(self, plain: Tensor, full: Tensor) -> Tensor:
        """(n,) strengths from (n, V) logits."""
        log_p, log_q = (torch.log_softmax(logits.double(), 1) for logits in (plain, full))
        return (log_q.exp() * (log_q - log_p)).nansum(1).clamp(0.0, self._most).float()

    def _run(self, find: Callable[[Where], Tensor], pass_: Callable[[], Any]) -> Any:
        token = _AMOUNTS.set(find)
        try:
            return pass_()
        finally:
            _AMOUNTS.reset(token)
            self.forwarded = sum(store.forwarded for store in (self._plain, self._full, self._measured))
