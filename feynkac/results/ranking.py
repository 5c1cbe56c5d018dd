"""Equal samples taken together, and samples in the order of their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from numbers import Number
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

TIE = 1e-4
"""Nats by which the log-weights of equal rewards may differ: a language model's logits are float32."""


@runtime_checkable
class _HasFields(Protocol):
    """A model of pydantic: its values are in its dictionary."""

    __pydantic_fields__: Mapping[str, Any]


class _ByEquality:
    """An object equal to one of its own class that says so; to itself only where its own comparison raises."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __hash__(self) -> int:
        try:
            return hash(self._value)
        except Exception:  # it has none
            return hash(type(self._value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ByEquality) or type(other._value) is not type(self._value):
            return False
        if self._value is other._value:
            return True
        try:
            equal = self._value == other._value
        except Exception:
            return False
        return isinstance(equal, bool | np.bool_) and bool(equal)


def make_key(sample: Any) -> Hashable:
    """What is equal for equal samples: lists, dicts and objects by what is in them, 1, True and 1.0 as three.

    Arrays of numpy are equal with the same shape, type and numbers; tensors, what holds itself, and what raises as it
    is looked into, only as the same object.
    """
    try:
        return _make_key(sample)
    except Exception:
        return type(sample), id(sample)


def _make_key(sample: Any) -> Hashable:
    if isinstance(sample, str | bytes):
        return sample
    if isinstance(sample, np.generic):
        return _make_key(sample.item())
    if isinstance(sample, Number):
        return type(sample), str(sample) if _is_nan(sample) else sample
    if isinstance(sample, np.ndarray):
        if sample.dtype == object:
            content = tuple(map(_make_key, sample.ravel()))
        else:
            # -0.0 equals 0.0, but has other bytes.
            content = (sample + sample.dtype.type(0) if sample.dtype.kind in "fc" else sample).tobytes()
        return np.ndarray, sample.shape, sample.dtype.str, content
    return _make_composite_key(sample)


def _is_nan(number: Any) -> bool:
    """Whether a number of any kind, Decimal and complex among them, is none."""
    return bool(number != number)


def _make_composite_key(sample: Any) -> Hashable:
    kind = type(sample)
    if isinstance(sample, list | tuple):
        return kind, tuple(map(_make_key, sample))
    if isinstance(sample, Set):
        return kind, frozenset(map(_make_key, sample))
    if isinstance(sample, dict):
        return kind, frozenset((_make_key(name), _make_key(value)) for name, value in sample.items())
    if dataclasses.is_dataclass(sample) and kind.__eq__ is not object.__eq__:
        return kind, tuple(
            _make_key(getattr(sample, field.name)) for field in dataclasses.fields(sample) if field.compare
        )
    if isinstance(sample, _HasFields):
        return kind, _make_key(vars(sample))
    return _ByEquality(sample)


class Posterior(Mapping[Any, float]):
    """The probability of each distinct sample, the likeliest first: like a dict, for samples that have no hash, too."""

    def __init__(self, entries: Sequence[tuple[Any, float]]) -> None:
        self._entries = {make_key(sample): (sample, share) for sample, share in entries}

    def __getitem__(self, sample: Any) -> float:
        try:
            return self._entries[make_key(sample)][1]
        except KeyError:
            raise KeyError(sample) from None

    def __iter__(self) -> Iterator[Any]:
        return (sample for sample, _ in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping) or len(other) != len(self):
            return False
        return all(sample in self and self[sample] == share for sample, share in other.items())

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{sample!r}: {share!r}' for sample, share in self._entries.values())}}}"


def make_posterior(entries: Sequence[tuple[Any, float]]) -> Mapping[Any, float]:
    """A dict of distinct samples, or a `Posterior` where a dict cannot hold them, or would take some for the same."""
    try:
        plain = dict(entries)
    except Exception:  # they have no hash, or raise where they are compared
        return Posterior(entries)
    lost = len(plain) < len(entries) or any(isinstance(sample, Number) and _is_nan(sample) for sample in plain)
    return Posterior(entries) if lost else plain


def rank_samples(samples: Sequence[Any], weights: NDArray[np.float64]) -> list[tuple[Any, float]]:
    """Each distinct sample that has weight, with all of it, the heaviest first."""
    return sorted([entry for entry in merge_samples(samples, weights) if entry[1] > 0.0], key=lambda entry: -entry[1])


def find_top(samples: Sequence[Any], log_weights: NDArray[np.float64]) -> Any:
    """The sample with the largest log-weight; of those within `TIE` of it the one that is there most often."""
    top = np.flatnonzero(log_weights >= log_weights.max() - TIE)
    return max(merge_samples([samples[i] for i in top.tolist()], np.ones(len(top))), key=lambda entry: entry[1])[0]


def merge_samples(samples: Sequence[Any], weights: NDArray[np.float64]) -> list[tuple[Any, float]]:
    """Equal samples with their weights added (see `make_key`)."""
    total: dict[Hashable, tuple[Any, float]] = {}
    for sample, weight in zip(samples, weights.tolist(), strict=True):
        key = make_key(sample)
        first, before = total.get(key, (sample, 0.0))
        total[key] = (first, before + weight)
    return list(total.values())
