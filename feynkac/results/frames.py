"""A result as data frames of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.base.words import is_word

if TYPE_CHECKING:
    from pandas import DataFrame

    from feynkac.results.result import Result

KINDS = ("samples", "tokens", "steps")


def make_frame(result: Result, of: str) -> DataFrame:
    """See `Result.to_pandas`."""
    if not is_word(of, KINDS):
        raise ArgumentError(f"to_pandas(of={quote(of)}): choose one of {', '.join(map(repr, KINDS))}")
    with needing("pandas", "data frames are those of pandas"):
        from pandas import DataFrame, Series
    columns = {"samples": _list_samples, "tokens": _list_tokens, "steps": _list_steps}[of](result)
    if of == "samples":  # which may be lists or arrays, whose insides are no columns
        columns["sample"] = Series(dict(enumerate(result.samples)), dtype=object)
    frame = DataFrame(columns)
    frame.index.name = {"samples": "row", "tokens": None, "steps": "step"}[of]
    return frame


def _list_samples(result: Result) -> dict[str, Any]:
    columns = {"sample": result.samples, "weight": result.weights, "log_weight": result.log_weights}
    return columns if result.log_probs is None else {**columns, "log_prob": result.log_probs}


def _list_tokens(result: Result) -> dict[str, Any]:
    if result.token_log_probs is None:
        raise ArgumentError("to_pandas(of='tokens'): the model of this result tells of no tokens; take of='samples'")
    told = [
        (row, at, piece, nats)
        for row, line in enumerate(result.token_log_probs)
        for at, (piece, nats) in enumerate(line)
    ]
    return {name: [each[i] for each in told] for i, name in enumerate(("row", "position", "token", "log_prob"))}


def _list_steps(result: Result) -> dict[str, Any]:
    history = result.history
    resampled = set(history.resampled)
    return {
        "ess": history.ess,
        "log_evidence": history.log_evidence,
        "unique_ancestors": history.unique_ancestors,
        "resampled": [t in resampled for t in range(len(history.ess))],
    }
