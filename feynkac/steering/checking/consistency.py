"""Whether a potential keeps its promises, and answers alike however it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from feynkac.base.contract import LogW, Rows
from feynkac.base.masks import TokenConstraint
from feynkac.smc.checks import name_of
from feynkac.steering.checking.copies import BLOCKS, Copies, copy_state, is_close
from feynkac.steering.checking.masking import MaskCheck
from feynkac.steering.checking.report import Report
from feynkac.steering.checking.walks import CLOSE, Answers, Place, ask

_AGAIN = "again in another run: take no random numbers, and keep nothing from one run to the next"
_ALONE = "of this row alone: what a row is worth must not depend on the rows beside it, nor on their order"
_OF_COPIES = (
    "what a potential remembers of a row must fork with it; keep it in `state.memory`, or compute it from the state"
)


def check_promises(report: Report, who: str, answers: Answers) -> None:
    """A level of -inf says that nothing behind it has weight: look for what has."""
    n = len(answers.levels[0]) if answers.levels else 0
    lost: dict[int, tuple[int, str]] = {}
    for t, (level, final) in enumerate(zip(answers.levels, answers.finals, strict=True)):
        for row in range(n):
            found = final[row] if not np.isnan(final[row]) else level[row]
            if row in lost and found > -np.inf:
                step, text = lost[row]
                what = "final" if not np.isnan(final[row]) else f"level at step {t}"
                report.add_fault(
                    f"'{who}'.level at step {step} gave -inf for {text}, and its {what} gives {found:.3g} for "
                    f"{answers.shown[t][row]}, which goes on from there: -inf promises that nothing behind it has "
                    "weight, and kills the row for good; give a finite guess there"
                )
                return
            if level[row] == -np.inf:
                lost.setdefault(row, (t, answers.shown[t][row]))


class AnswerCheck:
    """What a potential says on a walk without copies, and on one with copies (see `copies.Copies`).

    On the latter it is asked of the first rows at once, of the same rows one by one, and of their copies.
    """

    def __init__(self, report: Report, potential: Any, n: int, seed: int) -> None:
        self._report, self._potential, self._n = report, potential, n
        self.who = name_of(potential)
        self._apart, self._copied = Answers(), Answers()
        masks = isinstance(potential, TokenConstraint)
        self._mask = MaskCheck(report, potential, BLOCKS * n, seed) if masks else None

    @property
    def said(self) -> list[LogW]:
        """(4n,) nats for each step of the walk without copies."""
        return self._apart.worth

    def see_apart(self, place: Place) -> None:
        """Ask at a place of the walk without copies: of the first rows, and of the others."""
        before = copy_state(place.state)
        ask(self._potential, place, self._apart)
        after = copy_state(place.state)
        for name in before:
            if name in after and not is_close(before[name], after[name], 0.0):
                self._report.add_fault(
                    f"'{self.who}' at step {place.t} wrote to the `{name}` of the state that it was asked about; "
                    "copy what you change"
                )
        if self._mask is not None:
            self._mask.see(place, self._apart)

    def see_copied(self, place: Place) -> None:
        """Ask at a place of the walk with copies."""
        n = self._n
        singly = [range(row, row + 1) for row in reversed(range(n, 2 * n))]
        ask(self._potential, place, self._copied, [range(n), *singly, range(2 * n, 3 * n), range(3 * n, 4 * n)])

    def compare(self, copies: Copies, walk_apart: Callable[[], Iterable[Place]]) -> None:
        """Tell what was promised and not kept, and the first way of asking that changed an answer.

        `walk_apart`: the walk without copies once more.
        """
        said = len(self._report.faults)
        self._compare_answers(copies, walk_apart)
        check_promises(self._report, self.who, self._apart)
        if len(self._report.faults) == said:
            self._report.passed.append(
                f"'{self.who}' keeps its promises, and answers alike in any order, again, and of copies"
            )

    def _compare_answers(self, copies: Copies, walk_apart: Callable[[], Iterable[Place]]) -> None:
        first, second, mine, theirs = np.arange(self._n), self._n + np.arange(self._n), self._copied, self._apart
        beside = _find_other(mine, first, theirs, copies.chosen)
        singly = _find_other(mine, first, mine, second)
        if beside is None and singly is None:
            self._compare_copies(copies)
            return
        again = Answers()
        for place in walk_apart():
            ask(self._potential, place, again)
        everybody = np.arange(BLOCKS * self._n)
        if found := _find_other(theirs, everybody, again, everybody):
            self._tell(found[0], theirs, found[1], again, found[1], f"when it was asked {_AGAIN}")
        # The second block has no copies: where it has kept to what was said first, copies have changed the row.
        elif beside and _find_other(mine, second, theirs, copies.chosen) is None:
            t, i = beside
            self._tell(t, theirs, copies.chosen[i], mine, i, f"beside copies of it: {_OF_COPIES}")
        else:
            t, i = singly or beside or (0, 0)
            those = (mine, second[i]) if singly else (theirs, copies.chosen[i])
            self._tell(t, mine, i, *those, f"when it was asked {_ALONE}")

    def _compare_copies(self, copies: Copies) -> None:
        """After a fork each row has what its parent had."""
        said = self._copied
        for t in range(len(said.levels)):
            for block in (2, 3):
                models = copies.find_models(block, t)
                those = block * self._n + np.arange(self._n)
                if (found := _find_other(said, models, said, those, t)) is not None:
                    i = found[1]
                    self._tell(t, said, models[i], said, those[i], f"of its copy: {_OF_COPIES}")
                    return

    def _tell(self, t: int, one: Answers, row: Any, other: Answers, that: Any, when: str) -> None:
        said, elsewhere = one.worth[t][row], other.worth[t][that]
        self._report.add_fault(
            f"'{self.who}' at step {t} said {said:.6g} of {one.shown[t][row]}, and {elsewhere:.6g} {when}"
        )


def _find_other(one: Answers, rows: Rows, other: Answers, those: Rows, only: int | None = None) -> Any:
    """The first step (`only` that one), and of `rows` the first place, at which two answers differ; None if nowhere."""
    for t, (mine, theirs) in enumerate(zip(one.worth, other.worth, strict=False)):
        same = np.isclose(mine[rows], theirs[those], rtol=CLOSE, atol=CLOSE, equal_nan=True)
        if only in (None, t) and not same.all():
            return t, int(np.flatnonzero(~same)[0])
    return None
