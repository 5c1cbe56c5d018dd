"""What populations of any kind may offer: to the engine, to `steer` and to potentials."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rows, State
from feynkac.base.memory import Memory

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.problems import Problem


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
class TellsEnds(Protocol):
    """A state that knows how its rows came to an end. Asked when all have died, to tell why. Without it: nothing is."""

    def tell_ends(self, rows: Rows) -> Sequence[str | None]:
        """(R,) in words, such as "cut at max_tokens=30"; None where there is nothing to tell."""
        ...


# --- of states: what potentials ask


@runtime_checkable
class Remembers(Protocol):
    """A state in which potentials keep running values that fork with the rows. Without it: those potentials refuse."""

    memory: Memory


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
class Doubts(Protocol):
    """A state that knows what the reader of its results should doubt. Without it: only weights are judged."""

    def list_doubts(self, group: int) -> list[str]:
        """What to doubt of the results of a group, one text each."""
        ...


@runtime_checkable
class LaysUp(Protocol):
    """A state that keeps what was computed about it. Without it: `check` takes what is written to it for a fault."""

    @property
    def laid_up(self) -> Collection[str]:
        """The attributes that are filled where potentials ask; what they say of a row is never another for it."""
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
