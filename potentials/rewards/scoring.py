"""Calling a user's function of samples, and refusing by name what is no score."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import PotentialError, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

Convert: TypeAlias = Callable[[Any], float]
"""What a returned value means: the score that it stands for. Raises Unfit for what is none."""
Place: TypeAlias = Callable[[int], str]
"""The beginning of an error about the sample with this index."""


class Unfit(Exception):
    """What is wrong with a returned value, and what to return instead."""


def read_number(value: Any) -> float:
    """A score as a float; True counts 1."""
    if isinstance(value := unwrap(value), Real | Decimal):
        try:
            return float(value)
        except (OverflowError, ValueError):
            raise Unfit(f"{_describe(value)}; return a number that fits a float") from None
    raise Unfit(f"{_describe(value)}; return a number")


def read_bool(value: Any) -> float:
    """0 for True and -inf for False, in nats."""
    if not isinstance(value := unwrap(value), bool):
        raise Unfit(f"{_describe(value)}; a constraint returns True or False (for numbers use reward)")
    return 0.0 if value else -np.inf


def read_number_or_bool(value: Any) -> float:
    """A number as it is, a bool as a constraint, in nats."""
    return read_bool(value) if isinstance(unwrap(value), bool) else read_number(value)


def unwrap(value: Any) -> Any:
    """The Python number in a numpy number, and in an array or tensor with one entry; else `value` as it is."""
    single = hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1
    return value.item() if single else value


class Scorer:
    """A function of samples that cannot go wrong in silence: f of one sample, or with `batch` of all at once.

    `convert` says what counts as a score: `read_number`, `read_bool` or `read_number_or_bool`. Every method raises
    PotentialError naming the function, the step, the row and the sample if f raises, or returns anything else, NaN or
    +inf.
    """

    def __init__(self, f: Callable[..., Any], name: str, convert: Convert = read_number, batch: bool = False) -> None:
        self.name = name
        self.saw_bool = False
        """Whether a function of one sample has returned a bool."""
        self._f, self._convert, self._batch = f, convert, batch

    def score_texts(self, texts: Sequence[str], t: int | None, rows: Rows) -> NDArray[np.float64]:
        """(R,) scores of the texts of `rows`, at step `t` or at the end; f is asked about each distinct text once."""
        first: dict[str, int] = {}
        for i, text in enumerate(texts):
            first.setdefault(text, i)
        distinct = list(first)

        def place(i: int) -> str:
            return f"{self._start(t)}, row {rows[first[distinct[i]]]}, text {_shorten(distinct[i])!r},"

        scores, _ = self._ask(distinct, place, f"{self._start(t)}, asked about {len(distinct)} texts,")
        score_of = dict(zip(distinct, scores, strict=True))
        return np.array([score_of[text] for text in texts], dtype=np.float64)

    def score_tensors(self, x: Tensor, t: int | None, rows: Rows) -> Tensor:
        """(R,) float64 scores of samples or estimates `x` (R, ...) of `rows`, with their graph if f keeps one."""
        import torch

        sample = f"{'a' if self._batch else 'given one'} sample of shape {tuple(x.shape[1:])}"
        scores, returned = self._ask(
            x,
            lambda i: f"{self._start(t)}, row {rows[i]}, {sample},",
            f"{self._start(t)}, given {len(rows)} samples as a batch of shape {tuple(x.shape)},",
        )
        if isinstance(returned, torch.Tensor):
            return returned.double().reshape(-1) if returned.requires_grad else torch.as_tensor(scores, device=x.device)
        graphs = isinstance(returned, list | tuple) and any(getattr(each, "requires_grad", False) for each in returned)
        if graphs:
            return torch.stack([torch.as_tensor(each, device=x.device).double().reshape(()) for each in returned])
        return torch.as_tensor(scores, device=x.device)

    def _ask(self, samples: Any, place: Place, whole: str) -> tuple[NDArray[np.float64], Any]:
        """(R,) scores of R samples, and what f returned for them; `whole` begins an error about all of them."""
        if not len(samples):
            return np.zeros(0), []
        if self._batch:
            returned = self._call(samples, lambda: whole)
            return self._convert_batch(returned, len(samples), place, whole), returned
        values, scores = list[Any](), np.empty(len(samples))
        for i, sample in enumerate(samples):
            values.append(self._call(sample, lambda i=i: place(i)))
            self.saw_bool |= isinstance(unwrap(values[i]), bool)
            scores[i] = self._convert_one(values[i], i, place)
        return scores, values

    def _call(self, argument: Any, where: Callable[[], str]) -> Any:
        try:
            return self._f(argument)
        except Exception as cause:
            less = "; give the model a smaller batch=, and f gets fewer at a time" if is_out_of_memory(cause) else ""
            raise PotentialError(f"{where()} raised {type(cause).__name__}: {cause}{less}") from cause

    def _convert_one(self, value: Any, i: int, place: Place) -> float:
        try:
            score = self._convert(value)
        except Unfit as problem:
            raise PotentialError(f"{place(i)} returned {problem}") from None
        if np.isnan(score) or score == np.inf:
            raise PotentialError(f"{place(i)} returned {score}; return a finite number, or -inf to kill a particle")
        return score

    def _convert_batch(self, returned: Any, n: int, place: Place, whole: str) -> NDArray[np.float64]:
        wanted = f"return one number for each sample, of shape ({n},)"
        original = returned
        if hasattr(returned, "detach"):  # a torch tensor, maybe on a device, with a gradient, or in half precision
            returned = returned.detach()
            returned = (returned.double() if returned.is_floating_point() else returned).cpu().numpy()
        try:
            count = len(returned)
        except TypeError:
            raise PotentialError(f"{whole} returned {_describe(original)}; {wanted}") from None
        if isinstance(returned, (str, bytes, dict)) or count != n:
            raise PotentialError(f"{whole} returned {count} values; {wanted}")
        if isinstance(returned, np.ndarray) and returned.shape == (n, 1):  # as models with one output return it
            returned = returned[:, 0]
        if isinstance(returned, np.ndarray) and returned.ndim == 1:  # all at once, unless there is something to refuse
            if self._convert is read_bool and returned.dtype == np.bool_:
                return np.where(returned, 0.0, -np.inf)
            if returned.dtype.kind in "fiu" and self._convert is read_number:
                scores = returned.astype(np.float64)
                if not (np.isnan(scores) | (scores == np.inf)).any():
                    return scores
        return np.array([self._convert_one(value, i, place) for i, value in enumerate(returned)], dtype=np.float64)

    def _start(self, t: int | None) -> str:
        when = "at the end" if t is None else "before the first step" if t < 0 else f"at step {t}"
        return f"'{self.name}' {when}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:38]} ... {text[-38:]}"


def _describe(value: Any) -> str:
    if inspect.iscoroutine(value):
        value.close()  # else Python warns that nobody has awaited it
        return "a coroutine, which only an event loop can run; run it with asyncio.run inside of the function"
    if getattr(value, "ndim", 0):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r}"[:80]
