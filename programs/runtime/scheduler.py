"""Runs the programs of all particles side by side; all that wait for logits at one moment are served together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from feynkac.base.contract import LogW, Rng
from feynkac.base.errors import FeynkacError, ProgramError, ReplayDiverged
from feynkac.programs.particle import Particle
from feynkac.programs.runtime.execution import Execution
from feynkac.programs.runtime.output import tagged
from feynkac.programs.runtime.record import DEATH, RETURN, SAMPLE, Record, Tail, kind_of
from feynkac.programs.runtime.serving import Ask, Block, served
from feynkac.programs.runtime.strand import Strand

if TYPE_CHECKING:
    from feynkac.models.language.histories import Histories, Node
    from feynkac.models.language.lm import CausalLM
    from feynkac.programs.program import Call


class Row(NamedTuple):
    """One particle between two steps. All that counts is in its record; the running program only saves a replay."""

    call: Call
    group: int
    tail: Tail = None
    pending: tuple[str, Any] | None = None
    """The request at which the program waits; None before it has begun."""
    places: tuple[Any, ...] = ()
    """Where its contexts stand (see `Particle.places`)."""
    particle: Particle | None = None

    @property
    def over(self) -> bool:
        return kind_of(self.tail) in (RETURN, DEATH)


_ALLOW_MORE = "Bound its loops, or allow more with `.limited(max_steps=, max_tokens=)`"
_new = tuple.__new__  # Row(...) would take twice as long, and there is one a particle and step


@dataclass(frozen=True)
class Limits:
    """Budgets of each particle; None for none."""

    max_steps: int | None = 10_000
    max_tokens: int | None = None


class Run:
    """One run of the engine over programs: their language models' histories, and what is running now."""

    def __init__(self, name: str, limits: Limits, groups: int) -> None:
        self.name, self.limits, self.t = name, limits, 0
        self.groups = groups
        self._histories: dict[Any, Histories] = {}
        self._prompts: dict[Any, Node] = {}
        self._live: set[Particle] = set()
        self.idle: list[Strand] = []
        """Strands without work."""
        self._keys: Any = None
        self._rng: Rng | None = None
        self._size = 0

    def step(self, t: int, rows: Sequence[Row], rng: Rng, pins: Sequence[Record] = ()) -> tuple[list[Row], LogW]:
        """Serve the sample at which each row waits, and run it on to the next one; row 0 takes `pins` instead.

        Returns the new rows and their (N,) increments in nats.
        """
        self.t, self._rng, self._size, self._keys = t, rng, len(rows), None
        uniforms = rng.uniform(len(rows)).tolist()
        try:
            with tagged():
                running = self._running(rows, list(pins)[::-1])
                self._settle(list(running.values()))
                self._sample([p for p in running.values() if p.pending is not None], uniforms)
        except BaseException:
            self._keep(set())
            raise
        increment = np.zeros(len(rows))
        result = list(rows)
        for i, particle in running.items():
            increment[i], particle.increment = particle.increment, 0.0
            result[i] = self._row(rows[i], particle)
        return result, increment

    @property
    def forwarded(self) -> list[int] | None:
        """Tokens forwarded so far; None for several problems in one batch, which share their forward passes."""
        return [sum(h.forwarded for h in self._histories.values())] if self.groups == 1 and self._histories else None

    def root(
        self, lm: CausalLM, prompt: tuple[Any, ...], read: Callable[..., tuple[int, ...]]
    ) -> tuple[Histories, Node]:
        """The history of `read(*prompt)`, which are token ids; read once a run."""
        key = (lm, repr(prompt))
        if key not in self._prompts:
            if lm not in self._histories:
                from feynkac.models.language.histories import Histories

                self._histories[lm] = Histories(lm)
            self._prompts[key] = self._histories[lm].root(read(*prompt))
        return self._histories[lm], self._prompts[key]

    def key(self, row: int) -> float:
        """A second uniform of each row, for `p.rng`."""
        if self._keys is None:
            assert self._rng is not None
            self._keys = self._rng.uniform(self._size).tolist()
        return self._keys[row]

    def spend(self, particle: Particle, tokens: int) -> None:
        """Raise ProgramError if a context has grown past the budget."""
        if self.limits.max_tokens is not None and tokens > self.limits.max_tokens:
            raise self.endless(particle, f"a context of more than {self.limits.max_tokens} tokens (max_tokens)")

    def endless(self, particle: Execution, what: str, advice: str = _ALLOW_MORE) -> ProgramError:
        """The error of a program that does not stop."""
        return ProgramError(
            f"program '{self.name}', particle {particle.row}, does not stop: {what}. Its text so far: "
            f"{_shown(particle)}. {advice}"
        )

    # --- inner workings

    def _running(self, rows: Sequence[Row], pins: list[Record]) -> dict[int, Particle]:
        """A particle for each row that is not over: the one that runs already, or one that replays its record."""
        running: dict[int, Particle] = {}
        taken = set[Particle]()
        replaying = []
        for i, row in enumerate(rows):
            particle = row.particle
            if row.over:
                continue
            if particle is None or particle in taken or particle.tail is not row.tail or not particle.strand:
                particle = Particle(self, i, (row.call.function, row.call.args, row.call.kwargs), row.tail)
                replaying.append((particle, row))
            particle.row, particle.pins = i, [] if i else pins
            taken.add(particle)
            running[i] = particle
        self._keep(taken)
        for particle, row in replaying:
            particle.expected = row.pending
            self._replay(particle, fresh=row.pending is None)
        if self.limits.max_steps is not None and self.t >= self.limits.max_steps and running:
            raise self.endless(next(iter(running.values())), f"{self.limits.max_steps} steps (max_steps)")
        return running

    def _keep(self, particles: set[Particle]) -> None:
        """Close all others."""
        for stale in self._live - particles:
            stale.close()
        self._live = particles

    def _replay(self, particle: Particle, fresh: bool) -> None:
        """Run a program up to the request at which the record of its parent ends."""
        try:
            self._resume(particle, None)
        except FeynkacError:
            raise
        except Exception as cause:
            if fresh:
                raise
            raise ReplayDiverged(
                f"program '{self.name}', particle {particle.row}: when it was run again to fork a particle, it raised "
                f"{type(cause).__name__}: {cause}. A program may depend only on its arguments and on what p returns"
            ) from cause
        if not fresh and (particle.pending is None or particle.expected is not None):
            raise ReplayDiverged(
                f"program '{self.name}', particle {particle.row}: when it was run again to fork a particle, it ended "
                "where it had gone on before. A program may depend only on its arguments and on what p returns"
            )

    def _sample(self, waiting: Sequence[Particle], uniforms: Sequence[Any]) -> None:
        """Draw for all that wait for a sample, and run them on."""
        asking, asks, pins = [], [], []
        for particle in waiting:
            assert particle.pending is not None
            pin = particle.pins.pop() if particle.pins else None
            dist = particle.pending[1]
            if dist.in_context:
                asking.append(particle)
                asks.append(dist.ask(*(() if pin is None else (pin.value,))))
                pins.append(pin)
            else:
                self._resume(particle, (uniforms[particle.row], pin, None))
        drawn = [uniforms[particle.row] for particle in asking]
        for particle, u, pin, answer in zip(asking, drawn, pins, self._answers(asks, drawn), strict=True):
            self._resume(particle, (u, pin, answer))
        self._settle(waiting)

    def _settle(self, particles: Sequence[Particle]) -> None:
        """Answer what particles ask between two samples, until each waits for its next sample or is over."""
        while asking := [p for p in particles if p.pending is not None and p.pending[0] is not SAMPLE]:
            asks = [particle.pending[1] for particle in asking if particle.pending is not None]
            for particle, answer in zip(asking, self._answers(asks, [0.0] * len(asks)), strict=True):
                self._resume(particle, answer)

    def _answers(self, asks: Sequence[Ask | Block], uniforms: Sequence[Any]) -> Sequence[Any]:
        if not asks:
            return ()
        held: dict[Histories, set[Node]] = {}
        for particle in self._live:
            for context in particle.contexts() if not particle.over else ():
                if not context.ended:
                    held.setdefault(context.histories, set()).add(context.heading or context.node)
        return served(asks, uniforms, held)

    def _resume(self, particle: Particle, answer: Any) -> None:
        try:
            particle.resume(answer)
        except Exception as error:
            if not isinstance(error, ReplayDiverged):
                where = f"in program '{self.name}', particle {particle.row}, step {self.t}"
                error.add_note(f"{where}, text {_shown(particle)}" if particle.opened else where)
            raise

    def _row(self, row: Row, particle: Particle) -> Row:
        if particle.finished or particle.dead:
            self._live.discard(particle)
            return Row(row.call, row.group, particle.tail)
        places = particle.places() if particle.opened else ()
        return _new(Row, (row.call, row.group, particle.tail, particle.waiting(), places, particle))


def _shown(particle: Execution) -> str:
    texts = [str(context) for context in particle.contexts()]
    return " | ".join(repr(text if len(text) <= 200 else "..." + text[-200:]) for text in texts) or "(none)"
