"""What the reader of a result should doubt, in words, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence

from feynkac.smc.diagnostics import Diagnostics
from feynkac.smc.evidence import MODERATE

HEAVY = 0.7
"""Tail index from which averages cannot be trusted at any feasible size (Vehtari et al. 2024)."""
INFINITE_VARIANCE = 0.5
"""Tail index from which the weights have no variance, so that no interval rests on one."""
NOTABLE = 0.25
"""Nats that the last weights must be able to move the evidence, for the weight of their tail to matter."""
MOST = 0.5
"""Share of the whole weight from which one particle carries the result."""
NEARLY_ALL = 0.9
"""Share of the whole weight from which one island of several carries the evidence."""
TIGHT = 0.5
"""Foreseen error of the evidence that advice aims at, in nats."""
FEW = 0.1
"""Share of effective particles below which a posterior rests on few."""


def find_spread(found: Diagnostics) -> float:
    """What a part may be expected to be off, in nats, for `smc.evidence.find_interval`; inf where nothing tells."""
    return math.inf if found.tail > INFINITE_VARIANCE else found.part_spread


def list_doubts(
    found: Diagnostics,
    ess: Sequence[float],
    resampled: Sequence[int],
    n: int,
    *,
    never_resamples: bool = False,
    of_posterior: bool = True,
    of_texts: bool = True,
) -> list[str]:
    """Why evidence or posterior may be far off, and what to do: one text, or none if nothing says so.

    `ess`: of the population at every step, before it was resampled; `resampled`: the steps that began with that.
    `of_posterior`: whether these populations are the samples of the result, too; `of_texts`: whether samples are texts.
    """
    reasons, subjects = _list_reasons(found, resampled, n), []
    if of_posterior and 0.0 < ess[-1] < max(FEW * n, 1.5) and n > 1:
        subjects.append(f"the posterior rests on {ess[-1]:.1f} of {n} particles")
    if reasons:
        subjects.append(f"the evidence may be far off, mostly too low ({'; '.join(reasons)})")
    if not subjects:
        return []
    advice = advise(found, ess, resampled, n, never_resamples=never_resamples, of_texts=of_texts)
    return [f"{', and '.join(subjects)}. {advice}"]


def _list_reasons(found: Diagnostics, resampled: Sequence[int], n: int) -> list[str]:
    """What says that the evidence may be off by more than about a nat."""
    reasons = []
    if found.heaviest_particle > MOST and n > 1:
        reasons.append(f"one particle carries {found.heaviest_particle:.0%} of the weight")
    elif resampled and len(found.log_parts) > 2 and found.heaviest_part > NEARLY_ALL:
        reasons.append(f"one of {len(found.log_parts)} islands carries {found.heaviest_part:.0%} of the weight")
    if found.last_spread > NOTABLE and found.tail > HEAVY:
        reasons.append(f"the weights have a heavy tail, of index {found.tail:.1f}, where {HEAVY} is too much")
    if found.spread > MODERATE:
        reasons.append(f"its foreseen error is {found.spread:.1f} nats")
    # Of a long run with gentle weights all particles descend from one, too, and its evidence may be good.
    if found.ancestors == 1 and n > 1 and found.spread > TIGHT:
        reasons.append("all particles descend from a single one of the first")
    return reasons


def advise(
    found: Diagnostics, ess: Sequence[float], resampled: Sequence[int], n: int, *, never_resamples: bool, of_texts: bool
) -> str:
    """What would help most, as far as the course of the weights tells."""
    if never_resamples and len(ess) > 1:
        return "Use algorithm='smc', which resamples, with a level on the way, or many more particles"
    late = found.last_spread**2 > 0.5 * found.spread**2
    if late and len(ess) > 1 and ess[-1] < 0.5 * ess[-2]:
        return (
            "The last step alone tells the particles apart: give the potential a level on the way (a reward with "
            "every='token', a twist), or else use many more particles"
        )
    if len(resampled) > 1:
        more = math.ceil(n * max(found.spread / TIGHT, 1.0) ** 2)
        mild = "a twist" if of_texts else 'a twist (of latents tempered(reward, "signal", ess=0.9))'
        return (
            f"{len(resampled)} of {len(ess)} steps threw particles away: a proposal that knows the target helps most "
            f"(a mask, a guided proposal), then {mild}, then more particles (about {more})"
        )
    return "Use a proposal closer to the target (a mask, a guided one), a level on the way, or many more particles"
