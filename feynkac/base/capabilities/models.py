"""What models may offer: to run with others, under masks, along paths; and what they tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
class Adapts(Protocol):
    """What goes by the whole population: a model or proposal that draws by it, a potential whose levels do.

    Without it: `check` takes it for a fault that a row depends on the others.
    """

    @property
    def adapts(self) -> bool:
        """Whether it does, as it is set up."""
        ...


@runtime_checkable
class KeepsSources(Protocol):
    """A model whose noise comes from a source for each slot, seeded at `init`. Without it: from each step's `rng`."""

    def keep_apart(self) -> Model:
        """The same model, in which no slot is ever lent the noise of another; `check` walks it."""
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


class Replayable(Model, Replays, Protocol):
    """A model that can also walk a given path again."""


@runtime_checkable
class Resides(Protocol):
    """A model that is large. Asked by executors, whose workers keep it. Without it: it is sent with each call."""

    def find_weights(self) -> tuple[Any, Callable[[], Any] | None]:
        """The module that has its weights, and what makes that again in another process; None where nothing does.

        Asked just before it is pickled: what must be the same object for all that refer to it is made by then.
        """
        ...
