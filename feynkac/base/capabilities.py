"""The optional capabilities: what an object may offer beyond the contract (`feynkac.base.contract`), one class each.

Each class says what happens without it. An object has a capability by having the methods; it need not derive from
anything. Nothing else is looked up by name on models, states, potentials, proposals and observers: ask with
`isinstance`, or with `require`, whose error says what is missing. `feynkac.check` tells which of them an object has.
Those of samplers of latents are in `feynkac.base.sampling`.

Shapes: `N` particles in the population, `R` rows asked about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Model, Potential, Rng, Rows, State
from feynkac.base.errors import FeynkacError, PotentialError
from feynkac.base.memory import Memory
from feynkac.base.sampling import Estimates, NeedsGraph

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.masks import States, TokenConstraint, TokenMask
    from feynkac.base.vocabulary import Vocabulary

C = TypeVar("C")


def require(thing: object, capability: type[C], message: str, error: type[FeynkacError] = PotentialError) -> C:
    """`thing`, which has `capability`. Raises `error` with `message` where it has not."""
    if not has(thing, capability):
        raise error(message)
    return cast(C, thing)


def has(thing: object, capability: type[C]) -> TypeGuard[C]:
    """Whether `thing` has `capability`: `isinstance` for where it is asked at each step, as that takes 20 µs."""
    methods, attributes = _list_members(capability)
    # A method that is None is how a class says that it has it not.
    return all(getattr(thing, name, None) is not None for name in methods) and all(
        hasattr(thing, name) for name in attributes
    )


@functools.cache
def _list_members(capability: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the methods, and of the other attributes, that a capability declares."""
    names = dict[str, None]()
    for part in capability.__mro__:
        if getattr(part, "_is_protocol", False) and part is not Protocol:
            names |= dict.fromkeys([*vars(part), *vars(part).get("__annotations__", ())])
    public = [name for name in names if not name.startswith("_")]
    methods = tuple(name for name in public if callable(getattr(capability, name, None)))
    return methods, tuple(name for name in public if name not in methods)


# --- of anything


@runtime_checkable
class Named(Protocol):
    """A name, for errors and results. Without it: the name of the class."""

    name: str


# --- of models


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
        evaluations before they are made.
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


class Replayable(Model, Replays, Protocol):
    """A model that can also walk a given path again."""


# --- of states: what the engine and `steer` ask


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

    def states(self, constraint: TokenConstraint) -> States | None:
        """(N,) states of the constraint's automaton; None for a constraint that is not carried."""
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


# --- of potentials


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
class Checks(Protocol):
    """A token constraint that accepts less than its automaton. Asked of spans by programs. Without it: as much."""

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether a token sequence that the automaton accepts is accepted indeed; `final` says the same."""
        ...


@runtime_checkable
class Contradicts(Protocol):
    """A constraint that knows whether texts meet it and others. Asked when all particles have died, to tell why.

    Without it: the error does not say.
    """

    def shares_text(self, others: Sequence[Any]) -> bool | None:
        """Whether some text meets this constraint and all `others`; None where that is not known."""
        ...


@runtime_checkable
class Lists(Protocol):
    """A constraint that can list its texts where they are few. Without it: language models do not look ahead for it."""

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, None if there are more than `most`, or it is not known."""
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


# --- of observers


@runtime_checkable
class Closes(Protocol):
    """An observer with something to close when the run ends, however it ends. Without it: nothing is called."""

    def close(self) -> None: ...


OF_MODELS: tuple[type, ...] = (Named, Joins, Masks, Bounded, Biased, ChecksForks, Enumerates, Replays)
OF_STATES: tuple[type, ...] = (
    Shows, Retires, Records, CountsTokens, TellsEnds, Remembers, Writes, Tokenised, CarriesAutomata, ForeseesAcceptance,
    BoundsEvidence, Weighed, Decodes, Estimates, Completes,
)  # fmt: skip
OF_POTENTIALS: tuple[type, ...] = (Named, Factored, Hard, Foresees, Checks, Contradicts, Lists, Reads)
OF_PROPOSALS: tuple[type, ...] = (Biased, NeedsGraph)
OF_DENOISERS: tuple[type, ...] = (IgnoresTime, RelatesNeighbours)
OF_AUTOMATA: tuple[type, ...] = (MasksWithin,)
OF_OBSERVERS: tuple[type, ...] = (Closes,)
