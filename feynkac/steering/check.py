"""`feynkac.check`: what an object of one's own has, lacks, and gets wrong on short runs, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import OF_MODELS, OF_POTENTIALS, Adapts, KeepsSources, has, list_factors
from feynkac.base.contract import Model, Potential
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenConstraint
from feynkac.base.numbers import read_count, read_particles, read_seconds, read_whole
from feynkac.potentials.base import Factor, product
from feynkac.smc.checks import name_of
from feynkac.smc.progress import make_bar
from feynkac.steering.checking.consistency import AnswerCheck, check_promises
from feynkac.steering.checking.copies import BLOCKS, ForkCheck, tells_apart, walk_copied
from feynkac.steering.checking.exactness import check_evidence
from feynkac.steering.checking.masking import MaskCheck, check_guide
from feynkac.steering.checking.report import Report, tell_capabilities
from feynkac.steering.checking.trial import Trial
from feynkac.steering.checking.walks import Answers, Place, ask, walk
from feynkac.steering.checking.watch import run_within
from feynkac.steering.problems import prepare

REQUIRED = {
    "model": (Model, ("init", "step", "done")),
    "potential": (Potential, ("level", "final")),
}


@suggest_names()
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
    particles, steps = read_particles("check: particles", particles, 2), read_count("check: steps", steps)
    seed, limit = read_whole("check: seed", seed, 0), read_seconds("check: timeout", timeout)
    if limit is None:
        raise ArgumentError("check(timeout=None); give the seconds that a call may take")
    report = Report()
    runs = _check_contract(report, model, potentials)
    tell_capabilities(report, f"model {name_of(model)}", model, OF_MODELS)
    for each in potentials:
        tell_capabilities(report, f"potential {name_of(each)}", each, OF_POTENTIALS)
    if runs:
        whole = product(*potentials)
        act = _Checks(report, model, whole, particles, steps, seed).run
        place = run_within(limit, act, [*list_factors(whole), *potentials, model])
        if place is not None:
            report.add_fault(f"{place} takes more than {limit:g} s: it hangs, or give more by timeout=")
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


def _adapts(thing: Any) -> bool:
    return has(thing, Adapts) and thing.adapts


class _Checks:
    """All that is run, one after the other."""

    def __init__(self, report: Report, model: Model, potential: Factor, n: int, steps: int, seed: int) -> None:
        self._report, self._model, self._potential = report, model, potential
        self._n, self._steps, self._seed = n, steps, seed
        self._factors = list_factors(potential)
        self._walked = model.keep_apart() if has(model, KeepsSources) else model

    def run(self) -> None:
        """Look at the whole first: what cannot be run is not looked at more closely."""
        # Nobody waits for a bar where all is done in two seconds.
        with make_bar(len(self._factors) + 3, desc="check", delay=2.0, leave=False) as bar:
            if not Trial(self._report, self._model, self._potential, self._n, self._steps, self._seed).run():
                return
            bar.update()
            self._report.attempt("copies", self._check_copies)
            bar.update()
            for factor in self._factors:
                self._report.attempt(f"'{name_of(factor)}'", lambda factor=factor: self._check_proposal(factor))
                bar.update()
            if not self._report.faults:
                self._report.attempt("the evidence", self._check_evidence)

    def _check_copies(self) -> None:
        """Two walks of the model as it stands, one with copies, on which all potentials are asked.

        Rows that go other ways beside copies do so by other draws, too, if they share something; a draw that rounding
        has turned does not come again.
        """
        for factor in filter(_adapts, self._factors):
            self._report.notes.append(
                f"'{name_of(factor)}' weighs by all rows, by intent, and no answers were compared"
            )
        if _adapts(self._model):
            self._report.notes.append("what a row does depends on all others, by intent, and no copies were compared")
        elif self._find_sharing(self._seed) and (fault := self._find_sharing(self._seed + 1)):
            self._report.add_fault(fault)

    def _find_sharing(self, seed: int) -> str | None:
        """What is wrong with copies; else what is wrong with the answers of potentials is told."""
        forks = ForkCheck(self._report, self._model, self._n)
        alone = [factor for factor in self._factors if not _adapts(factor)]
        asked = [AnswerCheck(self._report, factor, self._n, seed) for factor in alone]
        for place in self._walk_apart(seed):
            if tells_apart(place.state):
                raise ArgumentError("the model is a batch of several problems; check them one by one")
            forks.see_apart(place)
            asked = [each for each in asked if self._is_answered(each, each.see_apart, place)]
        copies = forks.choose([each.said for each in asked])
        for place in walk_copied(self._walked, copies, self._steps, seed):
            forks.see_copied(place)
            if forks.fault:  # then the rows that potentials are asked about are not what they seem
                return forks.fault
            asked = [each for each in asked if self._is_answered(each, each.see_copied, place)]
        forks.finish()
        for each in asked:
            each.compare(copies, lambda: self._walk_apart(seed))
        return forks.fault

    def _walk_apart(self, seed: int) -> Iterator[Place]:
        return walk(self._walked, BLOCKS * self._n, self._steps, seed)

    def _is_answered(self, check: AnswerCheck, see: Callable[[Place], None], place: Place) -> bool:
        """Whether a potential could be asked; the others are asked whether or not it could."""
        return self._report.attempt(f"'{check.who}'", lambda: (see(place), True)) is not None

    def _check_proposal(self, factor: Potential) -> None:
        """A walk that obeys what the potential masks, and one that it guides."""
        n, steps, seed = self._n, self._steps, self._seed + 1
        prepared = prepare(self._model, factor)
        if prepared is not self._model:
            answers, mask = Answers(), None
            if isinstance(factor, TokenConstraint):
                mask = MaskCheck(self._report, factor, n, seed)
            for place in walk(prepared, n, steps, seed):
                ask(factor, place, answers)
                if mask is not None:
                    mask.see(place, answers)
            check_promises(self._report, name_of(factor), answers)
            if mask is not None and mask.has_seen:
                self._report.passed.append(f"the masks of '{name_of(factor)}' were held against its level and final")
        check_guide(self._report, self._model, factor, n, steps, seed)

    def _check_evidence(self) -> None:
        size = self._n, self._steps, self._seed
        check_evidence(self._report, self._model, lambda: prepare(self._model, self._potential), self._potential, *size)
