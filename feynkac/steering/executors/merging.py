"""The results of islands that ran apart, as one result: what one run of all of them would have said.

Each island estimates Z alone, with absolute log-weights: of P islands each weighs 1/P, so that
Z_hat = (1/P) sum_b Z_b stays unbiased, and sum_i w_i f(x_i) with it, whatever the islands are.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.results.course import doubt_course
from feynkac.results.doubts import list_doubts
from feynkac.results.history import History
from feynkac.results.result import Result
from feynkac.smc.diagnostics import Diagnostics, diagnose
from feynkac.smc.evidence import evidence
from feynkac.smc.weights import log_sum_exp, normalise
from feynkac.steering.chains import join_histories
from feynkac.steering.recorder import warn_of_dropped, warn_of_floor, write_notes
from feynkac.steering.trail import join_arrays, join_known

_TIMES = re.compile(r"(?P<said>.*) \((?P<n>\d+) times\)", re.DOTALL)


def merge_islands(parts: Sequence[Result], deaths: Sequence[str | None]) -> Result:
    """One result of the P results of islands of one problem; `deaths` says why those died that did, and is left out."""
    if len(parts) == 1:
        return parts[0]
    found = _merge_chains(parts) if parts[0].algorithm == "gibbs" else _merge_populations(parts)
    own = [
        said
        for part, death in zip(parts, deaths, strict=True)
        for said in part.warnings
        if said != death and said not in _list_doubts(part)
    ]
    died = [deaths[0]] if found.log_evidence == -math.inf and deaths[0] is not None else []
    return replace(found, warnings=[*died, *_merge_notes(own), *_list_doubts(found)])


def _merge_populations(parts: Sequence[Result]) -> Result:
    """Islands whose particles are the samples."""
    log_z = np.array([part.log_evidence for part in parts])
    log_weights = np.concatenate([part.log_weights for part in parts]) - math.log(len(parts))
    history = _merge_histories([part.history for part in parts])
    total, error = evidence(log_weights, len(parts), resampled=bool(history.resampled))
    dropped = [0.0 if part.dropped is None else part.dropped for part in parts]
    exact = all(part.dropped is None for part in parts)
    return replace(
        _merge_plain(parts),
        samples=[sample for part in parts for sample in part.samples],
        log_weights=log_weights,
        log_evidence=total,
        log_evidence_se=None if math.isnan(error) else error,
        history=history,
        token_log_probs=join_known([part.token_log_probs for part in parts]),
        log_probs=join_arrays([part.log_probs for part in parts]),
        diagnostics=_diagnose(parts, resampled=bool(history.resampled)),
        dropped=None if exact else float(normalise(log_z) @ dropped),
    )


def _merge_chains(parts: Sequence[Result]) -> Result:
    """Chains of particle Gibbs: the evidence is the mean of their first sweeps, and each that lives weighs as much."""
    whole = parts
    parts = [part for part in parts if part.history.sweeps] or parts  # the others were stopped in their first sweep
    log_z = np.array([part.log_evidence for part in parts])
    total = log_sum_exp(log_z) - math.log(len(parts))
    alive = [part for part in parts if part.log_evidence > -math.inf] or parts[:1]
    # Where all chains have died, so that only the first is kept, all weights are zero already.
    shift = [total - math.log(len(alive)) - part.log_evidence if total > -math.inf else 0.0 for part in alive]
    weighted = [part.log_weights + each for part, each in zip(alive, shift, strict=True)]
    _, error = evidence(log_z - math.log(len(parts)), len(parts))
    dropped = [part.dropped for part in alive if part.dropped is not None]
    return replace(
        _merge_plain(whole),
        samples=[sample for part in alive for sample in part.samples],
        log_weights=np.concatenate(weighted),
        log_evidence=total,
        log_evidence_se=None if math.isnan(error) else error,
        history=_join_sweeps([part.history for part in parts]),
        token_log_probs=join_known([part.token_log_probs for part in alive]),
        log_probs=join_arrays([part.log_probs for part in alive]),
        diagnostics=_join_diagnostics(_list_diagnostics(parts)),
        dropped=max(dropped, default=None),
    )


def _merge_plain(parts: Sequence[Result]) -> Result:
    """The first part, with what needs no weights: times of the slowest, all tokens, the best of the lower bounds."""
    tokens = [part.forwarded_tokens for part in parts]
    floors = [part.lower_bound for part in parts if part.lower_bound is not None]
    return replace(
        parts[0],
        timing=max((part.timing for part in parts), key=lambda timing: timing.total),
        forwarded_tokens=None if None in tokens else sum(filter(None, tokens)),
        complete=all(part.complete for part in parts),
        lower_bound=max(floors, default=None),
    )


def _merge_histories(histories: Sequence[History]) -> History:
    """One history of islands that went side by side; one that has ended stays as it is until the last one ends."""
    steps, columns = max(len(history.ess) for history in histories), []
    for t in range(steps):
        ends = [min(t, len(history.ess) - 1) for history in histories]
        log_z = np.array([history.log_evidence[end] for history, end in zip(histories, ends, strict=True)])
        ess = np.array([history.ess[end] for history, end in zip(histories, ends, strict=True)])
        sizes = [len(history.rows[max(min(t - 1, end), 0)]) for history, end in zip(histories, ends, strict=True)]
        starts = itertools.accumulate(sizes[:-1], initial=0)
        rows = [
            start + row
            for history, start in zip(histories, starts, strict=True)
            for row in (history.rows[t] if t < len(history.ess) else range(len(history.rows[-1])))
        ]
        columns.append((_join_ess(log_z, ess), log_sum_exp(log_z) - math.log(len(log_z)), rows))
    ess, log_evidence, rows = (list(column) for column in zip(*columns, strict=True))
    ancestors = [
        sum(history.unique_ancestors[min(t, len(history.ess) - 1)] for history in histories) for t in range(steps)
    ]
    resampled = sorted({t for history in histories for t in history.resampled})
    return History(ess, log_evidence, ancestors, resampled, rows, **_merge_columns(histories, steps))


def _merge_columns(histories: Sequence[History], steps: int) -> dict[str, list[Any]]:
    """What a history has of each particle, of islands side by side; those that have ended add nothing any more."""
    share = math.log(len(histories))
    resting = {"pieces": "", "killers": "", "log_probs": 0.0, "increments": 0.0}
    merged: dict[str, list[Any]] = {}
    for name in ("levels", "log_weights", "carried", *resting):
        parts: list[list[list[Any]]] = [getattr(history, name) for history in histories]
        # What an island carries on when it has ended is the weight that it ended with.
        last = [history.log_weights if name == "carried" else getattr(history, name) for history in histories]
        if not all(parts):
            continue
        merged[name] = [
            [
                value - share if name in ("log_weights", "carried") else value
                for part, ended in zip(parts, last, strict=True)
                for value in _find_column(part, ended, t, resting.get(name))
            ]
            for t in range(steps)
        ]
    if all(history.moved for history in histories):
        merged["moved"] = [_merge_moved(histories, t) for t in range(steps)]
    return merged


def _find_column(part: list[list[Any]], ended: list[list[Any]], t: int, resting: Any) -> list[Any]:
    """What an island has at step `t`, or from then on if it has ended."""
    if t < len(part):
        return part[t]
    return ended[-1] if resting is None else [resting] * len(ended[-1])


def _merge_moved(histories: Sequence[History], t: int) -> list[int]:
    starts = itertools.accumulate((len(h.rows[min(t, len(h.rows) - 1)]) for h in histories[:-1]), initial=0)
    return [start + row for start, h in zip(starts, histories, strict=True) if t < len(h.moved) for row in h.moved[t]]


def _join_ess(log_z: NDArray[np.float64], ess: NDArray[np.float64]) -> float:
    """The effective sample size of islands with these evidences: (sum Z_b)^2 / sum (Z_b^2 / ESS_b)."""
    share = normalise(log_z)
    alive = share > 0.0
    return float(1.0 / (share[alive] ** 2 / ess[alive]).sum()) if alive.any() else 0.0


def _join_sweeps(histories: Sequence[History]) -> History:
    """One history of chains, one after the other."""
    starts = list(itertools.accumulate((len(history.ess) for history in histories[:-1]), initial=0))
    sweeps = [start + t for start, history in zip(starts, histories, strict=True) for t in history.sweeps]
    return replace(join_histories(histories), sweeps=sweeps)


def _list_diagnostics(parts: Sequence[Result]) -> list[Diagnostics]:
    return [part.diagnostics for part in parts if part.diagnostics is not None]


def _diagnose(parts: Sequence[Result], *, resampled: bool) -> Diagnostics:
    """What the islands say together, as `smc.diagnostics.diagnose` has it."""
    found = _list_diagnostics(parts)
    if parts[0].algorithm == "optimal":  # whose weights may be uneven, so that its chances are counted instead
        return _join_diagnostics(found)
    # Of an island alone `spread`^2 is what it lost by resampling and what its last weights would lose.
    lost = np.array([each.spread**2 - each.last_spread**2 for each in found])
    ancestors = sum(each.ancestors for each in found)
    return diagnose([part.log_weights for part in parts], lost, ancestors, resampled=resampled)


def _join_diagnostics(found: Sequence[Diagnostics]) -> Diagnostics:
    """The same, of islands whose last populations are not their samples."""
    log_z = np.array([log_sum_exp(np.array(each.log_parts)) - math.log(len(each.log_parts)) for each in found])
    share = normalise(log_z)
    lost, last = (np.array([getattr(each, name) ** 2 for each in found]) for name in ("spread", "last_spread"))
    tails = [each.tail for each in found if not math.isnan(each.tail)]
    return Diagnostics(
        log_parts=log_z.tolist(),
        part_spread=math.sqrt(float(lost.mean())),
        spread=math.sqrt(float(share**2 @ lost)),
        last_spread=math.sqrt(float(share**2 @ last)),
        tail=max(tails, default=math.nan),
        heaviest_particle=float((share * [each.heaviest_particle for each in found]).max()),
        heaviest_part=float(share.max()),
        ancestors=sum(each.ancestors for each in found),
    )


def _list_doubts(result: Result) -> list[str]:
    """What weights and bounds let one doubt of a result: of an island alone this is said again of all together."""
    found, gibbs = result.diagnostics, result.algorithm == "gibbs"
    if result.log_evidence == -math.inf or found is None:
        return []
    history = result.history
    first = history.sweeps[1] if len(history.sweeps) > 1 else len(history.ess)
    told = list_doubts(
        found,
        history.ess[:first],
        [t for t in history.resampled if t < first],
        len(history.rows[0]) if gibbs else len(result.log_weights),
        never_resamples=result.algorithm in ("importance", "best_of_n"),
        of_posterior=result.algorithm not in ("optimal", "gibbs"),
        of_texts=bool(history.pieces),
    )
    if gibbs:
        return told
    certain = [*warn_of_dropped(result.dropped), *warn_of_floor(result.log_evidence, result.lower_bound)]
    return [*certain, *told, *(doubt_course(history) if result.complete else ())]


def _merge_notes(said: Sequence[str]) -> list[str]:
    """The same things said once, with how often they were."""
    counts = Counter[str]()
    for each in said:
        found = _TIMES.fullmatch(each)
        counts[found["said"] if found else each] += int(found["n"]) if found else 1
    return write_notes(counts)
