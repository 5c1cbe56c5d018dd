"""Preferences: pairs of texts of which one is more like the target, and the other more like the base.

Two texts come in both orders, with odds exp(r(x) - r(y)), where r is the log of target over base: the model of Bradley
and Terry. So the loss of DPO (Rafailov et al. 2023) with beta = 1 and the base as reference has its minimum at the
target itself, p(x) exp(r(x)) / Z; with another beta at p(x) exp(r(x) / beta) / Z'.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import AllParticlesDied, ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_particles, read_seed
from feynkac.base.writing import write_atomically
from feynkac.results.interval import is_of_target
from feynkac.results.ranking import merge_samples

if TYPE_CHECKING:
    from feynkac.results.result import Result


def list_preferences(
    result: Result, base: Result | None, pairs: int | None, seed: int | None, prompt: Any
) -> list[dict[str, Any]]:
    """See `Result.preferences`."""
    chosen = _list_texts(result, "this result", result.weights)
    if base is None and result.algorithm != "best_of_n":
        raise ArgumentError(
            f"preferences: the texts of algorithm={quote(result.algorithm)} are the target's, and none the base's; "
            "give base=, a result of the prompt alone (fk.steer(task, particles=...)), or make this one by 'best_of_n'"
        )
    other = result if base is None else base
    drawn = np.full(len(other.samples), 1.0 / len(other.samples)) if base is None else other.weights
    rejected = _list_texts(other, "base", drawn)
    continued = _find_prompt(result, base, prompt)
    listed = [(x, y, w * v) for x, w in chosen for y, v in rejected if x != y and w * v > 0.0]
    if not listed:
        raise ArgumentError(
            f"preferences: there is one distinct text only, {quote(chosen[0][0], 80)}, and a pair takes two; draw more "
            "particles, or loosen what weighs"
        )
    weights = np.array([weight for _, _, weight in listed])
    weights /= weights.sum()
    return [{**_write_pair(continued, *listed[i][:2]), "weight": weight} for i, weight in _draw(weights, pairs, seed)]


def _draw(weights: NDArray[np.float64], pairs: int | None, seed: int | None) -> list[tuple[int, float]]:
    """Which pairs, and their weights: all of them, or so many draws, each with an equal share."""
    if pairs is None:
        return list(enumerate(weights.tolist()))
    n = read_particles("preferences: pairs", pairs)
    rng = np.random.default_rng(read_seed("preferences: seed", seed))
    drawn = rng.choice(len(weights), size=n, p=weights)
    return [(int(i), 1.0 / n) for i in drawn]


def _list_texts(result: Result, name: str, weights: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Each distinct text with its weight. Raises ArgumentError, AllParticlesDied."""
    if wrong := [sample for sample in result.samples if not isinstance(sample, str)]:
        raise ArgumentError(
            f"preferences: the samples of {name} are of {type(wrong[0]).__name__}, and pairs are of texts; let the "
            "program return the text that is to be preferred"
        )
    if not is_of_target(result):
        raise ArgumentError(f"preferences: the run of {name} was stopped, and its texts are unfinished; run it again")
    if result.biased:
        raise ArgumentError(f"preferences: the proposal of {name} leaves its weights out; none say what is better")
    if not weights.any():
        raise AllParticlesDied(f"preferences: every particle of {name} died, so that there is nothing to prefer")
    return merge_samples(result.samples, weights)


def _find_prompt(result: Result, base: Result | None, given: Any) -> Any:
    """The text or the messages that the texts continue. Raises ArgumentError."""
    found = result.prompt if given is None else given
    if found is None:
        raise ArgumentError(
            "preferences: this result does not know what its texts continue, as those of programs; give prompt=, a "
            "text or a list of messages"
        )
    if not isinstance(found, str):
        listed = as_sequence(found)
        if not listed or not _are_messages(listed):
            raise ArgumentError(f"preferences: prompt is {quote(found, 80)}; give a text or a list of messages")
        found = listed
    if given is None and base is not None and base.prompt != result.prompt:
        raise ArgumentError(
            f"preferences: base continues {quote(base.prompt, 80)}, and this result {quote(found, 80)}; give both the "
            "same prompt, or say by prompt= what is to be trained"
        )
    return found


def _are_messages(found: Sequence[Any]) -> bool:
    return all(isinstance(each, Mapping) and "role" in each for each in found)


def _write_pair(prompt: Any, chosen: str, rejected: str) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    turns = [dict(each) for each in prompt]
    # An assistant's turn that is continued is part of what the assistant says: a prompt ends before it.
    begun = turns.pop() if turns[-1]["role"] == "assistant" else {"role": "assistant"}
    before = begun.get("content") or ""
    answers = ([{**begun, "content": f"{before}{text}"}] for text in (chosen, rejected))
    return {"prompt": turns, **dict(zip(("chosen", "rejected"), answers, strict=True))}


def write_lines(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write rows as lines of JSON."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
