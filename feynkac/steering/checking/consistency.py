"""Whether a potential keeps its promises, and answers alike however it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from feynkac.base.capabilities import Shows, Writes
from feynkac.base.memory import Memory
from feynkac.smc.checks import name_of
from feynkac.steering.checking.report import Report
from feynkac.steering.checking.walks import CLOSE, Answers, Place, ask, walk


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


def check_answers(report: Report, model: Any, potential: Any, n: int, steps: int, seed: int) -> Answers:
    """Ask the same in other ways: again, row by row, of copies. Returns what it said the first time."""
    who, first = name_of(potential), Answers()
    for place in walk(model, n, steps, seed):
        before = _snapshot(place.state)
        ask(potential, place, first)
        for name in _find_changed(before, _snapshot(place.state)):
            report.add_fault(
                f"'{who}' at step {place.t} wrote to the `{name}` of the state that it was asked about; "
                "copy what you change"
            )
    for how, what in (("again", ""), ("singly", _ALONE)):
        other = Answers()
        for place in walk(model, n, steps, seed):
            ask(potential, place, other, singly=how == "singly")
        if found := first.find_other(other):
            t, row = found
            report.add_fault(
                f"'{who}' at step {t} said {first.worth[t][row]:.6g} of {first.shown[t][row]}, and "
                f"{other.worth[t][row]:.6g} when it was asked {what or _AGAIN}"
            )
            return first
    _check_copies(report, model, potential, first, n, seed)
    return first


_COPIED = 4  # steps after which a potential is asked of copies
_AGAIN = "again in another run: take no random numbers, and keep nothing from one run to the next"
_ALONE = "of this row alone: what a row is worth must not depend on the rows beside it, nor on their order"


def _check_copies(report: Report, model: Any, potential: Any, first: Answers, n: int, seed: int) -> None:
    """After a fork each row has what its parent had."""
    for t in range(min(len(first.levels), _COPIED)):
        rows = np.r_[n - 1, np.arange(n - 1)]
        copies = Answers()
        for place in walk(model, n, t + 1, seed, {t: rows}):
            ask(potential, place, copies)
        mine, theirs = copies.worth[t], first.worth[t][rows]
        wrong = np.flatnonzero(~np.isclose(mine, theirs, rtol=CLOSE, atol=CLOSE, equal_nan=True))
        if len(wrong):
            row = int(wrong[0])
            report.add_fault(
                f"'{name_of(potential)}' at step {t} said {theirs[row]:.6g} of {first.shown[t][rows[row]]}, and "
                f"{mine[row]:.6g} of its copy: what a potential remembers of a row must fork with it; keep it in "
                "`state.memory`, or compute it from the state"
            )
            return


def _choose(steps: int) -> list[int]:
    """The steps after which copies are made: the first, and one in the middle."""
    return sorted({0, steps // 2}) if steps > 0 else []


def check_siblings(report: Report, model: Any, n: int, steps: int, seed: int) -> None:
    """A child goes the same way whether or not it has a sibling: row 1 continues row 0 in both runs."""
    with_sibling, without = np.arange(n), np.arange(n)
    with_sibling[1], without[:2] = 0, (1, 0)
    longest = sum(1 for _ in walk(model, n, steps, seed))
    for t in _choose(longest - 1):
        walks = (walk(model, n, steps, seed, {t: rows}) for rows in (with_sibling, without))
        for one, other in zip(*walks, strict=False):
            if one.t < t:
                continue
            same = np.isclose(one.increment[1], other.increment[1], rtol=CLOSE, atol=CLOSE)
            if not same or _describe(one, 1) != _describe(other, 1):
                report.add_fault(
                    f"'{name_of(model)}': row 0, copied after step {t}, went to {one.show(1)} beside a sibling, and to "
                    f"{other.show(1)} without: children must share nothing that is written to; copy it in `fork`"
                )
                return
    report.passed.append("copies of a row go their ways by themselves")


def _describe(place: Place, row: int) -> Any:
    """What a row can be told by."""
    if isinstance(place.state, (Shows, Writes)):
        return place.show(row)
    return _snapshot(place.state.fork(np.array([row])))


def _snapshot(state: Any) -> dict[str, Any]:
    """What a state holds in arrays, texts and numbers, running values of potentials aside."""
    kept = {name: value for name, value in getattr(state, "__dict__", {}).items() if not isinstance(value, Memory)}
    return {name: _freeze(value, 3) for name, value in kept.items()}


def _freeze(value: Any, depth: int) -> Any:
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return value
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype != object else _freeze(value.tolist(), depth)
    if isinstance(value, (list, tuple)) and depth:
        return tuple(_freeze(each, depth - 1) for each in value)
    if isinstance(value, dict) and depth:
        return tuple((repr(key), _freeze(each, depth - 1)) for key, each in value.items())
    detach: Any = getattr(value, "detach", None)
    if callable(detach):  # a tensor, and torch need not be imported to tell
        tensor: Any = detach()
        return repr(tensor.cpu().tolist())
    return None


def _find_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if name in after and before[name] != after[name]]
