"""What populations of texts may offer: their tokens and nats, limits, and what their model knows of constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Mask, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.masks import States, TokenConstraint
    from feynkac.base.vocabulary import Vocabulary


@runtime_checkable
class CountsTokens(Protocol):
    """A state that counts the tokens that went through its model. Without it: `Result.forwarded_tokens` is None."""

    @property
    def forwarded(self) -> Sequence[int] | None:
        """Tokens so far for each problem of the batch; None where that is not known."""
        ...


@runtime_checkable
class TellsLogProb(Protocol):
    """A state that knows the probability of its samples under the model.

    Without it: `power` refuses, and `Result.log_probs` is None.
    """

    def tell_log_prob(self, rows: Rows) -> LogW:
        """(R,) nats of each sample so far, its end among them where it has ended; -inf of what has no mass."""
        ...


@runtime_checkable
class TellsPieces(Protocol):
    """A state that knows what a step added to its rows. Asked by `steer`. Without it: `History.pieces` is empty."""

    def tell_last(self, rows: Rows) -> tuple[Any, LogW]:
        """(R,) the last piece of `rows`, which a step has just extended, and (R,) its nats.

        Pieces are an array of tokens, or a list of bytes; nats are those of the model's own law, before masks and
        potentials, and nan where they are not known.
        """
        ...

    def spell(self, pieces: Any) -> Sequence[bytes]:
        """(K,) the text of such pieces, as UTF-8: empty for what has none. A piece may end within a character."""
        ...


@runtime_checkable
class TellsTokens(TellsPieces, Protocol):
    """A state that knows all pieces of its rows. Asked by `steer`. Without it: `Result.token_log_probs` is None."""

    def tell_tokens(self, rows: Rows) -> Sequence[tuple[Any, LogW]]:
        """(R,) the pieces of each row, in their order, and the nats of each."""
        ...


@runtime_checkable
class TellsDropped(Protocol):
    """A state whose model may be approximate, and counts by how much. Without it: it is taken to be exact."""

    def tell_dropped(self, rows: Rows) -> NDArray[np.float64] | None:
        """(R,) nats by which the log-probability of each sample may be too high; None where it is exact."""
        ...


@runtime_checkable
class TellsHidden(Protocol):
    """A state that knows what its model made of its samples. For read-outs of one's own. Without it: they refuse.

    A model reads a token when the next one is drawn, so what is known of a text is one token behind it.
    """

    def tell_hidden(self, rows: Rows) -> Tensor | None:
        """(R, width) float32: what the output layer read where the last token of `rows`, which run, was drawn.

        None where the model's contexts do not keep it.
        """
        ...


@runtime_checkable
class Writes(Protocol):
    """A state of texts. Asked by functions of the sample. Without it: they look for decoded samples instead."""

    def texts(self, rows: Rows) -> list[str]:
        """(R,) decoded texts so far; bytes that do not (yet) form a character are left out at the end."""
        ...


@runtime_checkable
class Tokenised(Protocol):
    """A state of token sequences. Asked by token constraints. Without it: they refuse.

    A sequence holds neither the prompt nor an end-of-sequence token.
    """

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tokens(self, rows: Rows) -> Sequence[NDArray[np.int64]]:
        """(R,) generated token ids."""
        ...


@runtime_checkable
class CarriesAutomata(Protocol):
    """A state that carries automaton states along. Without it: a constraint walks over the tokens of each row."""

    def states(self, constraint: TokenConstraint, rows: Rows) -> States | None:
        """(R,) states of the constraint's automaton; None if it is not carried for all `rows`."""
        ...


@runtime_checkable
class LimitsTokens(Protocol):
    """A state of texts of limited length. Asked when all particles have died. Without it: no limit is blamed."""

    def limits(self, rows: Rows) -> NDArray[np.int64]:
        """(R,) the tokens that each text may have, no end of sequence among them."""
        ...


@runtime_checkable
class ForcesEnds(Protocol):
    """A state that tells what happens at the limit. Asked by twists. Without it: texts are taken to be cut there."""

    def must_end(self, rows: Rows) -> Mask:
        """(R,) whether a text of as many tokens as its limit allows must end itself, and is not just cut."""
        ...


@runtime_checkable
class ForeseesAcceptance(Protocol):
    """A state that foresees how likely a text is to meet a constraint. Without it: the level is 0, or -inf.

    The canvases of a discrete diffusion have it, and the texts of a language model where the constraint lists its own.
    """

    def log_accepted(self, constraint: TokenConstraint, rows: Rows) -> LogW | None:
        """(R,) nats, known or guessed, -inf where no text can meet it; None where nothing is known of it."""
        ...


@runtime_checkable
class BoundsEvidence(Protocol):
    """A state that knows mass which its constraints have for certain. Without it: a run is not held against any."""

    def bound_evidence(self, group: int, rows: Rows) -> float:
        """Nats that the log evidence of the constraints that mask is at least; `rows` of the group meet them all."""
        ...
