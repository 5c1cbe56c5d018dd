"""A result in words, as `Result.show` prints it."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from feynkac.base.errors import quote
from feynkac.base.escaping import escape
from feynkac.base.numbers import find_shape
from feynkac.results.interval import is_of_target
from feynkac.results.ranking import rank_samples
from feynkac.results.text import draw_sparkline, shorten, write_sample

if TYPE_CHECKING:
    from feynkac.results.result import Result


def summarise(result: Result, rows: int) -> str:
    """The posterior and the run as text, at most `rows` samples."""
    pictures = has_pictures(result)
    shown = [] if pictures else rank_samples(result.samples, result.weights)
    width = max(20, shutil.get_terminal_size((100, 24)).columns - 9)
    lines = [f"{p:6.1%}  {shorten(write_sample(sample), width)}" for sample, p in shown[:rows]]
    if len(shown) > rows:
        lines.append(f"        ... and {len(shown) - rows} more")
    if pictures:
        shape = " x ".join(map(str, result.samples[0].shape))
        lines.append(f"{len(result.samples)} samples of {shape}: see .samples and .weights, or .plot()")
    lines += ["", *_tell_best(result), tell_evidence(result), *tell_course(result), _tell_work(result)]
    return "\n".join([*lines, *(f"warning: {escape(warning)}" for warning in result.warnings)])


def has_pictures(result: Result) -> bool:
    """Whether the samples are arrays, which say nothing as text."""
    return bool(result.samples) and len(find_shape(result.samples[0])) > 1


def tell_evidence(result: Result) -> str:
    """The log evidence and where it may be, so that nobody takes an estimate for a fact."""
    low, high = result.log_evidence_interval()
    estimate = f"log evidence {result.log_evidence:.2f} nats"
    if not is_of_target(result):
        return f"{estimate} of the target so far"
    if low == -math.inf:
        return estimate
    if result.algorithm == "exact":
        return f"{estimate}, exactly" if result.complete else f"{estimate} at least"
    if low > result.log_evidence:
        return f"{estimate}, which is too low: by the texts that are known it is at least {low:.2f}"
    if high < math.inf:
        return f"{estimate}, between {low:.2f} and {high:.2f} (95 % sure)"
    alone = result.diagnostics is not None and len(result.diagnostics.log_parts) == 1
    apart = alone and result.history.resampled and len(result.samples) >= 8
    how = "islands=4 would show how far" if apart else "how far, this run cannot tell"
    return f"{estimate}, at least {low:.2f} (95 % sure); it may be higher: {how}"


def _tell_best(result: Result) -> list[str]:
    if result.algorithm != "best_of_n" or result.log_evidence == -math.inf or has_pictures(result):
        return []
    n = len(result.samples)
    reward = result.log_weights.max() + math.log(n)
    return [f"best of {n}: {quote(shorten(write_sample(result.best), 60))}, log-weight {reward:.2f} nats"]


def tell_course(result: Result) -> list[str]:
    """How the particles fared, step by step."""
    n, history = len(result.samples), result.history
    if result.algorithm == "exact":
        return [f"{'all ' if result.complete else ''}{n} spellings of the texts, none of them sampled"]
    size = len(history.rows[0]) if history.rows else n  # of one population: particle Gibbs pools several
    pooled = ", were the sweeps independent" if history.sweeps else ""
    return [
        f"effective sample size {result.ess:.1f} of {n}{pooled}, "
        f"resampled at {len(history.resampled)} of {len(history.ess)} steps",
        f"  ESS by step      {draw_sparkline(history.ess, size)}",
        f"  first ancestors  {draw_sparkline(history.unique_ancestors, size)}",
    ]


def _tell_work(result: Result) -> str:
    timing = result.timing
    work = f"{timing.total:.2f} s (model {timing.model:.2f}, potentials {timing.potentials:.2f})"
    if result.forwarded_tokens is None:
        return work
    per_second = result.forwarded_tokens / timing.total if timing.total else 0.0
    dropped = "" if result.dropped is None else f", {result.dropped:.2g} nats a text dropped by the beam"
    return f"{result.forwarded_tokens} tokens forwarded in {work}, {per_second:.0f} tokens/s{dropped}"
