"""What populations may offer: to the engine, to `steer` and to potentials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Mask, Rows, State
from feynkac.base.memory import Memory

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.masks import States, TokenConstraint
    from feynkac.base.problems import Problem
    from feynkac.base.vocabulary import Vocabulary


@runtime_checkable
class Retires(Protocol):
    """A state that can be told that rows have died. Told by the engine. Without it: dead rows go on costing work."""

    def retire(self, rows: Rows) -> None: ...


@runtime_checkable
class Records(Protocol):
    """A state that keeps paths, which take memory, only when told to. Without it: paths are taken to be kept anyway."""

    def record(self) -> None:
        """Keep from now on, before the first step, what `Replays.trace` needs."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A state that shows its rows as samples. Asked by `steer`. Without it: a sample is the state of its row alone."""

    def samples(self, rows: Rows) -> Sequence[Any]:
        """(R,) what a result holds for `rows`, finished or not."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """A state that can be gone back to. Asked by the engine for moves that do, and by waste-free SMC.

    Without it: both refuse.
    """

    def keep(self) -> State:
        """The same population, which can be extended as long as somebody holds it, whatever is extended meanwhile."""
        ...

    def concat(self, others: Sequence[Any], /) -> State:
        """The rows of this population, then those of `others`, all of one run and all of them kept or just made."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A state that counts the tokens that went through its model. Without it: `Result.forwarded_tokens` is None."""

    @property
    def forwarded(self) -> Sequence[int] | None:
        """Tokens so far for each problem of the batch; None where that is not known."""
        ...


@runtime_checkable
class TellsEnds(Protocol):
    """A state that knows how its rows came to an end. Asked when all have died, to tell why. Without it: nothing is."""

    def tell_ends(self, rows: Rows) -> Sequence[str | None]:
        """(R,) in words, such as "cut at max_tokens=30"; None where there is nothing to tell."""
        ...


# --- of states: what potentials ask


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
class Remembers(Protocol):
    """A state in which potentials keep running values that fork with the rows. Without it: those potentials refuse."""

    memory: Memory


@runtime_checkable
class Writes(Protocol):
    """A state of texts. Asked by functions of the sample. Without it: they look for decoded samples instead."""

    def texts(self, rows: Rows) -> list[str]:
        """(R,) decoded texts so far; bytes that do not (yet) form a character are left out at the end."""
        ...


@runtime_checkable
class Grouped(Protocol):
    """A state that knows which problem each row belongs to. Without it: a batch shares all potentials."""

    @property
    def group(self) -> NDArray[np.int64]:
        """(N,) the number of each row's problem in the batch."""
        ...


@runtime_checkable
class TellsProblems(Protocol):
    """A state that knows which problem each row belongs to. Asked for f(text, problem). Without it: those f refuse."""

    def tell_problems(self, rows: Rows) -> Sequence[Problem]:
        """(R,) the problem of each row; rows of one problem share one object."""
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


@runtime_checkable
class Doubts(Protocol):
    """A state that knows what the reader of its results should doubt. Without it: only weights are judged."""

    def list_doubts(self, group: int) -> list[str]:
        """What to doubt of the results of a group, one text each."""
        ...


@runtime_checkable
class Weighed(Protocol):
    """A state that knows its weights since it was last resampled. Without it: `tempered(ess=)` refuses."""

    memory: Memory
    group: NDArray[Any]
    """(N,) which problem each row belongs to."""
    since: LogW
    """(N,) nats of log-weight since the group was last resampled, as far as the model and tempering know it."""


@runtime_checkable
class Decodes(Protocol):
    """A state whose finished rows decode to tensors, such as images. Without it: functions of such samples refuse."""

    def outputs(self, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Finished `rows` in batches, each with its decoded samples (R, ...)."""
        ...


@runtime_checkable
class TellsCopies(Protocol):
    """A state that tells which finished rows are copies. Without it: functions of samples are asked about each."""

    def find_originals(self, rows: Rows) -> Rows:
        """(R,) for each of `rows` the first of them that has the same sample and problem."""
        ...


@runtime_checkable
class Completes(Protocol):
    """A state of canvases that can be filled in. Without it: `Lookahead` refuses."""

    memory: Memory

    def draw_clean(self, rows: Rows) -> NDArray[Any]:
        """(R, L) clean tokens drawn from the factorised posterior of unfinished `rows`."""
        ...

    def estimate_clean(self, rows: Rows) -> NDArray[Any]:
        """(R, L) the likeliest clean token at each position."""
        ...

    def complete(self, rows: Rows, tokens: NDArray[Any]) -> State:
        """A finished population, row `i` of which is row `rows[i]` filled in with `tokens[i]`."""
        ...
