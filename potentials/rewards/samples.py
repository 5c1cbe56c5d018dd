"""Functions of the sample, whatever the model samples: which of its two forms is asked, and how they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feynkac.base.capabilities import Decodes, Writes, has
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real, read_flag
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.boundaries import Every
from feynkac.potentials.rewards.calling import Calls
from feynkac.potentials.rewards.folds import Kind
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.potentials.rewards.signatures import find_problem, is_async, name_function
from feynkac.potentials.rewards.values import Convert, read_number

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.sampling import View


class SampleFactor(Factor):
    """A function of the sample, whatever the model samples: of the text, or else of what is decoded from latents.

    `on_texts` weighs states that have texts; `on_decoded` makes what weighs states that have decoded samples, when it
    is first needed. Which of the two is asked is decided here and nowhere else.
    """

    def __init__(self, on_texts: Factor, on_decoded: Callable[[], Factor], *, hard: bool = False) -> None:
        self.name, self.hard = on_texts.name, hard
        self._on_texts, self._make = on_texts, on_decoded
        self._made = dict[str, Factor]()

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: what the function foresees from the text so far, or from the clean sample expected."""
        return self._on(state).level(t, state, rows)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: what the function says of the samples."""
        return self._on(state).final(state, rows)

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, differentiable if the function is: what it foresees of the rows in `view`."""
        return self.on_decoded.log_psi(view)

    @property
    def on_decoded(self) -> Factor:
        """What weighs states that have decoded samples."""
        # One for all threads, since what particles remember is kept under it; setdefault is atomic.
        return self._made.get("decoded") or self._made.setdefault("decoded", self._make())

    def _on(self, state: State) -> Factor:
        if has(state, Writes):
            return self._on_texts
        if has(state, Decodes):
            return self.on_decoded
        raise PotentialError(
            f"'{self.name}' is a function of texts or of decoded samples, and {type(state).__name__} has neither; "
            "write a potential with level(t, state, rows) and final(state, rows) for it"
        )


def make_scorer(f: Any, what: str, convert: Convert = read_number, batch: bool = False, **calls: Any) -> Scorer:
    """What calls f for the potential `what`, which is "" of a plain function.

    `calls` are workers, timeout, on_error and retries, as `reward` has them. Raises ArgumentError for an f that is no
    function of the sample, and for calls that cannot be.
    """
    if not callable(f):
        raise ArgumentError(f"{what}({quote(f)}): give a function of the sample, which is a text or a decoded image")
    batch = read_flag(f"{what}: batch", batch)
    told = find_problem(f, f"{what}: " if what else "", batch)
    how = Calls(is_async(f), told, **calls).check(what, batch)
    return Scorer(f, name_function(what, f), convert, batch, how)


def check_scale(scale: Any, what: str = "reward") -> None:
    """Raises ArgumentError for a scale that is no finite number."""
    if as_real(scale) is None:
        raise ArgumentError(f"{what}(scale={quote(scale)}): the scale is a finite number, in nats per unit of reward")


# Of modules and not of functions, so that potentials travel to other processes; what they import takes a while.


def decode_plain(scorer: Scorer) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedPlain

    return DecodedPlain(scorer)


def decode_constraint(scorer: Scorer, every: Every) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedConstraint, count_steps

    return DecodedConstraint(scorer, count_steps(every, scorer.name))


def decode_reward(scorer: Scorer, scale: float, kind: Kind, every: Every) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedReward, count_steps

    return DecodedReward(scorer, scale, kind, count_steps(every, scorer.name))
