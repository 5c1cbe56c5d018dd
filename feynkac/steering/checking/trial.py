"""Short runs of the engine, twice with one seed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from feynkac.base.capabilities import OF_STATES, Replays
from feynkac.base.contract import Model
from feynkac.base.errors import AllParticlesDied, ArgumentError, quote
from feynkac.smc.conditional import gibbs
from feynkac.smc.engine import Step, smc
from feynkac.smc.resample import multinomial
from feynkac.smc.rng import Streams
from feynkac.steering.checking.report import Report, tell_capabilities
from feynkac.steering.recorder import show_samples


class Trial:
    """Short runs of a model under one potential."""

    def __init__(self, report: Report, model: Model, potential: Any, n: int, steps: int, seed: int) -> None:
        self._report, self._model, self._potential = report, model, potential
        self._n, self._steps, self._seed = n, steps, seed

    def run(self) -> bool:
        """Run what can be run, each part only where those before it were right. Whether a run repeats."""
        first = self._report.attempt("a run", self._walk)
        if first is None:
            return False
        self._report.passed.append(f"{len(first)} steps of {self._n} particles, resampled at each")
        tell_capabilities(self._report, "state", first[-1].state, OF_STATES)
        self._report.attempt("the samples", lambda: self._show(first[-1]))
        again = self._report.attempt("the same run again", self._walk)
        repeats = again is not None and self._compare(first, again)
        if isinstance(self._model, Replays):
            self._report.attempt("a path walked again", lambda: self._replay(self._model))
        return repeats

    def _walk(self) -> list[Step]:
        run = smc(self._model, self._potential, n=self._n, resample=multinomial, rng=Streams(self._seed))
        return list(itertools.islice(run, self._steps))

    def _show(self, last: Step) -> None:
        shown = show_samples(last.state, np.arange(self._n))
        if len(shown) != self._n:
            raise ArgumentError(f"samples(rows) gave {len(shown)} samples of {self._n} rows; give one for each")
        self._report.passed.append(f"the samples are shown, e.g. {quote(shown[0])}")

    def _compare(self, first: list[Step], again: list[Step]) -> bool:
        for one, other in itertools.zip_longest(first, again):
            if one is None or other is None or not np.array_equal(one.log_weight, other.log_weight):
                t = one.t if one is not None else other.t if other is not None else 0
                self._report.faults.append(
                    f"the same seed gave other weights at step {t}: take all random numbers from the rng given, and "
                    "keep nothing from one run to the next"
                )
                return False
        self._report.passed.append("the same seed gives the same weights")
        return True

    def _replay(self, model: Any) -> None:
        """Walk the path of a finished row again: row 0 must end where that row has ended."""
        streams = Streams(self._seed)
        chain = gibbs(model, self._potential, n=self._n, sweeps=2, rng=streams, resample=multinomial)
        try:
            first = next(chain)
        except AllParticlesDied:
            return
        wanted = repr(show_samples(first.step.state, np.array([first.row])))
        found = repr(show_samples(next(chain).step.state, np.array([0])))
        if found != wanted:
            raise ArgumentError(f"replay led row 0 to {found:.60}, but the path was that of {wanted:.60}")
        self._report.passed.append("a path that is walked again ends in the same sample")
