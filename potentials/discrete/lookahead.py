"""Any potential on finished sequences, foreseen from completions of the canvas that the denoiser draws."""

from __future__ import annotations

import numpy as np

from feynkac.base.capabilities import Completes, offers, require
from feynkac.base.contract import LogW, Potential, Rows, Schedule, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count, read_finite
from feynkac.base.words import is_word
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.folds import FOLDS, Kind
from feynkac.smc.checks import check_log_weights, name_of

_POWER = "Lookahead: power"


class Lookahead(Factor):
    """`potential`, with the level log mean exp of its final value over `samples` completions of each canvas.

    In nats throughout, so that the mean estimates E[exp(final) | canvas] under the factorised denoiser (Singhal et al.
    2025, section 3.2, whose code takes the mean of the rewards instead). With samples=0 the one completion is the
    likeliest token at each position. `kind` folds the levels so far, as in `reward`; the target is the same for all.
    `power`: a factor on the estimates, a number or a function of the step: below 1 while they are noisy.
    `worst`: the level in nats of a canvas none of whose completions has mass, which is no proof that none will.
    Raises ArgumentError.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        samples: int = 4,
        kind: Kind = "difference",
        worst: float = -10.0,
        power: float | Schedule = 1.0,
    ) -> None:
        if not offers(potential, Potential):
            raise ArgumentError(f"Lookahead({quote(potential)}): give a potential, such as reward(f) or constraint(f)")
        if not is_word(kind, FOLDS):
            raise ArgumentError(f"Lookahead(kind={quote(kind)}); kind is one of {', '.join(map(repr, FOLDS))}")
        self.potential = potential
        self.samples = read_count("Lookahead: samples", samples, low=0)
        self.kind = kind
        self.worst = read_finite("Lookahead: worst", worst, " of nats")
        self.power = power if callable(power) and not isinstance(power, type) else read_finite(_POWER, power)
        self.name = f"Lookahead({name_of(potential)})"

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats, the folded estimates so far. Raises PotentialError for a state of no canvases."""
        canvas = require(
            state,
            Completes,
            f"'{self.name}' looks at the canvas of a discrete diffusion, not at {type(state).__name__}; "
            "give another model the potential itself",
        )
        power = read_finite(
            f"{_POWER}, as its function returned it", self.power(t) if callable(self.power) else self.power
        )
        new = power * self._estimate(canvas, rows)
        memory = canvas.memory.array((self, "level"), np.nan)
        past = memory[rows]
        memory[rows] = np.where(np.isnan(past), new, FOLDS[self.kind](past, new))
        return memory[rows]

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats, the final value of the potential itself."""
        return self.potential.final(state, rows)

    def _estimate(self, canvas: Completes, rows: Rows) -> LogW:
        filled = [canvas.draw_clean(rows) for _ in range(self.samples)] or [canvas.estimate_clean(rows)]
        completed = canvas.complete(np.tile(rows, len(filled)), np.concatenate(filled))
        asked = np.arange(len(completed))
        values = self.potential.final(completed, asked)
        values = check_log_weights(values, source=name_of(self.potential), what="final", t=None, rows=asked)
        mean = np.logaddexp.reduce(values.reshape(len(filled), -1), axis=0) - np.log(len(filled))
        return np.maximum(mean, self.worst)
