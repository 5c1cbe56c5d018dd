"""The history of a run as the page has it: which steps belong together, the family tree, and what each particle did."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ArgumentError
from feynkac.results.history import History
from feynkac.results.pages.packing import fits, join, pack, pack_whole, pack_words

if TYPE_CHECKING:
    from feynkac.results.result import Result


def list_populations(result: Result) -> list[dict[str, Any]]:
    """Runs of steps with a tree of their own: "start", "end", "label", and "first_row", the sample of their first slot.

    There is one, or under particle Gibbs one a sweep. `first_row` is None where a population is not among the samples,
    as the first sweep of each chain.
    """
    history, samples = result.history, len(result.samples)
    if not history.rows:
        return []
    if not history.sweeps:
        here = len(history.rows[-1]) == samples
        return [{"start": 0, "end": len(history.rows), "label": "the run", "first_row": 0 if here else None}]
    ends = [*history.sweeps[1:], len(history.rows)]
    sizes = [len(history.rows[end - 1]) for end in ends]
    kept = _find_kept(sizes, [history.ess[end - 1] > 0.0 for end in ends], samples, result.complete)
    first_rows = itertools.accumulate((size * here for size, here in zip(sizes, kept, strict=True)), initial=0)
    return [
        {"start": start, "end": end, "label": f"sweep {k + 1} of {len(ends)}", "first_row": first if here else None}
        for k, (start, end, first, here) in enumerate(zip(history.sweeps, ends, first_rows, kept, strict=False))
    ]


def _find_kept(sizes: list[int], alive: list[bool], samples: int, complete: bool) -> list[bool]:
    """Which sweeps the samples are those of: all, or all but the first of each chain, as far as their number tells.

    A chain that died did so in its only sweep. Several chains that were stopped need not be as long as each other; then
    no sweep is known.
    """
    if sum(sizes) == samples:
        return [True] * len(sizes)
    living = sum(alive)
    chains = living - samples // max(sizes[0], 1)
    if chains < 1 or living % chains or len(set(sizes)) > 1 or (chains > 1 and not complete):
        return [False] * len(sizes)
    rank = itertools.accumulate(alive)  # from 1, of the living
    return [here and (k - 1) % (living // chains) > 0 for k, here in zip(rank, alive, strict=True)]


def pack_history(history: History) -> dict[str, Any]:
    """The family tree, and what each particle of each step did, as far as it is known.

    A slot whose parent is the same slot costs nothing. Raises ArgumentError for a history that is no tree.
    """
    sizes = [len(each) for each in history.rows]
    parents, usual = join(history.rows, np.int64), join([range(size) for size in sizes], np.int64)
    before = np.repeat([0, *sizes[:-1]], sizes) if sizes else parents
    starts = np.isin(np.repeat(np.arange(len(sizes)), sizes), [0, *history.sweeps])
    wrong = np.flatnonzero(~starts & ((parents < 0) | (parents >= before)))
    if len(wrong):
        step = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
        raise ArgumentError(f"history.rows is no family tree: step {step} names a parent that step {step - 1} lacks")
    changed = np.flatnonzero(~starts & ((parents != usual) | (usual >= before)))
    numbers = {
        "levels": history.levels,
        "log_probs": history.log_probs,
        "increments": history.increments,
        "log_weights": history.log_weights,
    }
    return {
        "sizes": pack_whole(sizes),
        "changed": pack_whole(changed),
        "parents": pack_whole(parents[changed]),
        **{name: pack(join(each, np.float64), "f4") for name, each in numbers.items() if fits(each, sizes)},
        "pieces": pack_words(history.pieces) if fits(history.pieces, sizes) else None,
        "killers": pack_words(history.killers) if fits(history.killers, sizes) else None,
        "rewritten": _pack_rewritten(history.moved, sizes),
        "traces": _pack_traces(history, len(sizes)),
        "resampled": history.resampled,
    }


def _pack_rewritten(moved: list[list[int]], sizes: list[int]) -> dict[str, str] | None:
    """A flag for each particle whose earlier pieces a move had replaced."""
    if len(moved) != len(sizes) or not any(moved):
        return None
    flags = [np.isin(np.arange(size), rows) for size, rows in zip(sizes, moved, strict=True)]
    return pack(np.concatenate(flags), "u1")


def _pack_traces(history: History, steps: int) -> dict[str, Any]:
    known = {"ess": history.ess, "log_evidence": history.log_evidence, "ancestors": history.unique_ancestors}
    return {name: pack(values, "f4") for name, values in known.items() if len(values) == steps}
