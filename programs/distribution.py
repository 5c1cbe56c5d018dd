"""What a program can sample from, observe, and propose from: the contract of a distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from feynkac.base.errors import ProgramError, quote

T = TypeVar("T")


class Interval(NamedTuple):
    """A support without end of values, from `low` to `high`."""

    low: float
    high: float


class Distribution(Generic[T]):
    """What `p.sample` and `p.observe` take. A subclass of your own needs `key`, `draw` and `log_prob`.

    It has no truth value and stands in no f-string, and one of a context has no text and equals no value: whoever asks
    means what `p.sample` gives, and is told so by a ProgramError.
    """

    __slots__ = ("key",)
    key: Any
    """What must be equal when the program is run again: the name and the parameters."""
    composite = False
    """Whether a value takes several requests, which `run` makes."""
    in_context = False
    """Whether a value depends on the logits of a context."""

    def draw(self, u: Any) -> T:
        """The value at a uniform `u` in [0, 1), found by comparisons where the support is finite."""
        raise NotImplementedError

    def log_prob(self, value: Any) -> float:
        """The log-probability or log-density of `value`, in nats; -inf outside of the support."""
        raise NotImplementedError

    def support(self) -> Iterable[Any] | Interval | None:
        """The values of positive probability, or the interval of a density; None where it is not known."""
        return None

    def convert(self, value: Any) -> Any:
        """An observed `value` in the form that `draw` gives."""
        return value

    def find_missed(self, proposal: Distribution) -> tuple[Any] | None:
        """A value that this may take and `proposal` cannot, as a 1-tuple; None where there is none that can be told."""
        wanted = self.support()
        offered = proposal.support()
        if wanted is None or offered is None:
            return None
        if not isinstance(wanted, Interval):
            return next(((x,) for x in wanted if proposal.log_prob(x) == -math.inf), None)
        if not isinstance(offered, Interval):
            return (f"a number from {wanted.low} to {wanted.high}",)
        if wanted.low < offered.low:
            return (wanted.low,)
        return (wanted.high,) if wanted.high > offered.high else None

    def settle(self, u: Any, pin: Any, answer: Any) -> tuple[Any, float | None, Any, float]:
        """The value at `u` (or that of a record `pin`), its log-probability if known, where it leads, the increment."""
        return self.draw(u) if pin is None else pin.value, None, None, 0.0

    def follow(self, after: Any, value: Any) -> Any:
        """The recorded `value` as a replay gives it to the program; `after` is where it led."""
        return value

    def run(self, p: Any) -> T:
        """A value of a composite distribution, by samples and weights of the particle `p`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        name, *parameters = self.key
        return f"{name}({', '.join(map(str, parameters))})"

    def __str__(self) -> str:
        return repr(self) if self.is_plain else self._refuse("has no text")

    def __format__(self, spec: str) -> str:
        return self._refuse("has no text")

    def __bool__(self) -> bool:
        return self._refuse("is neither true nor false")

    def __eq__(self, other: object) -> bool:
        if self.is_plain or isinstance(other, Distribution):
            return self is other
        return self._refuse(f"is not to be compared with {quote(other)}")

    __hash__ = object.__hash__

    @property
    def is_plain(self) -> bool:
        """Whether it means something by itself, and not only as what a program samples from a context."""
        return not (self.composite or self.in_context)

    def _refuse(self, what: str) -> NoReturn:
        raise ProgramError(
            f"{quote(self)} {what}: it was never sampled, p.sample is missing; write x = "
            "p.sample(...) around it, and use x"
        )
