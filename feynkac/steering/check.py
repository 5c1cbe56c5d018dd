"""`feynkac.check`: what an object of one's own has, lacks, and gets wrong on a short run, in words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feynkac.base.capabilities import OF_MODELS, OF_POTENTIALS, OF_STATES, Replays
from feynkac.base.contract import Model, Potential
from feynkac.base.errors import AllParticlesDied, ArgumentError, FeynkacError
from feynkac.potentials.base import product
from feynkac.smc.checks import name_of
from feynkac.smc.conditional import gibbs
from feynkac.smc.engine import Step, smc
from feynkac.smc.resample import multinomial
from feynkac.smc.rng import Streams
from feynkac.steering.recorder import show_samples

REQUIRED = {
    "model": (Model, ("init", "step", "done")),
    "potential": (Potential, ("level", "final")),
}


@dataclass
class Report:
    """What `check` found. `print(report)` tells it in words; `report.faults` is empty where nothing was wrong."""

    has: list[str] = field(default_factory=list)
    """What the objects offer beyond the contract."""
    lacks: list[str] = field(default_factory=list)
    """What they do not offer, and what happens without it."""
    passed: list[str] = field(default_factory=list)
    """What the short run has shown to be right."""
    faults: list[str] = field(default_factory=list)
    """What is wrong."""

    def __str__(self) -> str:
        titles = {"has": "has", "lacks": "lacks (none of it is required)", "passed": "right", "faults": "WRONG"}
        blocks = [(title, getattr(self, name)) for name, title in titles.items()]
        lines = [line for title, found in blocks if found for line in (title, *(f"  - {each}" for each in found))]
        return "\n".join(lines)

    __repr__ = __str__


def check(model: Any, *potentials: Any, particles: int = 4, steps: int = 8, seed: int = 0) -> Report:
    """A report on a model and potentials of one's own: what they have, lack, and get wrong.

    They are run for at most `steps` steps with so many `particles`, resampled at each, twice with one seed. What is
    found wrong is told in words rather than raised: `report.faults`. That nothing is found proves no weights right; for
    that enumerate a small run (`feynkac.smc.testing.enumerate_runs`). Raises ArgumentError for fewer than 2 particles.
    """
    if particles < 2 or steps < 1:
        raise ArgumentError(f"check(particles={particles}, steps={steps}); give at least 2 particles and 1 step")
    report = Report()
    whole = _contract(report, model, potentials)
    _tell(report, f"model {name_of(model)}", model, OF_MODELS)
    for each in potentials:
        _tell(report, f"potential {name_of(each)}", each, OF_POTENTIALS)
    if whole:
        _Trial(report, model, product(*potentials), particles, steps, seed).run()
    return report


def _contract(report: Report, model: Any, potentials: tuple[Any, ...]) -> bool:
    """Whether everything that must be there is there."""
    for what, each in (("model", model), *(("potential", each) for each in potentials)):
        protocol, methods = REQUIRED[what]
        if what == "potential" and callable(each) and not isinstance(each, Potential):
            continue  # a plain function
        missing = [name for name in methods if not callable(getattr(each, name, None))]
        if isinstance(each, type):
            report.faults.append(f"{what} {each.__name__} is a class; give an instance: {each.__name__}(...)")
        elif missing:
            report.faults.append(f"{what} {name_of(each)} has no {', '.join(missing)}; see {protocol.__module__}")
    return not report.faults


def _tell(report: Report, who: str, thing: Any, capabilities: tuple[type, ...]) -> None:
    for capability in capabilities:
        what, _, otherwise = " ".join((capability.__doc__ or "").split("\n\n")[0].split()).partition(" Without it: ")
        if isinstance(thing, capability):
            report.has.append(f"{who}: {capability.__name__}. {what}")
        else:
            report.lacks.append(f"{who}: {capability.__name__}. Without it: {otherwise}")


class _Trial:
    """Short runs of a model under one potential."""

    def __init__(self, report: Report, model: Model, potential: Any, n: int, steps: int, seed: int) -> None:
        self._report, self._model, self._potential = report, model, potential
        self._n, self._steps, self._seed = n, steps, seed

    def run(self) -> None:
        """Run what can be run, each part only where those before it were right."""
        first = self._attempt("a run", self._walk)
        if first is None:
            return
        self._report.passed.append(f"{len(first)} steps of {self._n} particles, resampled at each")
        _tell(self._report, "state", first[-1].state, OF_STATES)
        self._attempt("the samples", lambda: self._show(first[-1]))
        again = self._attempt("the same run again", self._walk)
        if again is not None:
            self._compare(first, again)
        if isinstance(self._model, Replays):
            self._attempt("a path walked again", lambda: self._replay(self._model))

    def _attempt(self, what: str, act: Any) -> Any:
        try:
            return act()
        except Exception as error:
            kind = "" if isinstance(error, FeynkacError) else f"{type(error).__name__}: "
            self._report.faults.append(f"{what} stopped: {kind}{error}")
            return None

    def _walk(self) -> list[Step]:
        run = smc(self._model, self._potential, n=self._n, resample=multinomial, rng=Streams(self._seed))
        return list(itertools.islice(run, self._steps))

    def _show(self, last: Step) -> None:
        shown = show_samples(last.state, np.arange(self._n))
        if len(shown) != self._n:
            raise ArgumentError(f"samples(rows) gave {len(shown)} samples of {self._n} rows; give one for each")
        self._report.passed.append(f"the samples are shown, e.g. {shown[0]!r:.60}")

    def _compare(self, first: list[Step], again: list[Step]) -> None:
        for one, other in itertools.zip_longest(first, again):
            if one is None or other is None or not np.array_equal(one.log_weight, other.log_weight):
                t = one.t if one is not None else other.t if other is not None else 0
                self._report.faults.append(
                    f"the same seed gave other weights at step {t}: take all random numbers from the rng given, and "
                    "keep nothing from one run to the next"
                )
                return
        self._report.passed.append("the same seed gives the same weights")

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
