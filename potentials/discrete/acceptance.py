"""A regular constraint whose level foresees it: the exact log-probability of acceptance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feynkac.errors import ArgumentError
from feynkac.masks import TokenAutomaton
from feynkac.potentials.base import Factor
from feynkac.potentials.discrete.canvas import canvas
from feynkac.potentials.tokenwise import TokenFactor
from feynkac.smc.checks import name_of
from feynkac.smc.protocols import LogW, Rows

if TYPE_CHECKING:
    from feynkac.vocabulary import Vocabulary


class Acceptance(Factor):
    """A constraint that a canvas foresees (see `foreseen`)."""

    hard = True

    def __init__(self, constraint: TokenFactor) -> None:
        self.constraint, self.name = constraint, f"foreseen({constraint.name})"

    def automaton(self, vocabulary: Vocabulary) -> TokenAutomaton:
        """The constraint over the tokens of `vocabulary`, as the base has it."""
        return self.constraint.automaton(vocabulary)

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats, at most 0; -inf where no filling in of the canvas is accepted."""
        return canvas(state, self.name, "the constraint itself").log_accepted(self.constraint, rows)

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats: 0 where the text is accepted, -inf elsewhere."""
        return self.constraint.final(state, rows)


def foreseen(constraint: TokenFactor) -> Acceptance:
    """The same constraint for discrete diffusion, its probability of being met as the level on the way.

    Raises ArgumentError for what has no automaton.
    """
    if not isinstance(constraint, TokenFactor):
        raise ArgumentError(
            f"foreseen({name_of(constraint)}) has no automaton; use Lookahead, which asks about completions"
        )
    return Acceptance(constraint)
