"""The contexts of an ensemble: of each text one context in every member, all those of one batch in one store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import has
from feynkac.base.contract import Rows
from feynkac.models.language.draws.next_token import check_law
from feynkac.models.language.laws.law import Law, shape
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.protocols import Spends, require_saving

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from feynkac.models.language.ensembles.rules import Rule
    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.protocols import Contexts

_ROWS = 16
"""Laws that are combined at once in float64."""


class Member(NamedTuple):
    """A language model, and what it makes of its logits."""

    lm: LanguageModel
    law: Law


class EnsembleContexts:
    """See `feynkac.models.language.protocols.Contexts`: context u of member j of a batch is context j U + u there."""

    def __init__(
        self, members: Sequence[Member], rule: Rule, prompts: Sequence[Sequence[Sequence[int]]], max_new: int, size: int
    ) -> None:
        """`prompts` (G, K): the tokens of each problem's prompt to each member; `size`: of the law, V."""
        self._members, self._rule, self._size = members, rule, size
        self._of: dict[Any, list[int]] = {}
        for k, member in enumerate(members):
            self._of.setdefault(member.lm.batch, []).append(k)
        self._stores = [self._open(ks, prompts, max_new) for ks in self._of.values()]
        self.lengths: NDArray[np.int64] = np.array([max(map(len, prompt)) for prompt in prompts], np.int64)
        """(U,) tokens of each context, the longest prompt among them."""
        self.forwarded = 0
        """Tokens that went through all members."""
        self.spent: NDArray[np.int64] = np.zeros(len(prompts), np.int64)
        """(U,) tokens forwarded for each context by the last call, in all members."""
        self._prompt_lengths = np.array([[len(part) for part in prompt] for prompt in prompts], np.int64).T

    def _open(self, ks: Sequence[int], prompts: Sequence[Sequence[Sequence[int]]], max_new: int) -> Contexts:
        """One store for the prompts of some members, which may be a model and edits of it."""
        lms = [self._members[k].lm for k in ks]
        return lms[0].open_prompts(
            [
                Prompt(tuple(prompt[k]), max_new, variant=lm.variant)
                for k, lm in zip(ks, lms, strict=True)
                for prompt in prompts
            ],
            max_new,
        )

    def start(self) -> Tensor:
        """(G, V) float32 logits behind the prompts."""
        logits = self._combine(lambda store, copies: store.start())
        self._count(self._prompt_lengths)
        return logits

    def save(self) -> dict[str, Any]:
        """See `feynkac.base.capabilities.SavesContexts`."""
        stores = [require_saving(store).save() for store in self._stores]
        return {"stores": stores, "lengths": self.lengths, "forwarded": self.forwarded}

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what `save` gave."""
        for store, given in zip(self._stores, saved["stores"], strict=True):
            require_saving(store).load(given)
        self.lengths, self.forwarded = saved["lengths"], saved["forwarded"]
        self.spent = np.zeros(len(self.lengths), np.int64)

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """See `Contexts.extend`; one pass for each batch."""
        n = len(self.lengths)
        logits = self._combine(lambda store, k: store.extend(_repeat(parents, k, n), np.tile(tokens, k)))
        self._grow(parents, (np.asarray(tokens) >= 0).astype(np.int64))
        return logits

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """See `Contexts.append`; one pass for each batch."""
        n = len(self.lengths)
        logits = self._combine(lambda store, k: store.append(_repeat(parents, k, n), [*tokens] * k, every=every))
        self._grow(parents, np.array([len(some) for some in tokens], np.int64))
        return logits

    def _grow(self, parents: Rows, taken: NDArray[np.int64]) -> None:
        self.lengths = self.lengths[parents] + taken
        self._count(np.tile(taken, (len(self._members), 1)))

    def _count(self, taken: NDArray[np.int64]) -> None:
        """Note what the last call took of each context: (K, C) tokens in each member, unless it knows better."""
        self.forwarded = sum(store.forwarded for store in self._stores)
        self.spent = np.zeros(taken.shape[1], np.int64)
        for store, ks in zip(self._stores, self._of.values(), strict=True):
            self.spent += store.spent.reshape(len(ks), -1).sum(0) if has(store, Spends) else taken[ks].sum(0)

    def _combine(self, forward: Callable[[Contexts, int], Tensor]) -> Tensor:
        """(F, V) the ensemble's law, where each store forwards so many copies of F contexts."""
        import torch

        parts: dict[int, Tensor] = {}
        for store, ks in zip(self._stores, self._of.values(), strict=True):
            for k, logits in zip(ks, forward(store, len(ks)).chunk(len(ks)), strict=False):
                parts[k] = logits
        if len(parts) < len(self._members):  # nothing was forwarded
            parts = dict.fromkeys(range(len(self._members)), next(iter(parts.values())))
        device = parts[0].device
        rows = [[parts[k][i : i + _ROWS] for k in range(len(parts))] for i in range(0, len(parts[0]), _ROWS)]
        found = [self._rule.combine([self._read(k, law, device) for k, law in enumerate(some)]) for some in rows]
        return torch.cat([torch.empty(0, self._size, device=device), *found])

    def _read(self, k: int, logits: Tensor, device: torch.device) -> Tensor:
        """(F, V) float64 nats of a member's law; models of one vocabulary may be padded to different sizes."""
        import torch

        law = self._members[k].law
        scaled = shape(logits, [law] * len(logits), lambda u: ()).double() / law.temperature
        log_total = torch.logsumexp(scaled, 1, keepdim=True)
        check_law(log_total[:, 0].cpu().numpy(), logits)
        return (scaled - log_total)[:, : self._size].to(device)


def _repeat(parents: Rows, copies: int, n: int) -> Rows:
    """The parents in each copy of n contexts."""
    return np.concatenate([np.asarray(parents, np.int64) + n * j for j in range(copies)])
