"""What potentials may offer, the denoisers of canvases, and automata over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities.asking import has
from feynkac.base.contract import Potential

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.capabilities.models import Scorer
    from feynkac.base.masks import States, TokenConstraint, TokenMask
    from feynkac.base.vocabulary import Vocabulary


@runtime_checkable
class Factored(Protocol):
    """A potential that is a product. `steer` masks by its factors, and says which one killed. Without it: it is one."""

    @property
    def factors(self) -> tuple[Potential, ...]: ...


def list_factors(potential: Any) -> tuple[Any, ...]:
    """The factors of a product; of any other potential itself."""
    return potential.factors if has(potential, Factored) else (potential,)


@runtime_checkable
class Hard(Protocol):
    """A potential that may only forbid, and is asked before others. Without it: it is asked in turn."""

    hard: bool
    """Whether all log-weights are 0 or -inf, so that a positive power changes nothing."""


def is_hard(potential: Any) -> bool:
    """Whether `potential` only forbids."""
    return has(potential, Hard) and potential.hard


@runtime_checkable
class Foresees(Protocol):
    """A potential whose guesses have a gradient. Asked by guided proposals. Without it: they refuse."""

    def log_psi(self, view: Any) -> Any:
        """(R,) nats, a tensor: what is foreseen of the rows in `view`, differentiable in `view.estimate`."""
        ...


@runtime_checkable
class Guides(Protocol):
    """A potential that knows what each next token is worth. Asked by prompts, which then draw from p(v) exp(guide(v)).

    Without it: tokens are drawn from p, under the masks, and the potential weighs what came out.
    """

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats that each token is worth behind each context of a `feynkac.models.language.protocols.Frontier`.

        Best by how much the level changes with it (the final score, where it ends the text); -inf only for tokens that
        the potential forbids. What does not depend on the token changes nothing. Called once for every frontier.
        """
        ...


@runtime_checkable
class Consults(Protocol):
    """A potential that guides by what other prompts think of a text. Prompts let them read along, all in one pass.

    Without it: nothing reads along, and whole texts are read when they are asked about.
    """

    @property
    def scorers(self) -> tuple[Scorer, ...]: ...


@runtime_checkable
class Checks(Protocol):
    """A token constraint that accepts less than its automaton. Asked of spans by programs. Without it: as much."""

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether a token sequence that the automaton accepts is accepted indeed; `final` says the same."""
        ...


@runtime_checkable
class Contradicts(Protocol):
    """A constraint that knows whether texts meet it and others. Asked before a run, and when all particles have died.

    Without it: contradictions are not found, and no error names them.
    """

    def shares_text(self, others: Sequence[Any], most: int | None = None) -> bool | None:
        """Whether some text meets this constraint and all `others`; None where that is not known.

        `most`: steps that it may take, where it must be soon; None where there is time.
        """
        ...


@runtime_checkable
class Lists(Protocol):
    """A constraint that can list its texts where they are few. Without it: language models do not look ahead for it."""

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, each once, None if there are more than `most`, or it is not known."""
        ...


@runtime_checkable
class Outlines(Protocol):
    """A constraint that knows a finite automaton of few states. Asked by Markov twists. Without it: they refuse."""

    @property
    def outline(self) -> TokenConstraint | None:
        """The constraint of that automaton, which accepts as much, or more; None where there is none."""
        ...


@runtime_checkable
class Reads(Protocol):
    """A constraint whose texts stand for values. Asked for `Result.parsed`. Without it: they are read as plain JSON."""

    def read(self, text: str) -> Any:
        """The value of a text. Raises ValueError where it has none."""
        ...


def find_reader(potential: Any) -> Callable[[str], Any] | None:
    """What reads the texts of the first factor that knows how."""
    return next((factor.read for factor in list_factors(potential) if has(factor, Reads)), None)


# --- of the denoisers of canvases


@runtime_checkable
class IgnoresTime(Protocol):
    """A denoiser whose answer may hold longer than a step. Without it: each step evaluates all anew."""

    time_independent: bool
    """Whether the answer is the same at every noise level, so that it holds while a canvas stays as it is."""


@runtime_checkable
class RelatesNeighbours(Protocol):
    """A denoiser whose posterior is a Markov chain over positions. Without it: positions count as independent.

    A canvas asks, so that constraints are foreseen, and met, without error. A denoiser that knows the dependence only
    approximately may have it, too: it guides, and the weights correct.
    """

    def transitions(self, tokens: NDArray[np.int64], t: float) -> NDArray[np.float64]:
        """(U, L - 1, K, K) nats: the law of each clean token (last index) given the one before it and the canvas."""
        ...


@runtime_checkable
class Ranks(Protocol):
    """A denoiser over so many tokens that only the likeliest of each position are kept. Without it: all of them are.

    A canvas then asks `rank` in the place of `log_probs`; where a token that is not among them is to be drawn, which is
    as often as p says, it asks `log_probs_at`. Masked diffusion only.
    """

    n_ranked: int
    """R, how many tokens of each position are told."""

    def rank(
        self, tokens: NDArray[np.int64], t: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """(U, L, R) clean tokens, the likeliest first, (U, L, R) their nats, and (U, L) nats of all others together.

        Of a position under no mask the first is the token that stands there, with 0 nats.
        """
        ...

    def log_probs_at(self, tokens: NDArray[np.int64], t: float, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """(U, K) nats of all clean tokens at one of the `places` (U,) of each of U canvases (U, L)."""
        ...


# --- of the proposals of canvases


@runtime_checkable
class DrawsRanked(Protocol):
    """A proposal that can do with the likeliest tokens of each position (`Ranks`). Without it: such a model refuses."""

    def draw_ranked(self, t: int, canvas: Any, rows: Any, moved: Any, draws: Any) -> tuple[Any, Any]:
        """As `draw`; the law is that of `canvas.ranking(rows)`."""
        ...


# --- of automata over tokens


@runtime_checkable
class MasksWithin(Protocol):
    """An automaton that knows how many tokens its texts still need. Asked by language models, for their `max_tokens`.

    Without it: a particle may begin a text that it cannot complete within the limit, and dies there.
    """

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, without tokens after which no text is accepted within `left` (U,) in all.

        `left` counts the token itself, and no end of sequence. Only what is sure may be left out: so the target stays.
        """
        ...


@runtime_checkable
class ChecksTokens(Protocol):
    """An automaton that tells of a single token whether it may come next, where its `masks` would ask them all.

    Asked by language models, which then draw by rejection. Without it: the masks are asked for at every step.
    """

    draws: int
    """How many draws of a token are to be accepted, 2 at least: more have less variance, and ask more."""

    def candidates(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) tokens among which are all that may come next, found without asking anything."""
        ...

    def check(self, states: States, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(R,) whether each token may come next from each state; an end of sequence, whether the state accepts."""
        ...
