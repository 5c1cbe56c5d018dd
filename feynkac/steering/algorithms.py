"""What the algorithms of `steer` have in common, and those that are one run of the engine.

Particle Gibbs, which is many runs, is in `feynkac.steering.sweeps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from feynkac.base.capabilities import Bounded, Branches, ChecksForks, require
from feynkac.base.clock import Stopwatch
from feynkac.base.contract import LogW, Potential, Resample, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count, read_particles, read_share, read_whole
from feynkac.base.words import is_word
from feynkac.results.result import Result
from feynkac.smc import resample as schemes
from feynkac.smc.branching import branching_smc
from feynkac.smc.checks import name_of
from feynkac.smc.engine import RandomSource, Step, smc
from feynkac.smc.observers import close, walk
from feynkac.steering.checkpoints.populations import Follower
from feynkac.steering.deaths import explain_death
from feynkac.steering.jobs import Control, Glimpse, look_at
from feynkac.steering.moves import Moving, check_algorithm
from feynkac.steering.problems import Problems
from feynkac.steering.recorder import Recorder
from feynkac.steering.timing import TimedModel, TimedPotential
from feynkac.steering.verdicts import Verdicts, watch_deaths

if TYPE_CHECKING:
    from feynkac.steering.checkpoints.saving import Saver

Algorithm = Literal["smc", "optimal", "importance", "best_of_n", "beam", "gibbs", "exact"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
WITHOUT_FORKS = ("importance", "best_of_n", "exact")
BEAM_WIDTH = 2
"""Ways in which a beam extends each particle before it chooses among them."""
SWEEPS = 10
"""Sweeps of particle Gibbs where none are asked for."""
CANNOT_BRANCH = (
    "{} cannot tell all that may come next, as prompts of language models can, and algorithm='optimal' weighs all of "
    "it; take algorithm='smc' or 'beam'"
)
STARTS = ": the first, from plain SMC, is a start only"
OF_PARTICLES = ", the share of the particles below which they are resampled"


@dataclass(frozen=True)
class Plan:
    """The arguments of `steer` that say how to sample. Raises ArgumentError for what cannot be."""

    algorithm: Algorithm
    particles: int
    islands: int
    resampler: str | Resample
    ess_threshold: float
    sweeps: int | None
    moves: Moving | None = None

    def __post_init__(self) -> None:
        if not is_word(self.algorithm, ALGORITHMS):
            raise ArgumentError(f"algorithm is {quote(self.algorithm)}; it must be one of {', '.join(ALGORITHMS)}")
        object.__setattr__(self, "particles", read_particles("particles", self.particles))  # Python's, not numpy's
        object.__setattr__(self, "islands", read_whole("islands", self.islands, 1))
        if self.sweeps is not None:
            object.__setattr__(self, "sweeps", read_count("sweeps", self.sweeps, STARTS, 2))
        if self.particles % self.islands:
            parts = f"it must divide the {self.particles} particles into equal parts"
            raise ArgumentError(f"islands is {quote(self.islands)}; {parts}")
        object.__setattr__(self, "ess_threshold", read_share("ess_threshold", self.ess_threshold, OF_PARTICLES))
        check_algorithm(self.moves, self.algorithm)
        if self.algorithm == "gibbs":
            self._check_chains()
        elif self.sweeps is not None:
            raise ArgumentError(f"sweeps={quote(self.sweeps)} is for algorithm='gibbs' only; leave it out")

    def _check_chains(self) -> None:
        if self.particles < 2 * self.islands:
            raise ArgumentError(
                f"gibbs with {self.particles // self.islands} particles a chain cannot move; give at least 2 for each "
                f"of the {self.islands} islands"
            )

    def check_models(self, models: Sequence[Any]) -> None:
        """Raises the error of a model whose particles cannot be copied, where the algorithm copies them."""
        if self.algorithm in WITHOUT_FORKS or self.resampler is schemes.never:
            return
        for model in models:
            if isinstance(model, ChecksForks):
                model.check_forks()

    def of_island(self) -> Plan:
        """How one island by itself is sampled."""
        moves = None if self.moves is None else self.moves.divide(self.islands)
        return replace(self, particles=self.particles // self.islands, islands=1, moves=moves)

    @property
    def size(self) -> int:
        """Particles in the population of one problem; a beam holds all its extensions."""
        return self.particles * (BEAM_WIDTH if self.algorithm == "beam" else 1)

    def resample(self) -> Resample:
        """How one island resamples."""
        if self.algorithm in WITHOUT_FORKS:
            return schemes.never
        if self.algorithm == "beam":
            return schemes.then(schemes.optimal(self.particles // self.islands), schemes.split(BEAM_WIDTH))
        if isinstance(self.resampler, str):
            return schemes.adaptive(schemes.by_name(self.resampler), ess=self.ess_threshold)
        if callable(self.resampler):
            return self.resampler
        raise ArgumentError(
            f"resampler is {quote(self.resampler)}; give the name of a scheme, or a function of the log-weights"
        )

    def resample_islands(self) -> Resample:
        """How a population resamples, each island apart."""
        return schemes.islands(self.resample(), self.islands) if self.islands > 1 else self.resample()


class Batch:
    """One run of the engine over all problems at once."""

    def __init__(
        self, problems: Problems, plan: Plan, streams: RandomSource, seed: int, saver: Saver | None = None
    ) -> None:
        """`saver`: what saves it on its way, and may have a population to go on from."""
        self._problems, self._plan, self._seed, self._watch = problems, plan, seed, Stopwatch()
        self._limits = [model.max_steps for model in problems.models if isinstance(model, Bounded)]
        verdicts = Verdicts()
        moving = plan.moves is not None
        self._recorders = [
            Recorder(g, plan.islands, verdicts, masked=problems.only_masks(g), moves=moving)
            for g in range(len(problems))
        ]
        whole = plan.algorithm == "best_of_n"
        weighed = problems.weigh()
        watched = watch_deaths(weighed, verdicts)
        weigh = AtTheEnd(watched) if whole else watched
        model = problems.join(guided=not whole)
        if plan.moves is not None:
            plan.moves.check(model)
        self._saver = None if saver is None else Follower(saver, model, self._recorders)
        model = model if self._saver is None else self._saver.model
        parts = TimedModel(model, self._watch), TimedPotential(weigh, self._watch, problems.places)
        unwatched = TimedPotential(weighed, self._watch, problems.places)
        moves = None if plan.moves is None else plan.moves.bind(parts[0], unwatched, plan)
        self._start = self._last = None if self._saver is None else self._saver.take_up(moves)
        begin: Any = {"n": [plan.size] * len(problems)} if self._start is None else {"start": self._start}
        if plan.algorithm == "optimal":
            refusal = CANNOT_BRANCH.format(type(problems.models[0]).__name__)
            require(model, Branches, refusal, ArgumentError).check_branches()
            self._steps = branching_smc(*parts, **begin, rng=streams, islands=plan.islands)
        else:
            self._steps = smc(*parts, **begin, resample=plan.resample_islands(), rng=streams, moves=moves or ())

    @property
    def has_particles(self) -> bool:
        """Whether there are particles to hand over, of every problem."""
        return all(recorder.step is not None for recorder in self._recorders)

    has_begun = has_particles

    @property
    def is_complete(self) -> bool:
        """Whether all particles of all problems have come to their ends."""
        whole = self._last
        return whole is not None and whole.ended

    def advance(self, control: Control) -> Iterator[Step]:
        """Go on by a step at a time, to the end or to where `control` ends it."""
        bar, saver = control.make_bar(max(filter(None, self._limits), default=None)), self._saver
        watching = [*control.observers, control.spending, bar]
        if self._start is not None and self._start.ended:
            close(*watching)
            return
        with closing(walk(self._steps, *self._recorders, *watching, *([] if saver is None else [saver]))) as steps:
            for step in steps:
                self._last = step
                yield step
        if saver is not None and self._last is not None:
            saver.save(self._last)

    def look(self, g: int) -> Glimpse | None:
        """The particles of a problem now; None before it has any."""
        return look_at(self._recorders[g])

    def collect(self, complete: bool) -> list[Result]:
        """What there is, one Result for each problem."""
        notices = [[] if dead is None else [dead] for dead in self.explain_deaths()]
        options = {"complete": complete, "algorithm": self._plan.algorithm}
        return [
            recorder.make_result(self._watch, self._seed, warnings=notice, **options)
            for recorder, notice in zip(self._recorders, notices, strict=True)
        ]

    def explain_deaths(self) -> list[str | None]:
        """For each problem why all its particles died, None where one lives."""
        return [
            explain_death(each, self._problems.find_potential(g)) if each.died else None
            for g, each in enumerate(self._recorders)
        ]


class AtTheEnd:
    """A potential that foresees nothing: it weighs whole samples only, as best-of-N does."""

    def __init__(self, potential: Potential) -> None:
        self._potential, self.name = potential, name_of(potential)

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) zeros."""
        return np.zeros(len(rows))

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats, as the potential has it."""
        return self._potential.final(state, rows)
