"""Calling a user's function on decoded samples, and refusing by name what is no score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.contract import Rows
from feynkac.base.errors import PotentialError, is_out_of_memory
from feynkac.potentials.rewards.scoring import bare, converted, number

Scorer: TypeAlias = Callable[[Tensor, int | None, Rows], Tensor]
"""(samples or estimates (R, ...), step or None at the end, rows) -> (R,) float64 scores, with their graph if any."""


class OneByOne:
    """A function of one sample made safe. `convert` says what counts as a score (see `potentials.scoring`)."""

    def __init__(self, f: Callable[[Tensor], Any], name: str, convert: Callable[[Any], float] = number) -> None:
        self.name, self.saw_bool = name, False
        self._f, self._convert = f, convert

    def __call__(self, x: Tensor, t: int | None, rows: Rows) -> Tensor:
        """Raises PotentialError naming the function, the step and the row."""
        where = [f"'{self.name}'{step(t)}, row {row}, given one sample of shape {tuple(x.shape[1:])}," for row in rows]
        scores = [self._one(sample, place) for sample, place in zip(x, where, strict=True)]
        if any(isinstance(score, Tensor) for score in scores):
            return torch.stack([torch.as_tensor(score, dtype=torch.float64, device=x.device) for score in scores])
        return torch.tensor(scores, dtype=torch.float64, device=x.device)

    def _one(self, sample: Tensor, where: str) -> Tensor | float:
        value = called(self._f, sample, where)
        self.saw_bool |= isinstance(bare(value), bool)
        score = converted(value, self._convert, where)
        return value if isinstance(value, Tensor) and value.requires_grad else score


class Batched:
    """A function of R samples at once made safe: it returns R numbers, or R truth values if `truth`."""

    def __init__(self, f: Callable[[Tensor], Any], name: str, *, truth: bool = False) -> None:
        self.name, self._f, self._truth = name, f, truth

    def __call__(self, x: Tensor, t: int | None, rows: Rows) -> Tensor:
        """Raises PotentialError naming the function, the step and the row."""
        where = f"'{self.name}'{step(t)}, given {len(rows)} samples as a batch of shape {tuple(x.shape)},"
        returned = called(self._f, x, where)
        values = self._values(returned, where, len(rows))
        if self._truth:
            return torch.as_tensor(np.where(values, 0.0, -np.inf), device=x.device)
        if len(bad := np.flatnonzero(np.isnan(values) | (values == np.inf))):
            raise PotentialError(
                f"{where} returned {values[bad[0]]} for row {rows[bad[0]]}; return finite numbers, or -inf to kill a "
                "particle"
            )
        return returned.double() if isinstance(returned, Tensor) else torch.as_tensor(values, device=x.device)

    def _values(self, returned: Any, where: str, n: int) -> np.ndarray:
        plain = returned.detach().cpu() if isinstance(returned, Tensor) else returned
        wanted = "one truth value a sample (for numbers use reward)" if self._truth else "one number a sample"
        try:
            values = np.asarray(plain) if self._truth else np.asarray(plain, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):
            raise PotentialError(f"{where} returned {type(returned).__name__}; return {wanted}") from None
        if values.shape != (n,) or (self._truth and values.dtype != np.bool_):
            raise PotentialError(
                f"{where} returned {values.dtype} values of shape {values.shape}; return {wanted}, of shape ({n},)"
            )
        return values


def called(f: Callable[[Tensor], Any], x: Tensor, where: str) -> Any:
    """f(x). Raises PotentialError, beginning with `where`, if f raises."""
    try:
        return f(x)
    except Exception as cause:
        less = "; give the model a smaller batch=, and f gets fewer at a time" if is_out_of_memory(cause) else ""
        raise PotentialError(f"{where} raised {type(cause).__name__}: {cause}{less}") from cause


def step(t: int | None) -> str:
    """When a function was asked, for an error."""
    return " at the end" if t is None else " before the first step" if t < 0 else f" at step {t}"
