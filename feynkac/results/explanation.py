"""Where the mass of a run was lost, for reading: sums, tables, and the path of one sample."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.results.losses import Loss, Prefixes, find_running, list_losses, pass_back
from feynkac.results.text import escape
from feynkac.smc.weights import log_sum_exp

if TYPE_CHECKING:
    from feynkac.results.history import History
    from feynkac.results.result import Result

SHOWN = 10
"""Prefixes that are told of where nobody asks for more."""
WIDTH = 60
"""Characters of a prefix that are shown, the last ones."""


class PathStep(NamedTuple):
    """One step of one particle, in nats."""

    piece: str
    log_prob: float
    """Under the model's own law; nan where it is not known."""
    masked: float
    """Lost to masks and proposals, or to the scores of a program."""
    weighed: float
    """Lost to potentials."""


@dataclass(frozen=True)
class Explanation:
    """Where the mass of a run was lost, the prefixes that cost most first: `for loss in result.explain()`.

    The `nats` of all losses and `elsewhere` add up to minus the log evidence; what is `along` adds up to `mean_lost`.
    """

    losses: tuple[Loss, ...]
    log_evidence: float
    """Of the run, in nats; under particle Gibbs that of the first sweep, which alone is explained."""
    elsewhere: float
    """Nats that resampling has lost (or, negative, won) by chance; and, of "optimal", what nothing could follow."""
    mean_lost: float
    """Nats that a text of the posterior lost on its way, on the mean: minus log of all that weighs it."""
    _history: History = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[Loss]:
        return iter(self.losses)

    def __len__(self) -> int:
        return len(self.losses)

    def along(self) -> list[Loss]:
        """The losses that the posterior's own texts had, the largest first."""
        return sorted((loss for loss in self.losses if loss.posterior > 0.0), key=lambda loss: -loss.along)

    def path(self, row: int) -> list[PathStep]:
        """What the sample of a row lost, token by token: together minus the log of all that weighs it.

        Without resampling that is -(log-weight + log N). Raises ArgumentError for a row that there is not.
        """
        history = self._history
        n = len(history.rows[-1])
        if not 0 <= row < n:
            raise ArgumentError(f"path({row}): the last population has the rows 0 to {n - 1}")
        found = list[PathStep]()
        for t in reversed(range(len(history.rows))):
            lost = _split(history, t, row)
            if history.log_weights[t][row] > -math.inf or history.carried[t][row] > -math.inf:
                piece = history.pieces[t][row] if history.pieces else ""
                found.append(PathStep(piece, history.log_probs[t][row] if history.log_probs else math.nan, *lost))
            row = history.rows[t][row]
        return found[::-1]

    def write(self, rows: int = SHOWN) -> str:
        """The `rows` prefixes that cost most, and those that cost the posterior's texts most."""
        lines = [
            f"log evidence {self.log_evidence:.2f} nats: where it was lost{_write_elsewhere(self.elsewhere)}",
            *_write_table(self.losses[:rows], "nats", [loss.nats for loss in self.losses[:rows]]),
        ]
        if not math.isnan(self.mean_lost):
            own = self.along()[:rows]
            lines += ["", f"texts of the posterior lost {self.mean_lost:.2f} nats on the mean: where"]
            lines += _write_table(own, "mean", [loss.along for loss in own])
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.write()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def explain(result: Result) -> Explanation:
    """See `Result.explain`."""
    history = _take_first_sweep(result.history)
    if not (history.carried and history.increments and history.log_weights):
        raise ArgumentError(
            f"explain: the history of this result (algorithm={quote(result.algorithm)}) does not tell what its steps "
            "weighed, as those of 'exact', of models that list their own children, and of older files; run 'smc'"
        )
    if any(history.moved):
        raise ArgumentError(
            "explain: moves have replaced tokens on the way, so that no prefix is that of the texts that came of it; "
            "leave moves= out of the run that is to be explained"
        )
    passing = pass_back(history)
    prefixes, losses, elsewhere, before = Prefixes(), list[Loss](), 0.0, 0.0
    numbers: NDArray[np.int64] = np.zeros(len(history.rows[0]), np.int64)
    for t, rows in enumerate(history.rows):
        carried = np.array(history.carried[t])
        numbers = numbers[rows] if t else numbers
        if (total := log_sum_exp(carried)) > -math.inf:
            elsewhere += before - total
            losses += list_losses(history, t, numbers, passing[t], prefixes)
        before = history.log_evidence[t]
        if history.pieces:
            ran = find_running(history, t)
            pieces = history.pieces[t]
            numbers = np.array([prefixes.add(int(k), pieces[i]) if ran[i] else k for i, k in enumerate(numbers)])
    mean = math.fsum(loss.along for loss in losses if loss.posterior > 0.0) if passing[-1].any() else math.nan
    ordered = sorted(losses, key=lambda loss: (-loss.nats, loss.step))
    return Explanation(tuple(ordered), before, elsewhere, mean, history)


def _take_first_sweep(history: History) -> History:
    """The part of a history that its evidence is from."""
    if len(history.sweeps) < 2:
        return history
    end = history.sweeps[1]
    columns = {each.name: getattr(history, each.name)[:end] for each in fields(history)}
    return replace(history, **{**columns, "sweeps": [], "resampled": [t for t in history.resampled if t < end]})


def _split(history: History, t: int, row: int) -> tuple[float, float]:
    """The nats that one particle lost to its model, and to potentials, in one step."""
    carried, weight = history.carried[t][row], history.log_weights[t][row]
    masked = -history.increments[t][row]
    if carried == -math.inf or masked == math.inf:
        return max(masked, 0.0), 0.0
    return masked, carried - masked - weight


def _write_elsewhere(nats: float) -> str:
    return "" if abs(nats) < 0.005 else f" ({nats:+.2f} by the chance of resampling)"


def _write_table(losses: Sequence[Loss], name: str, nats: Sequence[float]) -> list[str]:
    """One line a prefix."""
    if not losses:
        return ["  nothing was lost"]
    lines = [f"  {name:>6}  here   step  died      behind"]
    for loss, lost in zip(losses, nats, strict=True):
        text = escape(loss.prefix.replace("\n", "⏎"))
        text = text if len(text) <= WIDTH else "…" + text[-WIDTH + 1 :]
        blamed = f"  <- {', '.join(map(escape, loss.killers))}" if loss.killers else ""
        died = f"{loss.died}/{loss.particles}"
        lines.append(f'  {lost:6.2f} {loss.share:6.1%}  {loss.step:4d}  {died:8}  "{text}"{blamed}')
    return lines
