"""Runs that are watched while they last: `for step in fk.stream(...)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from feynkac.base.contract import Model
from feynkac.base.errors import ArgumentError, FeynkacError, quote
from feynkac.base.words import is_word
from feynkac.results.posterior import Weighted
from feynkac.results.result import Result
from feynkac.smc.weights import log_sum_exp
from feynkac.steering.jobs import Glimpse
from feynkac.steering.options import SteerOptions, check_names
from feynkac.steering.running import Run

UNSEEN = "{} has no populations to watch on its way; use fk.steer, or leave {}= out of fk.stream"
NO_RESULT = "the stream has no result yet; take a step first, as in `for step in stream:`"


class Moment(Weighted):
    """The particles of one problem after a step, weighted for the target so far, guesses included.

    What is cheap is here at once; `samples`, `texts` and `result` are made when they are asked for, which must be
    before the next step, since a run does not keep what is behind it.
    """

    t: int
    """The step, from 0."""
    sweep: int | None
    """The sweep of particle Gibbs, from 0, whose populations these are; None for other algorithms."""
    log_evidence: float
    """The estimate so far, in nats; under particle Gibbs that of the first sweeps."""

    def __init__(self, seen: Glimpse, run: Run, g: int) -> None:
        self.t, self.sweep, self.log_weights = seen.t, seen.sweep, seen.log_weight
        self.log_evidence = log_sum_exp(seen.log_weight)
        self._seen: Glimpse | None = seen
        self._run: Run | None = run
        self._g = g
        self._samples: list[Any] | None = None

    @property
    def samples(self) -> list[Any]:
        """What each particle has become so far, such as texts. Raises ArgumentError after the next step."""
        if self._samples is None:
            self._samples = self._check().show()
        return self._samples

    @property
    def texts(self) -> list[str]:
        """The samples as text. Raises ArgumentError after the next step."""
        return [str(sample) for sample in self.samples]

    @property
    def best(self) -> Any:
        """The sample of the heaviest particle. Raises ArgumentError after the next step."""
        return self.samples[int(self.log_weights.argmax())]

    @property
    def result(self) -> Result:
        """The Result of the run so far, as a run that was stopped here gives it. Raises ArgumentError later on."""
        self._check()
        assert self._run is not None
        return self._run.find_results()[self._g]

    def pass_by(self) -> None:
        """Let go of the run, which goes on."""
        self._seen = self._run = None

    def _check(self) -> Glimpse:
        if self._seen is None:
            raise ArgumentError(
                f"step {self.t} is over, and what it held is gone; read samples, texts and result before the next step"
            )
        return self._seen

    def __repr__(self) -> str:
        sweep = "" if self.sweep is None else f" of sweep {self.sweep}"
        return f"Moment(step {self.t}{sweep}, log evidence {self.log_evidence:.3f}, ess {self.ess:.1f})"


M = TypeVar("M", Moment, list[Moment])
R = TypeVar("R", Result, list[Result])


class Stream(Generic[M, R]):
    """The steps of a run, each made when it is asked for, and its `result`.

    It is an iterator, for one loop. A run whose stream and steps are all forgotten is freed; `close()` ends one sooner,
    and so does `with`. Any thread may ask for the next step, one at a time; pipelines of diffusers alone, which cannot
    move, go on in the thread in which they have begun.
    """

    def __init__(self, run: Run) -> None:
        self._run: Run | None = run
        self._steps = run.advance()
        self._moments: list[Moment] = []
        self._outcome: Any = None
        self._turn = Lock()

    def __iter__(self) -> Stream[M, R]:
        return self

    def __next__(self) -> M:
        """The next step. Raises what `steer` raises, and ArgumentError while another step is being made."""
        with self._take_turn():
            return self._go_on()

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise ArgumentError("a stream was asked for something while it makes a step; ask from one thread at a time")
        try:
            yield
        finally:
            self._turn.release()

    def _go_on(self) -> Any:
        if (run := self._run) is None:
            raise StopIteration
        try:
            next(self._steps)
        except StopIteration:
            self._leave(run.finish())
            raise
        except FeynkacError as error:
            self._leave(error.partial)
            raise
        except BaseException:
            self._leave(None)
            raise
        seen = [run.look(g) for g in range(len(run))]
        for moment in self._moments:
            moment.pass_by()
        self._moments = [Moment(each, run, g) for g, each in enumerate(seen) if each is not None]
        return self._moments if run.many else self._moments[0]

    @property
    def result(self) -> R:
        """The Result, or those of a list of problems: at the end the one that `steer` gives, before it that so far.

        Raises ArgumentError before the first step.
        """
        if self._run is not None and self._moments:
            found = self._run.find_results()
            return cast(R, found if self._run.many else found[0])
        if self._outcome is None:
            raise ArgumentError(NO_RESULT)
        return self._outcome

    def close(self) -> None:
        """End the run, free what it holds, and keep the result so far. Steps that were given hold nothing any more."""
        with self._take_turn():
            outcome = self._outcome
            if self._run is not None:
                with suppress(Exception):  # also where the samples cannot be shown the run is to end
                    outcome = self.result if self._moments else None
            for moment in self._moments:
                moment.pass_by()
            self._leave(outcome)

    def _leave(self, outcome: Any) -> None:
        """Keep what came out, and let the run go."""
        self._run, self._moments, self._outcome = None, [], outcome
        self._steps.close()  # which may raise, where an observer cannot be closed

    def __enter__(self) -> Stream[M, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@overload
def stream(
    model: list[Any] | tuple[Any, ...], *potentials: Any, **options: Unpack[SteerOptions]
) -> Stream[list[Moment], list[Result]]: ...
@overload
def stream(model: Model, *potentials: Any, **options: Unpack[SteerOptions]) -> Stream[Moment, Result]: ...


def stream(model: Any, *potentials: Any, **options: Unpack[SteerOptions]) -> Any:
    """The steps of a run of `steer`, with its particles, while it lasts.

        for step in fk.stream(task, fk.regex("[^e]*"), particles=32, seed=0):
            print(step.t, step.ess, step.log_evidence, step.best)

    It takes what `steer` takes, and each step is a `Moment`: `t`, `weights`, `log_evidence`, `ess`, and, made when they
    are asked for, `samples`, `texts` and the `result` so far. For a list of problems it is a list of them. Under
    particle Gibbs there is one for each sweep. Nothing runs between two steps: leave the loop, and the run is over.

        with fk.stream(task, reward, seed=0) as stream:
            for step in stream:
                if step.ess < 2:
                    break
        stream.result

    `Stream.result` is what there is so far, and after the loop the Result that `steer` gives with the same seed, bit
    for bit. Errors are raised by the step in which they arise; Ctrl-C during a step ends the loop, with the particles
    there are in `result`. `progress` is off unless it is True, as a loop may print.

    Raises ArgumentError for algorithm="exact" and for `executor=`, which have no populations to watch; and what `steer`
    raises.
    """
    check_names("stream", options)
    return Stream(start_run(model, potentials, options))


def start_run(model: Any, potentials: tuple[Any, ...], options: SteerOptions, halt: Event | None = None) -> Run:
    """A run to be watched. Raises ArgumentError for one that cannot be."""
    if is_word(options.get("algorithm"), ("exact",)):
        raise ArgumentError(UNSEEN.format("algorithm='exact'", "algorithm"))
    if (executor := options.get("executor")) is not None:
        raise ArgumentError(UNSEEN.format(f"executor={quote(executor)}", "executor"))
    return Run(model, potentials, halt=halt, **{"progress": False, **options})
