"""Numbers of a schema that llguidance, which counts in 64 bits, would take for others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from feynkac.potentials.constraints.schemas.walking import rewrite, walk

_EXACT = 2**53
"""Up to here every whole number is a double."""
_LARGEST = 9e18  # nearly 2^63; beyond, llguidance has no ranges
_REMAINDERS = 100_000
"""A larger divisor is left to the check: llguidance takes half a minute for two millions."""
_MERGED = ("allOf", "anyOf", "oneOf", "$ref")
"""Where these stand, llguidance may divide by the least common multiple of several."""
_BOUNDS = {"minimum": -math.inf, "exclusiveMinimum": -math.inf, "maximum": math.inf, "exclusiveMaximum": math.inf}
"""Bounds, and where they are loosened to."""


def loosen_amounts(schema: Any) -> tuple[Any, list[str]]:
    """`schema` with numbers that are exact in llguidance, which lets more through, and the places of what changed."""
    places, large = list[str](), _find_large(schema)

    def change(path: str, inner: dict[str, Any]) -> dict[str, Any]:
        made = dict[str, Any]()
        for key, value in inner.items():
            instead = ({} if value in large else None) if key == "multipleOf" else _loosen(key, value, inner)
            made |= {key: value} if instead is None else instead
            places.extend([] if instead is None else [f"{path}/{key}"])
        return made

    return rewrite(schema, change), places


def _loosen(key: str, value: Any, schema: dict[str, Any]) -> dict[str, Any] | None:
    """The keywords in the place of one; None where it stays."""
    if key in _BOUNDS and isinstance(value, int | float) and not isinstance(value, bool):
        bound = _round(value, _BOUNDS[key])
        return None if bound == value else {} if bound is None else {key: bound}
    given = [value] if key == "const" else value if key == "enum" and isinstance(value, list | tuple) else []
    if all(map(_is_exact, given)):
        return None
    return {} if "type" in schema else {"type": sorted({name_type(each) for each in given})}


def _find_large(schema: Any) -> list[Any]:
    """The divisors that are left out so that no automaton has too many states, the largest first."""
    schemas = [inner for _, inner in walk(schema)]
    merge = any(key in inner for inner in schemas for key in _MERGED)
    given = [value for inner in schemas if (value := inner.get("multipleOf")) is not None and _is_finite(value)]
    kept, large = list[Any](), list[Any]()
    for divisor in sorted(given, key=lambda each: _count_remainders([each])):
        if _count_remainders([*kept, divisor] if merge else [divisor]) > _REMAINDERS:
            large.append(divisor)
        elif divisor not in kept:
            kept.append(divisor)
    return large


def _is_finite(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (isinstance(value, float) and math.isfinite(value))


def _count_remainders(divisors: Sequence[int | float]) -> int:
    """The states of an automaton that divides by all of them: their common multiple in the last decimal place."""
    exact = [Fraction(str(each)) if isinstance(each, float) else Fraction(each) for each in divisors]
    unit = 1
    while any(unit % each.denominator for each in exact):
        unit *= 10
    return math.lcm(*(abs(int(each * unit)) for each in exact))


def _round(value: float, away: float) -> float | None:
    """The nearest double on the side of `away`; None where llguidance has none."""
    if abs(value) > _LARGEST:
        return None
    bound = float(value)
    return bound if bound == value or (bound < value) == (away < 0) else math.nextafter(bound, away)


def _is_exact(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(map(_is_exact, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or abs(value) <= _EXACT


def name_type(value: Any) -> str:
    """The type of a JSON value, "number" of whole ones, too."""
    for kind, name in ((bool, "boolean"), ((int, float), "number"), (str, "string"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "array"
