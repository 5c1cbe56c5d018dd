"""What is asked for about sampling: together with the server's own settings, the law of a served model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_real

_OURS = ("model", "prompt", "max_tokens", "stop", "n", "best_of", "echo", "stream", "logprobs", "seed", "suffix")
"""Fields of a request that say what a piece is, not what its law is."""
_NAMED = ("temperature", "top_p")


@dataclass(frozen=True)
class Sampling:
    """Sampling options, as a request has them. Made by `read_sampling`."""

    temperature: float = 1.0
    top_p: float = 1.0
    extra: str = "{}"
    """Further fields of the request, as JSON."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a request. All are named, since servers have defaults of their own."""
        return {"temperature": self.temperature, "top_p": self.top_p, **json.loads(self.extra)}

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for but the law of the model."""
        return self == Sampling()

    @property
    def is_certain(self) -> bool:
        """Whether there is but one outcome."""
        return self.temperature == 0.0


def read_sampling(temperature: float, top_p: float, extra: Mapping[str, Any] | None) -> Sampling:
    """The options of `ServedLM.context`. Raises ArgumentError for what none can be."""
    temperature = read_real("temperature", temperature, 0.0, "; 0 takes the likeliest text")
    top_p = read_real("top_p", top_p, 0.0)
    if not 0.0 < top_p <= 1.0:
        raise ArgumentError(f"top_p is {top_p}; give a probability, above 0 and at most 1")
    if extra is not None and not isinstance(extra, Mapping):
        raise ArgumentError(f"extra is {quote(extra)}; give a dict of fields of the request, such as {{'top_k': 40}}")
    extra = dict(extra or {})
    if taken := [name for name in (*_OURS, *_NAMED) if name in extra]:
        whose = "an argument of context" if taken[0] in _NAMED else "set by feynkac itself"
        raise ArgumentError(f"extra names {quote(taken[0])}, which is {whose}; leave it out")
    try:
        return Sampling(temperature, top_p, json.dumps(extra, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as cause:
        raise ArgumentError(f"extra={quote(extra)} cannot be sent as JSON: {cause}") from cause
