"""`feynkac.check`: what an object of one's own has, lacks, and gets wrong on short runs, in words."""

from __future__ import annotations

from typing import Any

from feynkac.base.capabilities import OF_MODELS, OF_POTENTIALS, list_factors
from feynkac.base.contract import Model, Potential
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenConstraint
from feynkac.potentials.base import Factor, product
from feynkac.smc.checks import name_of
from feynkac.steering.checking.consistency import check_answers, check_promises, check_siblings
from feynkac.steering.checking.exactness import check_evidence
from feynkac.steering.checking.masking import MaskCheck, check_guide
from feynkac.steering.checking.report import Report, tell_capabilities
from feynkac.steering.checking.trial import Trial
from feynkac.steering.checking.walks import Answers, ask, walk
from feynkac.steering.checking.watch import run_within
from feynkac.steering.problems import prepare

REQUIRED = {
    "model": (Model, ("init", "step", "done")),
    "potential": (Potential, ("level", "final")),
}


def check(
    model: Any, *potentials: Any, particles: int = 4, steps: int = 8, seed: int = 0, timeout: float = 60.0
) -> Report:
    """A report on a model and potentials of one's own: what they have, lack, and get wrong.

    They are run for at most `steps` steps with `particles` rows, under the engine and on walks that nothing weighs, and
    asked the same in several ways. Told are: a level of -inf behind which there is weight; masks, ends of sequence and
    guides that contradict level and final; NaN and +inf; answers that depend on the other rows, on their order, on
    earlier runs, or that do not fork with a row; states and rows that are written to; other weights for the same seed;
    a call that takes more than `timeout` seconds. Where the model has at most 400 samples of so many steps, the mean of
    exp(log_z) over 200 runs is compared with the sum over all of them, twice, and both must be more than 4.5 standard
    errors off: by the normal law that happens to what is right less than once in 10^9, with few particles that rarely
    survive a little more often.

    What is found wrong is told in words rather than raised: `report.faults`. That nothing is found proves no weights
    right; for that enumerate a small run (`feynkac.smc.testing.enumerate_runs`). Raises ArgumentError for fewer than 2
    particles, and for a time-out that is not positive.
    """
    if particles < 2 or steps < 1:
        raise ArgumentError(f"check(particles={particles}, steps={steps}); give at least 2 particles and 1 step")
    if not timeout > 0.0:
        raise ArgumentError(f"check(timeout={timeout!r}); give the seconds that a call may take")
    report = Report()
    runs = _check_contract(report, model, potentials)
    tell_capabilities(report, f"model {name_of(model)}", model, OF_MODELS)
    for each in potentials:
        tell_capabilities(report, f"potential {name_of(each)}", each, OF_POTENTIALS)
    if runs:
        whole = product(*potentials)
        act = _Checks(report, model, whole, particles, steps, seed).run
        place = run_within(timeout, act, [*list_factors(whole), *potentials, model])
        if place is not None:
            report.add_fault(f"{place} takes more than {timeout:g} s: it hangs, or give more by timeout=")
    return report


def _check_contract(report: Report, model: Any, potentials: tuple[Any, ...]) -> bool:
    """Whether everything that must be there is there."""
    for what, each in (("model", model), *(("potential", each) for each in potentials)):
        protocol, methods = REQUIRED[what]
        if what == "potential" and callable(each) and not isinstance(each, Potential):
            continue  # a plain function
        missing = [name for name in methods if not callable(getattr(each, name, None))]
        if isinstance(each, type):
            report.add_fault(f"{what} {each.__name__} is a class; give an instance: {each.__name__}(...)")
        elif missing:
            report.add_fault(f"{what} {name_of(each)} has no {', '.join(missing)}; see {protocol.__module__}")
    return not report.faults


class _Checks:
    """All that is run, one after the other."""

    def __init__(self, report: Report, model: Model, potential: Factor, n: int, steps: int, seed: int) -> None:
        self._report, self._model, self._potential = report, model, potential
        self._n, self._steps, self._seed = n, steps, seed

    def run(self) -> None:
        """Look at the whole first: what cannot be run is not looked at more closely."""
        if not Trial(self._report, self._model, self._potential, self._n, self._steps, self._seed).run():
            return
        size = self._n, self._steps, self._seed
        for factor in list_factors(self._potential):
            self._report.attempt(f"'{name_of(factor)}'", lambda factor=factor: self._check_potential(factor))
        self._report.attempt("copies", lambda: check_siblings(self._report, self._model, *size))
        if not self._report.faults:
            self._report.attempt("the evidence", self._check_evidence)

    def _check_potential(self, factor: Potential) -> None:
        said, n, steps, seed = len(self._report.faults), self._n, self._steps, self._seed
        answers = check_answers(self._report, self._model, factor, n, steps, seed)
        check_promises(self._report, name_of(factor), answers)
        prepared = prepare(self._model, factor)
        for model, wide in ((self._model, 4 * n), (prepared, n)) if prepared is not self._model else ():
            answers = Answers()
            for place in walk(model, wide, steps, seed + 1):
                ask(factor, place, answers)
            check_promises(self._report, name_of(factor), answers)
            if isinstance(factor, TokenConstraint):
                MaskCheck(self._report, factor, seed).run(model, wide, steps, seed + 1)
        check_guide(self._report, self._model, factor, n, steps, seed)
        if len(self._report.faults) == said:
            self._report.passed.append(
                f"'{name_of(factor)}' keeps its promises, and answers alike in any order, again, and of copies"
            )

    def _check_evidence(self) -> None:
        size = self._n, self._steps, self._seed
        check_evidence(self._report, self._model, lambda: prepare(self._model, self._potential), self._potential, *size)
