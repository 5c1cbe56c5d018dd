"""What models may offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Model, Rng, Rows, State

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.capabilities.potentials import Guides
    from feynkac.base.masks import TokenConstraint


@runtime_checkable
class Joins(Protocol):
    """A model that can run with others in one batch. Without it: `steer` refuses a list of models."""

    def join(self, others: Sequence[Any], /) -> Model:
        """One model of this problem and of the problems of `others`, in this order, the same number of rows each."""
        ...


@runtime_checkable
class Masks(Protocol):
    """A model whose proposal can obey token constraints. Without it: constraints weigh, and nothing is masked."""

    def constrain(self, constraints: Sequence[TokenConstraint], /) -> Model:
        """The same model with a proposal that obeys `constraints`, which then also weigh as potentials."""
        ...


@runtime_checkable
class Heeds(Protocol):
    """A model whose proposal can follow potentials that guide. Without it: they weigh, and guide nothing."""

    def heed(self, guides: Sequence[Guides], /) -> Model:
        """The same model with a proposal that follows `guides`, which then also weigh as potentials."""
        ...


@runtime_checkable
class Saves(Protocol):
    """A model whose populations can be written, and read by another process. Asked by `checkpoint=`.

    Without it: that refuses. What is written is a tree: None, bools, numbers, texts and bytes, arrays and tensors, and
    lists, tuples, sets and dicts of these; potentials may stand in it, too, and are found again by their places.
    """

    def prepare_saving(self) -> Model:
        """This model, in a run that is saved. Raises ArgumentError for what cannot be, which says what to do."""
        ...

    def identify(self) -> Mapping[str, Any]:
        """What must be the same where a run goes on, by names that errors give: plain values, and lists and dicts."""
        ...

    def save(self, state: Any) -> Any:
        """A population between two steps. Raises ArgumentError that names what of it cannot be written."""
        ...

    def load(self, saved: Any) -> State:
        """The population that `save` wrote: what follows is what would have followed, bit for bit on a CPU."""
        ...


@runtime_checkable
class SavesPaths(Protocol):
    """A model whose paths can be written: those that `Replays.trace` gives. Asked by `checkpoint=` with "gibbs".

    Without it: that refuses.
    """

    def write_path(self, path: Any) -> Any:
        """The path as a tree (see `Saves`)."""
        ...

    def read_path(self, saved: Any) -> Any:
        """What `write_path` wrote."""
        ...


class Scorer(Protocol):
    """What `Scores` gives."""

    def score_texts(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats of the texts of `rows`, finished or not; -inf where there is no mass."""
        ...

    def score_next(self, frontier: Any) -> Tensor:
        """(U, V) nats of each next token behind the contexts of a frontier."""
        ...


@runtime_checkable
class Scores(Protocol):
    """A model that can tell what it thinks of texts that another wrote. Asked by `expert`. Without it: that refuses."""

    def make_scorer(self) -> Scorer:
        """Raises ArgumentError where the model is no law of one text."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A model that knows how long its runs last. Asked by the progress bar. Without it: the bar has no end."""

    @property
    def max_steps(self) -> int | None:
        """The largest number of steps that a run takes; None where it is not known."""
        ...


@runtime_checkable
class Biased(Protocol):
    """A model or proposal that can leave its weights out, which `steer` warns of. Without it: weights are proper."""

    @property
    def biased(self) -> bool:
        """Whether samples, weights and evidence follow no declared target."""
        ...


@runtime_checkable
class GoesBack(Protocol):
    """A model whose states can be gone back to (`Keeps`), but not always. Asked before a run whose moves do.

    Without it: the states alone decide.
    """

    def check_going_back(self) -> None:
        """Raises ArgumentError that says why they cannot, and what to do."""
        ...


@runtime_checkable
class ChecksForks(Protocol):
    """A model, or a source of one, whose particles cannot always be copied, which is asked before a run that copies.

    Without it: any algorithm may copy them.
    """

    def check_forks(self) -> None:
        """Raises a FeynkacError that says why they cannot be copied, and what to do."""
        ...


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
class Replays(Protocol):
    """A model that can walk a given path again. Asked by conditional SMC and "gibbs". Without it: they refuse."""

    def replay(self, t: int, state: Any, rng: Rng, reference: Any) -> tuple[State, LogW]:
        """Like `step`, except that row 0 takes the choices of `reference`, with the increment they have in `step`.

        Row 0 must finish where the reference finished. The other rows are drawn as `step` draws them.
        """
        ...

    def trace(self, state: Any, row: int) -> Any:
        """All the choices of a finished `row`: what makes `replay` walk its path."""
        ...


@runtime_checkable
class Retraces(Protocol):
    """A model that leads rows along the steps of others. Asked by moves that keep a tail. Without it: those refuse."""

    def retrace(self, t: int, steps: int, state: Any, of: Any) -> Sequence[tuple[State, LogW]]:
        """The states after steps `t` to `t` + `steps` - 1, and their (N,) increments, log p of each step in nats.

        Row i of `state`, which stands before step `t`, takes the steps that row i of `of` has taken from there on. An
        increment of -inf, at the latest at the step in question, says that it cannot take just these: one of them has
        no mass, or ends the row before it has taken all, or leaves it running where none is left. Finished rows have 0.
        """
        ...


@runtime_checkable
class ScoresAnswers(Protocol):
    """A language model that weighs the same answers behind many questions. Asked by `judge`. Without it: it refuses."""

    @property
    def chats(self) -> bool:
        """Whether a question may be a chat."""
        ...

    def score_answers(self, questions: Sequence[Any], answers: Sequence[str]) -> NDArray[np.float64]:
        """(Q, A) nats of each answer as the beginning of what follows each question, a text or a list of messages."""
        ...


@runtime_checkable
class KeepsHidden(Protocol):
    """Contexts of a language model that keep what its output layer read. Without it: their texts tell of none."""

    @property
    def hidden(self) -> Tensor | None:
        """(F, width) float32, row by row for the logits that were given last; None where it cannot be told."""
        ...


@runtime_checkable
class SavesContexts(Protocol):
    """Contexts of a language model that can be written (see `Saves`). Without it: no run on them is saved."""

    def save(self) -> Any:
        """All that they keep."""
        ...

    def load(self, saved: Any) -> None:
        """Take up what `save` wrote: called once, instead of `start`, on contexts of the same prompts."""
        ...


class Replayable(Model, Replays, Protocol):
    """A model that can also walk a given path again."""


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


@runtime_checkable
class Resides(Protocol):
    """A model that is large. Asked by executors, whose workers keep it. Without it: it is sent with each call."""

    def find_weights(self) -> tuple[Any, Callable[[], Any] | None]:
        """The module that has its weights, and what makes that again in another process; None where nothing does.

        Asked just before it is pickled: what must be the same object for all that refer to it is made by then.
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
