"""A walk on which rows are copied after every step, beside one on which none is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Grouped, KeepsSources, LaysUp, Shows, Weighed, Writes, has
from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import quote
from feynkac.base.memory import Memory
from feynkac.smc.checks import name_of
from feynkac.smc.rng import KeyedRng
from feynkac.steering.checking.report import Report
from feynkac.steering.checking.walks import CLOSE, Place, walk
from feynkac.steering.recorder import show_samples

BLOCKS = 4
"""Blocks of rows in the population of a walk."""


class Copies:
    """What is copied on a walk of four blocks of n rows, after every step, and which draws each row gets.

    `chosen`: (n,) rows of a walk of 4n without copies, as unlike each other as may be: rows that are worth the same
    hide that they were mistaken for each other.

    1. The chosen rows; they go the ways that they went there, by the same draws.
    2. The same rows by the same draws, of which nothing is ever copied: what is asked of them can be asked otherwise.
    3. Copies of the first block, made anew after every step, which then go other ways: siblings. Each time they stand
       one place farther down.
    4. Copies of the first block of which each moves up one place after every step; it gets the draws of the row that it
       is a copy of, and must go the same way. Where each slot `keeps` a source of draws of its own, copies are made
       anew in the slots whose source is that of the row.
    """

    def __init__(self, chosen: Rows, keeps: bool = False) -> None:
        self.chosen, self.n, self._keeps = chosen, len(chosen), keeps

    def fork(self, t: int) -> Rows:
        """(4n,) the parents of the rows, after step `t`."""
        first = np.arange(self.n)
        fourth = first if self._keeps else 3 * self.n + np.roll(first, -1)
        return np.concatenate([first, self.n + first, self.find_models(2, t), fourth])

    def find_models(self, block: int, t: int) -> Rows:
        """(n,) of which rows of the first block those of block 2 (counted from 0) or 3 are copies after step `t`."""
        if block == 3 and self._keeps:
            return np.arange(self.n)
        return (np.arange(self.n) + (t + 1 if block == 3 else -t - 1)) % self.n

    def slots(self, t: int) -> Rows:
        """(4n,) whose draws each row gets in step `t`."""
        return np.concatenate([self.chosen] * 3 + [self.chosen[self.find_models(3, t - 1)]])


class SlotRng(KeyedRng):
    """The numbers of another stream, those of `slots[i]` for row `i`."""

    def __init__(self, stream: KeyedRng, slots: Rows) -> None:
        self._stream, self._slots = stream, slots

    def uniform(self, n: int) -> NDArray[np.float64]:
        """(n,) uniforms in [0, 1), one for each row."""
        return self._stream.uniform(n)[self._slots]

    def normal(self, shape: Sequence[int]) -> NDArray[np.float64]:
        """Standard normals of `shape`, whose first dimension is the rows."""
        return self._stream.normal(shape)[self._slots]


class ForkCheck:
    """Whether rows and their copies go their ways by themselves, whatever else there is."""

    def __init__(self, report: Report, model: Any, n: int) -> None:
        self._report, self._who, self._n = report, name_of(model), n
        self._keeps = has(model, KeepsSources)
        self._copies = Copies(np.arange(n), self._keeps)
        self._apart: list[tuple[Place, list[Any]]] = []
        self._aside: tuple[Any, list[Any]] | None = None
        self.fault: str | None = None
        """What was found wrong."""

    def see_apart(self, place: Place) -> None:
        """Look at a place of the walk without copies."""
        self._apart.append((place, describe(place.state, np.arange(len(place.state)))))
        _ = place.shown  # as long as it can be seen

    def choose(self, worths: Sequence[list[LogW]]) -> Copies:
        """What is copied on the walk with copies; `worths`: what each potential said on the walk without, (4n,) a step.

        Rows that run for two steps come first, of these in turn the one that is worth the most and the one that is
        worth the least: where they are mistaken for each other, it shows.
        """
        rows = np.arange(BLOCKS * self._n)
        runs = np.minimum([sum(row in place.running for place, _ in self._apart) for row in rows], 2)
        total = np.nansum(
            [np.where(np.isinf(worth), -1e3, worth) for said in worths for worth in said] or [0 * rows], 0
        )
        # Rows of one length and one worth may still be told apart by what they show.
        shown = np.unique([" ".join(place.shown[row] for place, _ in self._apart) for row in rows], return_inverse=True)
        queue = np.lexsort((shown[1], total, -runs)).tolist()
        enough = max(self._n, int((runs == 2).sum()))
        queue, chosen = queue[:enough], []
        while len(chosen) < self._n:
            chosen.append(queue.pop(-1 if len(chosen) % 2 else 0))
        self._copies = Copies(np.array(chosen), self._keeps)
        return self._copies

    def see_copied(self, place: Place) -> None:
        """Look at the same place of the walk with copies."""
        if self.fault is not None:
            return
        rows, t, n = np.arange(BLOCKS * self._n), place.t, self._n
        seen = describe(place.state, rows)
        apart, alone = self._apart[t] if t < len(self._apart) else (place, seen)
        for row, same in enumerate(self._copies.chosen if t < len(self._apart) else range(n)):
            if not _is_alike(place, seen, row, apart, alone, same):
                self._tell(f"row {row} went to {place.shown[row]} at step {t} beside copies of its own, and to "
                           f"{apart.shown[same]} without: children must share nothing that is written to; copy it in "
                           "`fork`")  # fmt: skip
                return
        for block in (2, 3):
            for row, model in enumerate(self._copies.find_models(block, t), start=block * n):
                if not _is_alike(place, seen, row, place, seen, model):
                    self._tell(f"a copy of row {model} after step {t} is at {place.shown[row]}, the row itself at "
                               f"{place.shown[model]}: let `fork` copy all that belongs to a row")  # fmt: skip
                    return
        if self._aside is None:
            aside = place.state.fork(rows)
            self._aside = aside, describe(aside, rows)

    def finish(self) -> None:
        """Look at the copies that were put aside after the first step."""
        if self._aside is not None and self.fault is None:
            state, before = self._aside
            for row, (now, then) in enumerate(zip(describe(state, np.arange(len(before))), before, strict=True)):
                if not is_close(now, then):
                    self._tell(f"a copy of row {row} was put aside after step 0 at {quote(then)}, and is now at "
                               f"{quote(now)}: children must share nothing that is written to; copy it in "
                               "`fork`")  # fmt: skip
                    return
        if self.fault is None:
            self._report.passed.append("copies of a row go their ways by themselves, and as the row goes")

    def _tell(self, what: str) -> None:
        self.fault = f"'{self._who}': {what}"


def _is_alike(one: Place, seen: list[Any], row: int, other: Place, there: list[Any], model: int) -> bool:
    weighed = np.isclose(one.increment[row], other.increment[model], rtol=CLOSE, atol=CLOSE)
    return bool(weighed) and is_close(seen[row], there[model])


def walk_copied(model: Any, copies: Copies, steps: int, seed: int) -> Iterator[Place]:
    """The places of the walk with copies; each as it is behind the fork."""
    return walk(model, BLOCKS * copies.n, steps, seed, copies.fork, lambda t, rng: SlotRng(rng, copies.slots(t)))


def tells_apart(state: Any) -> bool:
    """Whether a state is of several problems, whose rows no block of a walk may mix."""
    return has(state, Grouped) and bool((np.asarray(state.group) != np.asarray(state.group)[0]).any())


def describe(state: Any, rows: Rows) -> list[Any]:
    """What rows can be told by: their texts or samples, or else all that the states of them alone hold."""
    if has(state, Writes):
        return list(state.texts(rows))
    if has(state, Shows):
        return [copy_value(sample) for sample in show_samples(state, rows)]
    return [copy_state(state.fork(rows[[i]])) for i in range(len(rows))]


def copy_state(state: Any) -> dict[str, Any]:
    """What a state holds in arrays, texts and numbers, aside from what potentials may write to."""
    own = {*(state.laid_up if has(state, LaysUp) else ()), *(("since",) if has(state, Weighed) else ())}
    kept = {
        name: value
        for name, value in getattr(state, "__dict__", {}).items()
        if name not in own and not isinstance(value, Memory)
    }
    return {name: copy_value(value) for name, value in kept.items()}


def copy_value(value: Any, depth: int = 3) -> Any:
    """A copy of arrays, texts and numbers, and of what holds them; None of all else."""
    if isinstance(value, (str, bytes, int, float, bool, complex, np.generic, type(None))):
        return value
    if isinstance(value, np.ndarray):
        return value.copy() if value.dtype != object else copy_value(value.tolist(), depth)
    if isinstance(value, (list, tuple)) and depth:
        return [copy_value(each, depth - 1) for each in value]
    if isinstance(value, dict) and depth:
        return {repr(key): copy_value(each, depth - 1) for key, each in value.items()}
    detach: Any = getattr(value, "detach", None)
    if callable(detach):  # a tensor, and torch need not be imported to tell
        tensor: Any = detach()
        return copy_value(np.array(tensor.cpu().tolist()))
    return None


def is_close(one: Any, other: Any, within: float = CLOSE) -> bool:
    """Whether two copies of values are the same, and numbers as close as `within`."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype.kind in "fc":
        return one.shape == other.shape and np.allclose(one, other, rtol=within, atol=within, equal_nan=True)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_close(one[key], other[key], within) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(is_close(a, b, within) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=within, atol=within, equal_nan=True))
    return one == other
