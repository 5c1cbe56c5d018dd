"""What models may offer that know all that may come: lists of samples, and children of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from feynkac.base.contract import LogW, Model, Rows, State


@runtime_checkable
class Enumerates(Protocol):
    """A model that can list its samples. Asked by algorithm "exact". Without it: that refuses."""

    def enumerate(self, most: int, masked: bool, watch: Callable[[int], Any]) -> Enumerated:
        """All samples with mass that the constraints allow, from at most `most` evaluations of the law.

        `masked`: nothing else weighs, so that prefixes may be left out whose mass cannot matter. `watch` is told of
        evaluations that were made, and ends the list there by returning True.
        """
        ...


class Enumerated(Protocol):
    """What `Enumerates` gives."""

    @property
    def state(self) -> Any:
        """A population of all samples found."""
        ...

    @property
    def log_prob(self) -> LogW:
        """(L,) nats of each under the law."""
        ...

    @property
    def log_left(self) -> float:
        """Nats of what was left out; -inf where nothing was."""
        ...


@runtime_checkable
class Branches(Protocol):
    """A model that knows all children of a row. Asked by algorithm "optimal". Without it: that refuses."""

    def check_branches(self) -> None:
        """Raises a FeynkacError where this very model cannot branch, which says why and what to do."""
        ...

    def branch(self, t: int, state: Any, rows: Rows) -> Children:
        """All that step `t` may make of the unfinished `rows`."""
        ...

    def descend(self, t: int, state: Any, children: Children, parents: Rows, at: Rows, chosen: NDArray[Any]) -> State:
        """The population of children: row `i` is child `chosen[i]` of history `at[i]`, that of row `parents[i]`.

        Where `chosen[i]` is -1 it is row `parents[i]` as it stands.
        """
        ...


class BranchingModel(Model, Branches, Protocol):
    """A model that also knows all children of its rows."""


class Children(Protocol):
    """The children of J histories: integers, each with its probability under the law, and with a score.

    The score, log p(child) plus what is foreseen of it, in nats, says which are worth keeping; it is -inf only where
    nothing can come of the child.
    """

    @property
    def history(self) -> NDArray[Any]:
        """(R,) the number of each row's history; rows with the same one are the same in all that may come."""
        ...

    @property
    def log_mass(self) -> LogW:
        """(J,) log-sums of the scores, in nats."""
        ...

    def among(self, histories: Rows) -> Children:
        """The children of these histories alone, numbered anew; one may come twice."""
        ...

    def above(self, bound: LogW) -> tuple[Rows, NDArray[Any]]:
        """(K,) histories and (K,) children: those with scores above their history's `bound` (J,), up to rounding."""
        ...

    def without(self, at: Rows, chosen: NDArray[Any]) -> Children:
        """The same histories without these children."""
        ...

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> NDArray[Any]:
        """(K,) children of histories `at`, each by the inversion of exp(score) at its uniform in [0, 1)."""
        ...

    def weigh(self, at: Rows, chosen: NDArray[Any]) -> tuple[LogW, LogW]:
        """(K,) scores, and (K,) log-probabilities under the law, in nats."""
        ...


@runtime_checkable
class TellsAllowed(Protocol):
    """Children that know how much of the law they are. Without it: no history tells what masks took from a step."""

    def tell_allowed(self) -> LogW:
        """(J,) nats, the probability under the law that a child of each history is one of these."""
        ...
