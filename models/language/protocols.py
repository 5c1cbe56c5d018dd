"""What the parts of a language model owe each other: `Contexts` to the model, a `Proposal` to the target.

Shapes: U live contexts, numbered from 0; C contexts after a call, F of them forwarded by it; R rows of a population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import KeepsHidden, SavesContexts, has, require
from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenMask

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.draws.rejection import Checks
    from feynkac.models.language.texts import Texts


class Contexts(Protocol):
    """The live contexts of one run: distinct token histories, each with what its model keeps of it."""

    forwarded: int
    """Tokens forwarded so far: those of the prompts, and one for each extension."""

    def start(self) -> Tensor:
        """Forward each prompt once: context g is prompt g. Returns their (G, V) float32 next-token logits."""
        ...

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """Make the live contexts these C: context i is context `parents[i]`, then `tokens[i]`.

        A token of -1 keeps the parent as it is, without a forward pass. The pairs must be distinct. A context that is
        no one's parent is freed. Returns the (F, V) float32 logits of the extended contexts, in order.
        """
        ...

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """As `extend`, by several tokens at once: context i is `parents[i]`, then `tokens[i]`; an empty list keeps it.

        Two contexts of one parent need distinct tokens, but one list may begin with the other. Returns the (F, V)
        float32 logits after the last token of each extended context, in order; with `every` those after each token of
        the first extended context, then of the second, and so on. Programs call it, and `listed.score_lists`.
        """
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        ...


@runtime_checkable
class Drops(Protocol):
    """Contexts whose law is approximate, and is known to be so. Without it: it is exact, and nothing is reported."""

    dropped: NDArray[np.float64]
    """(U,) nats that the log-probability of each context's tokens may be too high by: what of it was dropped."""


@runtime_checkable
class Spends(Protocol):
    """Contexts of which one token may take several of models beneath, or none. Without it: it takes one."""

    forwarded: int
    """Tokens forwarded so far."""
    spent: NDArray[np.int64]
    """(C,) tokens forwarded for each context by the last call of `start`, `extend` or `append`."""


@runtime_checkable
class Strains(Protocol):
    """Contexts that tell when memory ran out and they went on in smaller parts. Without it: nothing is said of it."""

    @property
    def strained(self) -> str | None:
        """What the reader of a result is to be told; None as long as memory is enough."""
        ...


def list_strains(contexts: Contexts) -> list[str]:
    """What contexts say of the memory that they lack, if anything."""
    return [contexts.strained] if has(contexts, Strains) and contexts.strained is not None else []


def count_spent(contexts: Contexts, taken: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) tokens that the first n contexts took in the last call: `taken`, unless they know better.

    Contexts that are merely kept stand behind those that go on (`feynkac.models.language.kept`).
    """
    return contexts.spent[: len(taken)] if has(contexts, Spends) else np.asarray(taken, np.int64)


def require_saving(contexts: Any) -> SavesContexts:
    """`contexts`, which can be written. Raises ArgumentError where they cannot."""
    refusal = (
        f"checkpoint= with {type(contexts).__name__}: what they keep cannot be written (they have no save and load); "
        "run without checkpoint="
    )
    return require(contexts, SavesContexts, refusal, ArgumentError)


def find_hidden(contexts: Contexts) -> Tensor | None:
    """(F, width) float32 hidden states of the contexts that were forwarded last; None where they are not kept."""
    return contexts.hidden if has(contexts, KeepsHidden) else None


@dataclass(frozen=True, eq=False)
class Frontier:
    """The place where a population draws its next tokens: R rows on U distinct contexts."""

    logits: Tensor
    """(U, V) float32, of the target: -inf for tokens that its `Law` leaves out."""
    mask: TokenMask
    """(U, ceil(V / 32)) the tokens that constraints and the length limit allow."""
    scale: NDArray[np.float32]
    """(U,) one over the temperature of the target."""
    context: NDArray[np.int64]
    """(R,) the context of each row."""
    uniforms: NDArray[Any]
    """(R,) in [0, 1), one for each row; compare them and do no other arithmetic than `a - u` and `u + a`."""
    pinned: int | None
    """The token that row 0 takes instead of a draw (conditional SMC)."""
    state: Texts
    rows: Rows
    """(R,) rows of `state`."""
    parents: Rows | None
    """(U,) which context of the frontier before each extends, -1 where the population has gone back to an earlier one;
    None in the first step: one context for each prompt."""
    tokens: NDArray[np.int64] | None
    """(U,) by which token."""
    groups: NDArray[np.int64]
    """(G,) the problems of the batch that one proposal draws for, in order; the contexts of others are not here."""
    checks: Checks | None = None
    """What lazy constraints are asked about the tokens that the masks allow; None where no constraint is lazy."""
    hidden: Tensor | None = None
    """(U, width) float32, what the output layer read; None where the contexts do not keep it (`KeepsHidden`)."""

    @property
    def heads(self) -> Rows:
        """(U,) one row of `state` for each context."""
        return self.rows[np.unique(self.context, return_index=True)[1]]


class Proposed(NamedTuple):
    """The next tokens of R rows."""

    tokens: NDArray[np.int64]
    """(R,) tokens; -1 where there is none, and the row dies."""
    log_prob: NDArray[np.float64]
    """(R,) log p(token) under the target without its mask, in nats; -inf for no token."""
    increment: LogW
    """(R,) log-weights in nats: log p(token) - log q(token), and -inf for a token that the mask forbids."""


@runtime_checkable
class Proposal(Protocol):
    """A law q from which tokens are drawn instead of the target's p; weights make up for it.

    Properly weighted: for each row, the sum over tokens of q(token) exp(increment) f(token) is that of p(token)
    f(token) over the tokens that the mask allows. So q must have mass on every allowed token that p has mass on.
    One object serves any number of runs at once: what a run needs is kept in `Texts.companions`.
    """

    def draw(self, frontier: Frontier) -> Proposed:
        """Draw a token for each row of the frontier. Row 0 takes `pinned` if given, with the increment it has in q."""
        ...
