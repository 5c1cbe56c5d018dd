"""Who gave particles weight zero: each factor is asked through a witness, which remembers whom it has killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from feynkac.base.capabilities import TellsEnds, has, is_hard, list_factors
from feynkac.base.contract import LogW, Potential, Rows
from feynkac.potentials.base import Factor, product
from feynkac.smc.checks import name_of
from feynkac.smc.engine import Step


class Verdicts:
    """The factor that killed each row of a population, and whether the row had finished."""

    def __init__(self) -> None:
        self._killers: dict[int, tuple[str, bool]] = {}
        self._new: set[int] = set()
        """Rows killed in this step."""

    def note(self, killer: str, rows: Sequence[int], finished: bool) -> None:
        """`killer` has given these rows weight zero."""
        self._killers.update(dict.fromkeys(rows, (killer, finished)))
        self._new.update(rows)

    def tell_new(self, rows: Rows) -> dict[int, str]:
        """Who killed which of `rows` in this step, by their places among these."""
        if not self._new:
            return {}
        return {i: self._killers[row][0] for i, row in enumerate(rows.tolist()) if row in self._new}

    def settle(self, rows: Rows, resampled: bool) -> None:
        """A step of these rows is over; where it began with a resampling, those killed before it live again."""
        if not self._killers:
            return
        here = rows.tolist()
        if resampled:
            for row in self._killers.keys() & set(here) - self._new:
                del self._killers[row]
        self._new.difference_update(here)

    def describe(self, step: Step, state: Any, rows: Rows) -> list[str]:
        """Who killed the dead among `rows`, each with how many; those that no factor killed died in their model."""
        ends = state.tell_ends(rows) if has(state, TellsEnds) else [None] * len(rows)
        counts = Counter[tuple[str, str]]()
        for row, dead, end in zip(rows.tolist(), step.log_weight == -np.inf, ends, strict=True):
            killer, finished = self._killers.get(row, (None, False))
            if dead and killer is not None:
                how = f"finished, {end}" if finished and end else "finished" if finished else "unfinished"
                counts[f"'{killer}' rejects", how] += 1
            elif dead and end is not None:
                counts["the model gave up", end] += 1
        return [f"{who} {count} {how}" for (who, how), count in counts.most_common()]


class Witness(Factor):
    """A factor, as it is, except that a verdict of weight zero is noted."""

    def __init__(self, factor: Potential, verdicts: Verdicts) -> None:
        self.name, self.hard = name_of(factor), is_hard(factor)
        self._factor, self._verdicts = factor, verdicts

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats, as the factor has it."""
        return self._note(self._factor.level(t, state, rows), rows, False)

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats, as the factor has it."""
        return self._note(self._factor.final(state, rows), rows, True)

    def _note(self, values: Any, rows: Rows, finished: bool) -> Any:
        found = np.asarray(values)
        if found.shape == rows.shape and found.dtype.kind == "f" and (dead := found == -np.inf).any():
            self._verdicts.note(self.name, rows[dead].tolist(), finished)
        return values


def watch_deaths(potential: Any, verdicts: Verdicts) -> Potential:
    """`potential`, each factor of which is watched by a witness."""
    return product(*(Witness(factor, verdicts) for factor in list_factors(potential)))
