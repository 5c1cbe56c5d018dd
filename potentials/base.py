"""Potentials combine: `a * b` adds their log-weights, `a ** k` scales them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Foresees, Guides, is_hard
from feynkac.base.contract import LogW, Potential, Rows, State
from feynkac.base.digests import digest
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real
from feynkac.smc.checks import call, check_log_weights, name_of

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.sampling import View


class Factor:
    """A potential with a name, that can be multiplied and raised to a power.

    A subclass needs `final`, which defines the target; `level`, the guess on the way there, is 0 unless overridden.
    """

    name: str = ""
    hard: bool = False
    """Whether all log-weights are 0 or -inf, so that a positive power changes nothing."""
    definition: str = ""
    """A number of what it was made of, by which saved runs are told apart where its name does not tell all."""

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, the log-weight that is foreseen for the unfinished `rows` after step `t`; -inf kills a row."""
        return np.zeros(len(rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats, the log-weight of `rows` that have just finished."""
        raise NotImplementedError

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, a tensor with a gradient: what is foreseen of the rows in `view`, for a proposal to follow.

        Raises ArgumentError unless a subclass gives it.
        """
        raise _without_gradient(self)

    @property
    def factors(self) -> tuple[Potential, ...]:
        """The potentials whose product this is."""
        return (self,)

    def define(self, *parts: Any) -> Self:
        """This potential, with the `definition` of plain `parts`."""
        self.definition = digest(*parts)
        return self

    def __mul__(self, other: Any) -> Factor:
        return product(self, other)

    def __rmul__(self, other: Any) -> Factor:
        return product(other, self)

    def __pow__(self, exponent: float) -> Factor:
        if (finite := as_real(exponent)) is None:
            raise ArgumentError(f"{self.name} ** {quote(exponent)}: the power of a potential is a finite number")
        return self._power(finite)

    def _power(self, exponent: float) -> Factor:
        if self.hard and exponent < 0:
            raise ArgumentError(
                f"{self.name} ** {exponent:g}: texts that a constraint forbids would weigh infinitely much; "
                "write the opposite constraint instead"
            )
        return self if self.hard or exponent == 1 else raise_to(self, exponent)

    def __repr__(self) -> str:
        return self.name or type(self).__name__


class Power(Factor):
    """A potential to the power of `exponent`: its log-weights scaled, and -inf left as it is.

    Power 0 is the limit of small powers: it keeps what the potential forbids, and nothing else.
    """

    def __init__(self, base: Potential, exponent: float) -> None:
        self.base, self.exponent = base, exponent
        self.name = f"{name_of(base)} ** {exponent:g}"

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, `exponent` times the level of the base."""
        return self._scale(self.base.level(t, state, rows), "level", t, rows)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats, `exponent` times the final log-weight of the base."""
        return self._scale(self.base.final(state, rows), "final", None, rows)

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, `exponent` times what the base foresees."""
        return self.exponent * log_psi(self.base, view)

    def _power(self, exponent: float) -> Factor:
        return raise_to(self.base, self.exponent * exponent)

    def _scale(self, values: Any, what: str, t: int | None, rows: Rows) -> LogW:
        values = check_log_weights(values, source=name_of(self.base), what=what, t=t, rows=rows)
        dead = values == -np.inf
        scaled = self.exponent * np.where(dead, 0.0, values)
        scaled[dead] = -np.inf if self.exponent >= 0 else np.inf  # +inf is refused, by the name of this power
        return check_log_weights(scaled, source=self.name, what=what, t=t, rows=rows)


class GuidingPower(Power):
    """A power of a potential that guides the next token, which then guides by as much more, or less."""

    base: Any

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats, `exponent` times the guide of the base; where that is -inf it stays so, as `level` does."""
        worth = self.base.guide(frontier)
        scaled = self.exponent * worth.masked_fill(worth.isneginf(), 0.0)
        return scaled.masked_fill(worth.isneginf(), -math.inf if self.exponent >= 0 else math.inf)


def raise_to(base: Potential, exponent: float) -> Power:
    """The power of `base`, which guides if that does."""
    return GuidingPower(base, exponent) if isinstance(base, Guides) else Power(base, exponent)


class Product(Factor):
    """Several potentials at once: their log-weights add. Hard ones are asked first, and the dead are asked no more."""

    def __init__(self, factors: Sequence[Potential]) -> None:
        self._factors = tuple(factors)
        self._order = sorted(self._factors, key=lambda factor: not is_hard(factor))
        self.name = " * ".join(name_of(factor) for factor in self._factors) or "1"
        self.hard = all(map(is_hard, self._factors))

    @property
    def factors(self) -> tuple[Potential, ...]:
        """The potentials whose product this is, in the order they were given."""
        return self._factors

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, the sum of the levels. Raises PotentialError naming the factor at fault."""
        return self._sum("level", t, rows, lambda factor, asked: factor.level(t, state, asked))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats, the sum of the final log-weights. Raises PotentialError naming the factor at fault."""
        return self._sum("final", None, rows, lambda factor, asked: factor.final(state, asked))

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, the sum of what the factors foresee; those that only forbid have no part."""
        soft = [factor for factor in self._factors if not is_hard(factor)]
        if not soft:
            raise _without_gradient(self)
        first, *others = [log_psi(factor, view) for factor in soft]
        return sum(others, first)

    def _power(self, exponent: float) -> Factor:
        return Product([_raise(factor, exponent) for factor in self._factors])

    def _sum(self, what: str, t: int | None, rows: Rows, ask: Any) -> LogW:
        total, alive = np.zeros(len(rows)), np.arange(len(rows))
        for factor in self._order:
            if not len(alive):
                break
            asked = rows[alive]
            values = call(ask, factor, asked, of=factor, what=what, t=t, error=PotentialError)
            total[alive] += check_log_weights(values, source=name_of(factor), what=what, t=t, rows=asked)
            alive = alive[total[alive] > -np.inf]
        return total


def log_psi(potential: Potential, view: View) -> Tensor:
    """(R,) nats, what `potential` foresees of the rows in `view`. Raises ArgumentError if it gives no gradient."""
    if not isinstance(potential, Foresees):
        raise _without_gradient(potential)
    return potential.log_psi(view)


def _without_gradient(potential: Potential) -> ArgumentError:
    return ArgumentError(f"'{name_of(potential)}' gives no gradient to follow; guide by a reward, or by a twist")


def _raise(factor: Potential, exponent: float) -> Potential:
    return factor**exponent if isinstance(factor, Factor) else raise_to(factor, exponent)


@suggest_names()
def product(*potentials: Any) -> Factor:
    """The potential whose log-weights are the sums of those of `potentials`; none at all is the potential 1.

    Takes what `as_potential` takes: potentials of any class, and plain functions of the sample.
    """
    flat: list[Potential] = []
    for each in potentials:
        potential = as_potential(each)
        flat.extend(potential.factors if isinstance(potential, Factor) else (potential,))
    return flat[0] if len(flat) == 1 and isinstance(flat[0], Factor) else Product(flat)


_read_function: Callable[[Callable[..., Any]], Potential] | None = None


def set_function_reader(read: Callable[[Callable[..., Any]], Potential]) -> None:
    """Say what a plain function means where a potential is expected; `potentials.rewards` does so when it is imported.

    So products take functions, and nothing here needs to know how they are called.
    """
    global _read_function
    _read_function = read


def as_potential(source: Any) -> Potential:
    """A potential from a potential or from a function of the sample, which is a text or a decoded image.

    A function that returns bool is a constraint on whole samples; one that returns a number is a reward in nats,
    asked after every step. Raises ArgumentError for anything else.
    """
    if isinstance(source, type):
        raise ArgumentError(f"{source.__name__} is a class; pass an instance: {source.__name__}(...)")
    if isinstance(source, Potential):
        return source
    if callable(source) and _read_function is not None:
        return _read_function(source)
    advice = {
        str: "for a pattern use regex(...), for a list of answers choices([...])",
        dict: "for a JSON schema use json_schema(...)",
        list: "pass potentials one by one, or product(*them)",
        tuple: "pass potentials one by one, or product(*them)",
        int: "to weigh a potential more or less, raise it to a power: a ** 0.5",
        float: "to weigh a potential more or less, raise it to a power: a ** 0.5",
    }.get(type(source), "a potential has level(t, state, rows) and final(state, rows), or is a function of the sample")
    raise ArgumentError(f"{quote(source)} is no potential: {advice}")
