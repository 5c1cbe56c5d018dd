"""What the page knows of a result: words, samples and numbers, ready for JSON, with nothing in them that acts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.escaping import escape
from feynkac.base.words import is_word
from feynkac.results.interval import is_of_target
from feynkac.results.pages.lineage import list_populations, pack_history
from feynkac.results.pages.packing import join, pack, pack_whole, pack_words
from feynkac.results.pages.thumbnails import draw_images, draw_molecules
from feynkac.results.pictures.particles import KINDS, Kind, kind_of
from feynkac.results.ranking import make_key
from feynkac.results.summary import tell_evidence
from feynkac.results.text import write_sample

if TYPE_CHECKING:
    from feynkac.results.result import Result

LONGEST = 20_000
"""Characters of a sample that are shown."""


def tell_result(result: Result, kind: Kind | None) -> dict[str, Any]:
    """All that the page shows of `result`. Raises ArgumentError for samples that are not of that `kind`."""
    if kind is not None and not is_word(kind, KINDS):
        raise ArgumentError(f"to_html(kind={quote(kind)}): choose one of {', '.join(map(repr, KINDS))}, or None")
    populations = list_populations(result)
    shown = kind or (kind_of(result.samples) if result.samples else "texts")
    return {
        "title": _tell_title(result, populations),
        "kind": "images" if shown == "molecules" else shown,
        "prompt": [_tell_turn(turn) for turn in _list_turns(result)],
        "facts": _tell_facts(result),
        "warnings": [escape(warning, keep="\n") for warning in result.warnings],
        "islands": count_islands(result),
        "populations": populations,
        "weights": pack(result.weights, "f8"),
        **_tell_samples(result, shown),
        **pack_history(result.history),
    }


def count_islands(result: Result) -> int:
    """Populations that never mixed, as far as the result tells; 1 for chains, which are populations of their own."""
    found = result.diagnostics
    return len(found.log_parts) if found is not None and result.history.resampled and not result.history.sweeps else 1


def _tell_title(result: Result, populations: Sequence[Any]) -> str:
    n = len(result.history.rows[-1]) if populations else len(result.samples)
    parts = [result.algorithm, f"{n} particle{'s' * (n != 1)}"]
    if len(populations) > 1:
        parts.append(f"{len(populations)} sweeps")
    elif populations:
        parts.append(f"{len(result.history.rows)} steps")
    if (islands := count_islands(result)) > 1:
        parts.append(f"{islands} islands")
    if result.seed is not None:
        parts.append(f"seed {result.seed}")
    return escape(", ".join(parts))


def _list_turns(result: Result) -> list[tuple[str, Any]]:
    """The prompt as turns of a chat: who speaks, and what."""
    if isinstance(result.prompt, str):
        return [("", result.prompt)]
    return [(str(each.get("role", "")), each.get("content") or "") for each in result.prompt or ()]


def _tell_turn(turn: tuple[str, Any]) -> dict[str, str]:
    role, said = turn
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str)
    return {"role": escape(role), "text": escape(text, keep="\n\t")}


def _tell_facts(result: Result) -> list[dict[str, str]]:
    """Figures for the head of the page, each with what is to be said of it."""
    evidence, _, where = tell_evidence(result).removeprefix("log evidence ").partition(" nats")
    n, steps, timing = len(result.samples), len(result.history.ess), result.timing
    work = f"model {timing.model:.2f}, potentials {timing.potentials:.2f}"
    facts = [
        {"name": "log evidence, nats", "value": evidence.replace("-", "−"), "note": where.strip(", ")},
        {
            "name": "effective sample size",
            "value": f"{result.ess:.1f} of {n}",
            "note": f"resampled at {len(result.history.resampled)} of {steps} steps" if steps > 1 else "",
        },
        {"name": "seconds", "value": f"{timing.total:.2f}", "note": work},
    ]
    if result.forwarded_tokens is not None:
        rate = f"{result.forwarded_tokens / timing.total:,.0f} a second" if timing.total else ""
        facts.append({"name": "tokens forwarded", "value": f"{result.forwarded_tokens:,}", "note": rate})
    if not result.complete:
        note = "" if is_of_target(result) else "the weights are for the target so far"
        facts.append({"name": "state", "value": "stopped early", "note": note})
    return facts


def _tell_samples(result: Result, kind: Kind) -> dict[str, Any]:
    """Each distinct sample once, which one each particle is, and whether it had ended."""
    found: dict[Any, tuple[int, Any]] = {}
    which = [found.setdefault(make_key(sample), (len(found), sample))[0] for sample in result.samples]
    pieces, whole = result.history.pieces, is_of_target(result)
    told = not whole and bool(pieces) and len(pieces[-1]) == len(which)
    done = [piece == "" for piece in pieces[-1]] if told else [whole] * len(which)
    return {
        "tokens": _tell_tokens(result),
        "totals": None if result.log_probs is None else pack(result.log_probs, "f8"),
        "samples": _draw_samples([sample for _, sample in found.values()], kind),
        "sample_of": pack_whole(which),
        "done": [int(each) for each in done],
    }


def _tell_tokens(result: Result) -> dict[str, Any] | None:
    """The tokens of each sample, where the steps do not tell them: after moves, or without pieces."""
    told, history = result.token_log_probs, result.history
    if told is None or (history.pieces and not any(history.moved)):
        return None
    return {
        "lengths": pack_whole([len(line) for line in told]),
        "texts": pack_words([[text for text, _ in line] for line in told]),
        "log_probs": pack(join([[nats for _, nats in line] for line in told], np.float64), "f4"),
    }


def _draw_samples(samples: Sequence[Any], kind: Kind) -> list[dict[str, Any]]:
    """The text of each sample and, of images and molecules, its picture."""
    if not samples:
        return []
    try:
        texts = [_write_sample(sample, kind, i) for i, sample in enumerate(samples)]
        if kind == "images":
            pictures: Sequence[str | None] = draw_images(samples)
        elif kind == "molecules":
            pictures = draw_molecules([write_sample(sample) for sample in samples])
        else:
            return [{"text": text} for text in texts]
    except (AttributeError, TypeError, ValueError, IndexError) as cause:
        raise ArgumentError(f"these samples cannot be drawn as {kind}: {cause}") from cause
    return [{"text": text, "picture": uri} for text, uri in zip(texts, pictures, strict=True)]


def _write_sample(sample: Any, kind: Kind, number: int) -> str:
    if kind == "images":
        return f"image {number}"
    if kind in ("points", "numbers"):
        values = [sample] if isinstance(sample, int | float) else sample.ravel()
        return ", ".join(f"{float(value):.6g}" for value in values)
    text = escape(write_sample(sample), keep="\n\t")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … and {len(text) - LONGEST:,} more characters"
