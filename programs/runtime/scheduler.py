"""Runs the programs of all particles side by side; all that wait for logits at one moment are served together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from feynkac.base.contract import LogW, Rng
from feynkac.base.errors import FeynkacError, ProgramError, ReplayDiverged
from feynkac.programs.runtime.causes import describe_cause, describe_execution
from feynkac.programs.runtime.execution import Execution
from feynkac.programs.runtime.limits import Limits, make_endless
from feynkac.programs.runtime.opened import OpenedModels
from feynkac.programs.runtime.output import tag_lines
from feynkac.programs.runtime.record import SAMPLE, Record, Tail
from feynkac.programs.runtime.rows import ProgramCall, ProgramRow
from feynkac.programs.runtime.serving import Ask, Block, Inquiry, serve
from feynkac.programs.runtime.strand import Strand, find_home
from feynkac.smc.checks import FAULTS

if TYPE_CHECKING:
    from feynkac.models.language.histories import Histories
    from feynkac.models.language.nodes import Node
    from feynkac.programs.runtime.protocols import CheckReturned, MakeContext, MakeHandle, MakeServed

_new = tuple.__new__  # ProgramRow(...) would take twice as long, and there is one a particle and step


class Lease:
    """What all populations of a run hold: where the last is gone, programs that still wait are unwound.

    Nothing else would free them, for Python collects no cycle that goes through a suspended frame.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        finalize(self, run.close).atexit = False


class Run:
    """One run of the engine over programs: the language models that they have opened, and what is running now.

    `make_handle`, `make_context`, `make_served` and `check_returned` come from the language of the programs.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        groups: int,
        *,
        make_handle: MakeHandle,
        make_context: MakeContext,
        make_served: MakeServed | None = None,
        check_returned: CheckReturned = lambda name, value: None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.groups = groups
        self.make_handle = make_handle
        self.make_context = make_context
        self.make_served = make_served
        self.check_returned = check_returned
        self.t = 0
        self.idle: list[Strand] = []
        """Strands without work."""
        self.models = OpenedModels()
        self._live: set[Execution] = set()
        self._home: Any = None
        """What the strands can be entered from."""
        self._keys: Any = None
        self._rng: Rng | None = None
        self._size = 0

    def step(
        self, t: int, rows: Sequence[ProgramRow], rng: Rng, pins: Sequence[Record] = ()
    ) -> tuple[list[ProgramRow], LogW]:
        """Serve the sample at which each row waits, and run it on to the next one; row 0 takes `pins` instead.

        Returns the new rows and their (N,) increments in nats.
        """
        self.t = t
        self._rng = rng
        self._size = len(rows)
        self._keys = None
        uniforms = rng.uniform(len(rows)).tolist()
        try:
            with tag_lines():
                self._come_home()
                running = self._start(rows, list(pins)[::-1])
                self._settle(list(running.values()))
                self._sample([each for each in running.values() if each.pending is not None], uniforms)
        except BaseException:
            with suppress(Exception):  # what programs raise in their `finally` clauses
                self._keep(set())
            raise
        increment = np.zeros(len(rows))
        result = list(rows)
        for i, execution in running.items():
            increment[i] = execution.increment
            execution.increment = 0.0
            result[i] = self._make_row(rows[i], execution)
        return result, increment

    @property
    def forwarded(self) -> list[int] | None:
        """Tokens forwarded so far; None for several problems in one batch, which share their forward passes."""
        total = self.models.forwarded
        return [total] if self.groups == 1 and total is not None else None

    def return_again(self, row: int, call: ProgramCall, tail: Tail) -> Tail:
        """The record of a program that has returned, which is run again on all of it but that."""
        execution = Execution(self, row, call, tail)
        self._replay(execution, fresh=True)
        if not execution.finished:
            execution.close()
            raise ReplayDiverged(
                f"program '{self.name}', particle {row}: when it was run again on what was saved of it, it went on "
                "where it had returned before. A program may depend only on its arguments and on what p returns"
            )
        return execution.tail

    def draw_key(self, row: int) -> float:
        """A second uniform of each row, for `p.rng`."""
        if self._keys is None:
            assert self._rng is not None
            self._keys = self._rng.uniform(self._size).tolist()
        return self._keys[row]

    def close(self) -> None:
        """Unwind all programs that still wait, if they run on this thread."""
        if find_home() is self._home:
            with suppress(Exception):  # what programs raise in their `finally` clauses
                self._keep(set())

    # --- inner workings

    def _start(self, rows: Sequence[ProgramRow], pins: list[Record]) -> dict[int, Execution]:
        """An execution for each row that is not over: the one that runs already, or one that replays its record."""
        running: dict[int, Execution] = {}
        taken = set[Execution]()
        replaying = []
        for i, row in enumerate(rows):
            execution = row.execution
            if row.over:
                continue
            if execution is None or execution in taken or execution.tail is not row.tail or not execution.strand:
                execution = Execution(self, i, row.call, row.tail)
                replaying.append((execution, row))
            execution.row = i
            execution.pins = [] if i else pins
            taken.add(execution)
            running[i] = execution
        self._keep(taken)
        for execution, row in replaying:
            execution.expected = row.request
            self._replay(execution, fresh=row.request is None)
        if self.limits.max_steps is not None and self.t >= self.limits.max_steps and running:
            raise make_endless(next(iter(running.values())), f"{self.limits.max_steps} steps (max_steps)")
        return running

    def _come_home(self) -> None:
        """Leave what runs on another thread, where the step before may have been: it will be replayed on this one."""
        home = find_home()
        if home is not self._home:
            for execution in self._live:
                execution.strand = None
            self._live, self.idle, self._home = set(), [], home

    def _keep(self, executions: set[Execution]) -> None:
        """Close all others."""
        stale, self._live = self._live - executions, executions
        for execution in stale:
            self._guard(execution, execution.close)

    def _replay(self, execution: Execution, fresh: bool) -> None:
        """Run a program up to the request at which the record of its parent ends."""
        try:
            self._guard(execution, execution.resume, None)
        except ProgramError as error:
            if fresh or (cause := error.__cause__) is None:
                raise
            raise ReplayDiverged(
                f"program '{self.name}', particle {execution.row}: when it was run again to fork a particle, it raised "
                f"{type(cause).__name__}: {cause}. A program may depend only on its arguments and on what p returns"
            ) from cause
        if not fresh and (execution.pending is None or execution.expected is not None):
            raise ReplayDiverged(
                f"program '{self.name}', particle {execution.row}: when it was run again to fork a particle, it ended "
                "where it had gone on before. A program may depend only on its arguments and on what p returns"
            )

    def _sample(self, waiting: Sequence[Execution], uniforms: Sequence[Any]) -> None:
        """Draw for all that wait for a sample, and run them on."""
        asking = []
        asks = []
        pins = []
        for execution in waiting:
            assert execution.pending is not None
            pin = execution.pins.pop() if execution.pins else None
            dist = execution.pending[1]
            if dist.in_context:
                asking.append(execution)
                asks.append(dist.ask(*(() if pin is None else (pin.value,))))
                pins.append(pin)
            else:
                self._guard(execution, execution.resume, (uniforms[execution.row], pin, None))
        drawn = [uniforms[execution.row] for execution in asking]
        for execution, u, pin, answer in zip(asking, drawn, pins, self._answer(asks, drawn), strict=True):
            self._guard(execution, execution.resume, (u, pin, answer))
        self._settle(waiting)

    def _settle(self, executions: Sequence[Execution]) -> None:
        """Answer what programs ask between two samples, until each waits for its next sample or is over."""
        while asking := [each for each in executions if each.pending is not None and each.pending[0] is not SAMPLE]:
            asks = [each.pending[1] for each in asking if each.pending is not None]
            for execution, answer in zip(asking, self._answer(asks, [0.0] * len(asks)), strict=True):
                self._guard(execution, execution.resume, answer)

    def _answer(self, asks: Sequence[Ask | Block | Inquiry], uniforms: Sequence[Any]) -> Sequence[Any]:
        if not asks:
            return ()
        held: dict[Histories, set[Node]] = {}
        for execution in self._live:
            for context in execution.list_contexts() if not execution.over else ():
                if (place := context.held) is not None:
                    held.setdefault(place[0], set()).add(place[1])
        return serve(asks, uniforms, held)

    def _guard(self, execution: Execution, act: Callable[..., None], *args: Any) -> None:
        """`act(*args)`, which runs a program: what that raises arrives as ProgramError, our errors with a note."""
        try:
            act(*args)
        except ReplayDiverged:
            raise
        except FeynkacError as error:
            error.add_note(describe_execution(execution))
            raise
        except FAULTS as cause:
            raise ProgramError(
                f"{describe_execution(execution)}: {describe_cause(cause, execution.function)}"
            ) from cause

    def _make_row(self, row: ProgramRow, execution: Execution) -> ProgramRow:
        if execution.finished or execution.dead:
            self._live.discard(execution)
            return ProgramRow(row.call, row.group, execution.tail)
        places = execution.list_places() if execution.opened else ()
        return _new(ProgramRow, (row.call, row.group, execution.tail, execution.request, places, execution))
