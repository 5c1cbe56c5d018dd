"""Programs as models of the engine: the decorator, a program with its arguments, conditional SMC."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import numpy as np

from feynkac.base.arguments import refuse_names, suggest_names
from feynkac.base.contract import LogW, Mask, Rng
from feynkac.base.errors import ArgumentError, UnknownArgument, quote
from feynkac.base.host import check_not_forked
from feynkac.base.memory import Memory
from feynkac.programs.context import Context
from feynkac.programs.particle import Particle
from feynkac.programs.population import Particles
from feynkac.programs.returned import check_returned
from feynkac.programs.runtime.limits import Limits
from feynkac.programs.runtime.record import RETURN, Record, get_kind, list_choices
from feynkac.programs.runtime.rows import ProgramCall, ProgramRow
from feynkac.programs.runtime.scheduler import Lease, Run
from feynkac.programs.saving import identify_argument, load_particles, save_particles
from feynkac.programs.served import ServedContext
from feynkac.programs.travel import find_by_name, find_function, name_of_function

P = ParamSpec("P")
R = TypeVar("R")
_NO_PROGRAMS = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


@dataclass(frozen=True)
class Program:
    """A generation program with its arguments: a model whose samples are the values that it returns.

    One step of the engine serves the `p.sample` at which each particle waits, and runs it on to its next one or to its
    end; the scores on the way are the increment, and the twist enters as its change since the last one, which is the
    same as a level of the engine. The law of a program is that of its samples without proposals; observations,
    conditions and factors weigh it.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    others: tuple[Program, ...] = ()
    """Programs that run in the same batch (see `join`)."""

    @property
    def name(self) -> str:
        return self.function.__name__

    def limited(self, *, max_steps: int | None = 10_000, max_tokens: int | None = None) -> Program:
        """The same program with budgets for each particle: samples that it takes, tokens in any of its contexts.

        A particle that goes beyond is taken to run forever: the run ends with a ProgramError that shows its text.
        """
        return replace(self, limits=Limits(max_steps, max_tokens))

    def join(self, others: Sequence[Any]) -> Program:
        """One model of several problems, in one batch: this program, then the others."""
        if any(not isinstance(other, Program) for other in others):
            raise ArgumentError("problems run in one batch only if all are programs; run them apart")
        return replace(self, others=(*self.others, *others))

    def init(self, n: int, rng: Rng) -> Particles:
        """`n` programs that have not begun, the same number of each."""
        check_not_forked()
        run, calls = self._open()
        if n % len(calls):
            raise ArgumentError(f"{n} particles for {len(calls)} programs; give each the same number")
        rows = [ProgramRow(call, g) for g, call in enumerate(calls) for _ in range(n // len(calls))]
        return Particles(Lease(run), rows, Memory(n))

    def _open(self) -> tuple[Run, list[ProgramCall]]:
        """A new run, and what the rows of each problem run in it."""
        programs = (self, *self.others)
        language = {"make_handle": Particle, "make_context": Context, "make_served": ServedContext}
        run = Run(self.name, self.limits, len(programs), check_returned=check_returned, **language)
        return run, [ProgramCall(program.function, program.args, program.kwargs) for program in programs]

    def prepare_saving(self) -> Program:
        """See `feynkac.base.capabilities.Saves`."""
        return self

    def identify(self) -> dict[str, Any]:
        """What tells this program from others: its name, and its arguments as far as they are plain, or models."""
        return {"program": self.name, "arguments": [*map(identify_argument, self.args)],
                **{name: identify_argument(value) for name, value in self.kwargs.items()}}  # fmt: skip

    def save(self, state: Particles) -> Any:
        """See `feynkac.base.capabilities.Saves`."""
        return save_particles(state)

    def load(self, saved: Any) -> Particles:
        """What `save` wrote."""
        run, calls = self._open()
        return Particles(Lease(run), *load_particles(run, calls, saved))

    def step(self, t: int, state: Particles, rng: Rng) -> tuple[Particles, LogW]:
        """Run every program to its next sample; (N,) increments in nats."""
        rows, increment = state.run.step(t, state.rows, rng)
        return Particles(state.lease, rows, state.memory), increment

    def done(self, state: Particles) -> Mask:
        """(N,) which programs have returned."""
        return np.array([get_kind(row.tail) is RETURN for row in state.rows], np.bool_)

    def replay(self, t: int, state: Particles, rng: Rng, reference: list[list[Record]]) -> tuple[Particles, LogW]:
        """Like `step`, but row 0 takes the choices of `reference` (conditional SMC)."""
        pins = reference[t] if t < len(reference) else []
        rows, increment = state.run.step(t, state.rows, rng, pins)
        return Particles(state.lease, rows, state.memory), increment

    def trace(self, state: Particles, row: int) -> list[list[Record]]:
        """The choices of `row`, step by step: what makes `replay` retrace it."""
        return list_choices(state.rows[row].tail)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Travels by the name of its function, under which the decorated one is found."""
        if (name := name_of_function(self.function)) is None:
            return super().__reduce_ex__(protocol)  # a local function: it is copied, and refused by pickle
        return _restore, (*name, self.args, self.kwargs, self.limits, self.others)

    def __call__(self, p: Particle, *args: Any, **kwargs: Any) -> Any:
        """Run as a part of the program whose particle is `p`, on these arguments behind its own.

        Raises ArgumentError if `p` is no particle.
        """
        if not isinstance(p, Particle):
            raise ArgumentError(
                f"{quote(self)} has its arguments already; steer it, or run it as a part: p.call(program)"
            )
        return self.function(p, *self.args, *args, **{**self.kwargs, **kwargs})

    def __repr__(self) -> str:
        given = [repr(value) for value in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.name}({', '.join(given)})"


def _restore(module: str, name: str, *rest: Any) -> Program:
    function = find_function(module, name)
    if function is None:
        raise ArgumentError(f"there is no program {name} in {module} of this process")
    return Program(function, *rest)


class ProgramFunction(Generic[P, R]):
    """A program without its arguments: calling it with them gives a `Program` to steer.

    Called by another program with its own `p` first, it runs as a part of that one, as `p.call` does.
    """

    def __init__(self, function: Callable[Concatenate[Particle, P], R], limits: Limits) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.limits = limits
        self._signature = inspect.signature(function)

    @overload
    def __call__(self, p: Particle, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Program: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Particle):
            return self.function(*args, **kwargs)
        self._check(args, kwargs)
        return Program(self.function, args, kwargs, self.limits)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A wrong call is an error here, not in the middle of a run."""
        parameters = self._signature.parameters
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            refuse_names(self.function.__name__, kwargs.keys() - parameters.keys(), list(parameters)[1:])
        try:
            self._signature.bind(None, *args, **kwargs)
        except TypeError as error:
            own = quote(self)
            raise UnknownArgument(f"{own} is called with what stands behind its first argument: {error}") from None

    def __reduce_ex__(self, protocol: Any) -> Any:
        name = name_of_function(self.function)
        return super().__reduce_ex__(protocol) if name is None else (find_by_name, name)

    def __repr__(self) -> str:
        return f"<program {self.function.__name__}{self._signature}>"


@overload
def program(function: Callable[Concatenate[Particle, P], R], /) -> ProgramFunction[P, R]: ...
@overload
def program(
    *, max_steps: int | None = ..., max_tokens: int | None = ...
) -> Callable[[Callable[Concatenate[Particle, P], R]], ProgramFunction[P, R]]: ...


@suggest_names()
def program(
    function: Callable[..., Any] | None = None, /, *, max_steps: int | None = 10_000, max_tokens: int | None = None
) -> Any:
    """Make a generation program of an ordinary function whose first argument is the particle `p`.

        @program
        def no_e(p, lm, prompt, max_tokens=30):
            text = lm.context(prompt)
            while not text.ended and len(text) < max_tokens:
                token = p.sample(text.next_token())
                p.condition("e" not in token.lower())
            return str(text)

        result = feynkac.steer(no_e(lm, "The weather today is"), particles=32)

    A program may depend only on its arguments and on what `p` returns, and leaves its arguments as they are: where a
    particle is forked it is run again on its recorded choices. `max_steps` and `max_tokens` are its budgets (see
    `Program.limited`). Raises ArgumentError for what is no plain function.
    """
    if function is None:
        return lambda decorated: program(decorated, max_steps=max_steps, max_tokens=max_tokens)  # pyright: ignore[reportCallIssue]
    if not callable(function) or isinstance(function, type):
        raise ArgumentError(f"{quote(function)} is no function; write @program above `def name(p, ...)`")
    if not (isinstance(function, ProgramFunction) or inspect.isfunction(function) or inspect.ismethod(function)):
        raise ArgumentError(f"{quote(function)} is no function of Python's own; write `def name(p, ...)` that calls it")
    if any(is_kind(function) for is_kind in _NO_PROGRAMS):
        name = getattr(function, "__name__", function)
        raise ArgumentError(f"{name}: a program is a plain function, without async, await and yield")
    return ProgramFunction(function, Limits(max_steps, max_tokens))
