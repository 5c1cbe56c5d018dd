"""Where pieces of text end: behind a word, a sentence, or one of some strings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.unicode import check_unicode
from feynkac.models.served.pieces import find_first
from feynkac.models.served.questions import Ending
from feynkac.potentials.rewards.boundaries import boundaries

_CHUNKS = {"word": 8, "sentence": 40}
"""Tokens to ask for at a time: a little more than most units take."""


def read_ending(until: str | Sequence[str] | None, unit: str | None) -> Ending | None:
    """What `ServedContext.gen` is given; None where only the limit ends a piece. Raises ArgumentError."""
    if until is not None and unit is not None:
        raise ArgumentError("gen takes one of until and unit, not both")
    if unit is not None:
        if unit not in _CHUNKS:
            raise ArgumentError(f"unit={quote(unit)}: choose 'word' or 'sentence'")
        return _find_unit(unit)
    if until is None:
        return None
    stops = (until,) if isinstance(until, str) else tuple(until)
    if not stops or not all(isinstance(stop, str) and stop for stop in stops):
        raise ArgumentError(f"until={quote(until)}: give a string that is not empty, or a list of such")
    for stop in stops:
        check_unicode(stop, "until")
    return _find_strings(stops)


@lru_cache
def _find_unit(unit: Any) -> Ending:
    return Ending(unit, lambda text: next(iter(boundaries(text, 0, unit)), None), chunk=_CHUNKS[unit], foresees=True)


@lru_cache
def _find_strings(stops: tuple[str, ...]) -> Ending:
    return Ending(f"until {', '.join(map(repr, stops))}", lambda text: find_first(stops, text), stops)
