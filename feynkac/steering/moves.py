"""What `steer` takes as moves: paths drawn anew, moves of a user, and waste-free SMC with either."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import GoesBack, Retraces, require
from feynkac.base.contract import Model, Move, Potential
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_count, read_whole
from feynkac.smc import resample as schemes
from feynkac.smc.checks import name_of
from feynkac.smc.redraws import CANNOT_RETRACE, Redraw
from feynkac.smc.rejuvenation import Kernel, Moves, Rejuvenation

if TYPE_CHECKING:
    from feynkac.steering.algorithms import Plan


@dataclass(frozen=True)
class Moving:
    """Moves of particles at fixed steps, as `redraw` and `rejuvenate` describe them."""

    moves: tuple[Move, ...]
    every: int
    block: int
    tail: int
    chains: int | None

    def check(self, model: Any) -> None:
        """Raises ArgumentError for a model that cannot be taken back."""
        if self.block and isinstance(model, GoesBack):
            model.check_going_back()
        if self.tail:
            require(model, Retraces, CANNOT_RETRACE.format(name_of(model)), ArgumentError)

    def bind(self, model: Model, potential: Potential, plan: Plan) -> Rejuvenation:
        """The same for a run. Raises ArgumentError for chains that do not fit its particles."""
        kernel: Kernel = Redraw(model, potential, self.block, self.tail) if self.block else Moves(self.moves)
        if self.chains is None:
            return Rejuvenation(kernel, self.every)
        self.check_chains(plan)
        assert isinstance(plan.resampler, str)
        choose = schemes.shrink(schemes.by_name(plan.resampler), self.chains // plan.islands)
        choose = schemes.islands(choose, plan.islands) if plan.islands > 1 else choose
        return Rejuvenation(kernel, self.every, choose, plan.particles // self.chains)

    def describe(self) -> dict[str, Any]:
        """All of it in plain values: of moves of a user their names."""
        numbers = {name: getattr(self, name) for name in ("every", "block", "tail", "chains")}
        return {**numbers, "moves": [*map(name_of, self.moves)]}

    def divide(self, islands: int) -> Moving:
        """Those of one of `islands`."""
        return self if self.chains is None else replace(self, chains=self.chains // islands)

    def check_chains(self, plan: Plan) -> None:
        """Raises ArgumentError for chains that do not fit the particles of a plan, or its resampler."""
        chains, n = self.chains, plan.particles
        if chains is None:
            return
        if not isinstance(plan.resampler, str):
            raise ArgumentError(
                f"chains={self.chains} with resampler={quote(plan.resampler)}: give the name of a scheme, which can "
                "return fewer rows than it is given"
            )
        if n % chains or chains >= n or chains % plan.islands:
            raise ArgumentError(
                f"chains is {chains} for {n} particles on {plan.islands} islands; it must divide the particles into "
                "chains of at least 2 states, and be a multiple of the islands"
            )


@suggest_names()
def redraw(block: int = 8, *, tail: int = 0, every: int | None = None, chains: int | None = None) -> Moving:
    """Moves that draw a block of tokens of each particle anew, for `steer(..., moves=redraw(8))`.

    Before the steps `every`, 2 `every`, ... (by default each `block` + `tail` steps) a block of each text is drawn
    again by the model, under its masks and laws, and takes the place of the old one by the rule of Metropolis and
    Hastings. The target so far is left invariant, so that evidence and weights are as unbiased as without moves; the
    tokens that are drawn or read for it count as forwarded. The first token of a text always stays.

    `tail`: the block is filled in before the last `tail` tokens, which stay, and are weighed anew behind it. A block is
    not taken if masks forbid the tail behind it, or if the text ends before its tail is over. Without it the block is
    the end of the text, which may end sooner or later than it did.

    What has ended before its block is not moved; what has ended within, or in the tail, is, and so may run again: the
    run lasts until no move can change a text any more.

    `chains`: waste-free SMC (Dau and Chopin 2022). At each of these steps that many particles are resampled, each
    starts a chain of moves, and all states of all chains are the new population, each with an equal part of its chain's
    weight. Since the steps are fixed beforehand, the evidence stays unbiased for any number of chains, which must
    divide the particles; where moves are made only when weights have become uneven, as is the custom, it is merely
    consistent.

    For prompts of language models without experts and without proposals that have contexts of their own, and for any
    model whose states have the capability `Keeps`, and which `Retraces` if there is a tail. Raises ArgumentError for
    numbers that cannot be.
    """
    block, tail = read_count("block", block), read_count("tail", tail, low=0)
    least = block + tail
    advice = f": blocks and their tails, {least} tokens, must not overlap"
    every = least if every is None else read_whole("every", every, least, advice)
    return Moving((), every, block, tail, None if chains is None else read_whole("chains", chains, 1))


@suggest_names()
def rejuvenate(*moves: Move, every: int = 1, chains: int | None = None) -> Moving:
    """Moves of your own (`feynkac.base.contract.Move`) before the steps `every`, 2 `every`, ..., one after the other.

    Each must leave the target so far invariant; nothing can check that. `chains`: as in `redraw`; the states of the
    model need the capability `Keeps`. Raises ArgumentError for what is no move.
    """
    for move in moves:
        if isinstance(move, type) or not callable(move):
            raise ArgumentError(
                f"{quote(move)} is no move; it is a function (t, state, level, alive, rng) -> state, level"
            )
    if not moves:
        raise ArgumentError("rejuvenate() without a move; give one or more, or take fk.redraw(...)")
    return Moving(
        moves, read_whole("every", every, 1), 0, 0, None if chains is None else read_whole("chains", chains, 1)
    )


def read_moves(moves: Any) -> Moving | None:
    """What `steer` was given as `moves`. Raises ArgumentError for anything else."""
    if moves is None or isinstance(moves, Moving):
        return moves
    if as_sequence(moves) == []:
        return None
    if moves is redraw or moves is rejuvenate:
        name = "redraw(8)" if moves is redraw else "rejuvenate(move)"
        raise ArgumentError(f"moves is the function fk.{name.split('(')[0]} itself; call it, as in moves=fk.{name}")
    if not callable(moves):
        raise ArgumentError(
            f"moves is {quote(moves)}; give fk.redraw(...), or fk.rejuvenate(move) with a move of your own"
        )
    return rejuvenate(cast(Move, moves))


def check_algorithm(moving: Moving | None, algorithm: str) -> None:
    """Raises ArgumentError where an algorithm has no place for moves."""
    if moving is not None and algorithm != "smc":
        raise ArgumentError(f"moves= is for algorithm='smc', and not for {quote(algorithm)}; leave one of them out")
