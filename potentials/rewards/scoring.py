"""Calling a user's function on texts, and refusing by name what is no score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import PotentialError


class Unfit(Exception):
    """What is wrong with a returned value, and what to return instead."""


def bare(value: Any) -> Any:
    """The Python number in a numpy number, and in an array or tensor without dimensions; else `value` as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def number(value: Any) -> float:
    """A score as a float; True counts 1."""
    if isinstance(value := bare(value), Real):
        return float(value)
    raise Unfit(f"{_kind(value)}; return a number")


def boolean(value: Any) -> float:
    """0 for True and -inf for False, in nats."""
    if not isinstance(value := bare(value), bool):
        raise Unfit(f"{_kind(value)}; a constraint returns True or False (for numbers use reward)")
    return 0.0 if value else -np.inf


def plain(value: Any) -> float:
    """A number as it is, a bool as a constraint, in nats."""
    return boolean(value) if isinstance(bare(value), bool) else number(value)


class Scorer:
    """A function of texts made safe: (texts, step, rows) -> (R,) float64 scores, each distinct text asked once."""

    def __init__(
        self, f: Callable[..., Any], *, name: str, convert: Callable[[Any], float], batch: bool = False
    ) -> None:
        self.name, self.saw_bool = name, False
        self._f, self._convert, self._batch = f, convert, batch

    def __call__(self, texts: Sequence[str], t: int | None, rows: Rows) -> NDArray[np.float64]:
        """Raises PotentialError naming the function, the step, the row and the text."""
        first: dict[str, int] = {}
        for i, text in enumerate(texts):
            first.setdefault(text, i)
        where = {text: self._where(t, int(rows[i]), text) for text, i in first.items()}
        returned = self._all(where, t) if self._batch else [self._one(text, where[text]) for text in where]
        scores = {text: self._value(value, where[text]) for text, value in zip(where, returned, strict=True)}
        return np.array([scores[text] for text in texts], dtype=np.float64)

    def _one(self, text: str, where: str) -> Any:
        try:
            return self._f(text)
        except Exception as cause:
            raise PotentialError(f"{where} raised {type(cause).__name__}: {cause}") from cause

    def _all(self, where: dict[str, str], t: int | None) -> list[Any]:
        if not where:
            return []
        start = f"'{self.name}'{_step(t)}, asked about {len(where)} texts,"
        try:
            returned = self._f(list(where))
        except Exception as cause:
            raise PotentialError(f"{start} raised {type(cause).__name__}: {cause}") from cause
        if hasattr(returned, "detach"):  # a torch tensor, maybe on a device and with a gradient
            returned = returned.detach().cpu().numpy()
        try:
            values = list(returned)
        except TypeError as cause:
            raise PotentialError(f"{start} returned {_kind(returned)}; return one number for each text") from cause
        if isinstance(returned, (str, bytes, dict)) or len(values) != len(where):
            raise PotentialError(f"{start} returned {len(values)} values; return one number for each text")
        return values

    def _value(self, value: Any, where: str) -> float:
        self.saw_bool |= isinstance(bare(value), bool)
        return converted(value, self._convert, where)

    def _where(self, t: int | None, row: int, text: str) -> str:
        shown = text if len(text) <= 80 else f"{text[:38]} ... {text[-38:]}"
        return f"'{self.name}'{_step(t)}, row {row}, text {shown!r},"


def converted(value: Any, convert: Callable[[Any], float], where: str) -> float:
    """The score that `value` stands for. Raises PotentialError, beginning with `where`, for what is none."""
    try:
        score = convert(value)
    except Unfit as problem:
        raise PotentialError(f"{where} returned {problem}") from None
    if np.isnan(score) or score == np.inf:
        raise PotentialError(f"{where} returned {score}; return a finite number, or -inf to kill a particle")
    return score


def _step(t: int | None) -> str:
    return " at the end of a text" if t is None else f" at step {t}"


def _kind(value: Any) -> str:
    if getattr(value, "ndim", 0):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r}"[:80]
