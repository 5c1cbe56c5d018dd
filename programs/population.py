"""Populations of programs: N records, from which samples, texts and ends are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rows
from feynkac.base.memory import Memory
from feynkac.base.problems import Problem, list_problems
from feynkac.programs.runtime.record import DEATH, RETURN, find_sampled, write_value
from feynkac.programs.runtime.rows import ProgramRow
from feynkac.programs.runtime.scheduler import Lease, Run


class Unfinished(str):
    """The text so far of a particle that has not returned, which stands for its sample."""

    def __repr__(self) -> str:
        return f"<unfinished {str(self)!r}>"


@dataclass
class Particles:
    """N runs of programs. What a row is follows from its record alone, so that a population never changes.

    `feynkac.programs.saving` writes it to a file and reads it again.
    """

    lease: Lease
    rows: list[ProgramRow]
    memory: Memory

    @property
    def run(self) -> Run:
        """What runs the programs, of this population and of all others of the run."""
        return self.lease.run

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def group(self) -> NDArray[np.int64]:
        """(N,) the number of each row's program in the batch."""
        return np.array([row.group for row in self.rows], np.int64)

    def fork(self, rows: Rows) -> Particles:
        """The population whose row `i` continues from `rows[i]`; programs are run again where they are needed."""
        return Particles(self.lease, [self.rows[i] for i in rows.tolist()], self.memory.fork(rows))

    def retire(self, rows: Rows) -> None:
        """Mark rows as dead."""
        for i in rows.tolist():
            row = self.rows[i]
            if not row.over:
                self.rows[i] = row.retire()

    def samples(self, rows: Rows) -> list[Any]:
        """What the programs returned; the text so far of one that has not."""
        return [self._show(self.rows[int(i)]) for i in rows]

    def texts(self, rows: Rows) -> list[str]:
        """The samples as text; of an unfinished program, the text of the context that it opened first."""
        return [str(sample) for sample in self.samples(rows)]

    def tell_last(self, rows: Rows) -> tuple[list[bytes], LogW]:
        """(R,) what each of `rows` sampled in the last step, as text; its nats are not known."""
        found = [find_sampled(self.rows[int(i)].tail, self.run.t) for i in rows]
        return [b"" if each is None else write_value(each[0]) for each in found], np.full(len(found), np.nan)

    def spell(self, pieces: Sequence[bytes]) -> Sequence[bytes]:
        """(K,) these texts, which they are already."""
        return pieces

    def tell_problems(self, rows: Rows) -> list[Problem]:
        """(R,) which program each particle runs; what it continues is its own affair."""
        return list_problems((self.rows[int(i)].group for i in rows), self.memory.problems)

    def tell_ends(self, rows: Rows) -> list[str | None]:
        """At which lines the programs of dead `rows` gave up."""
        tails = [self.rows[int(i)].tail for i in rows]
        return [tail[2] if tail is not None and tail[1] is DEATH else None for tail in tails]

    @property
    def forwarded(self) -> list[int] | None:
        """Tokens forwarded so far; None where nothing was, or where it was for several problems at once."""
        return self.run.forwarded

    def list_doubts(self, group: int) -> list[str]:
        """See `feynkac.base.capabilities.Doubts`: memory that ran out, whichever program it was for."""
        return self.run.models.strains

    def _show(self, row: ProgramRow) -> Any:
        tail = row.tail
        if tail is not None and tail[1] is RETURN:
            return tail[3]
        places = tail[3] if tail is not None and tail[1] is DEATH else row.places
        return Unfinished(places[0].read() if places else "")
