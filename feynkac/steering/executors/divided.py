"""A call of `steer` whose pieces an executor runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from feynkac.base.errors import ArgumentError, FeynkacError, ModelError, quote
from feynkac.results.result import Result
from feynkac.smc.budgets import Budget
from feynkac.smc.progress import make_bar
from feynkac.steering.algorithms import Plan
from feynkac.steering.executors.merging import merge_islands
from feynkac.steering.executors.pieces import IN_TURNS, Call, Executor, Outcome, count_steps, cut
from feynkac.steering.jobs import Control
from feynkac.steering.problems import Problems

OBSERVED = (
    "observers= with executor=: an observer sees the populations of one process, and these are in others; leave one "
    "of them out"
)


class Divided:
    """All pieces of a call, and what became of them."""

    def __init__(self, problems: Problems, plan: Plan, seed: int, executor: Any, budget: Budget | None = None) -> None:
        if isinstance(executor, type) or not isinstance(executor, Executor):
            raise ArgumentError(
                f"executor is {quote(executor)}; give fk.RayExecutor(...), fk.LocalExecutor(...), or an object with "
                "`jobs` and `run`"
            )
        # What one process would refuse is refused here, before anything is sent.
        plan.resample()
        if plan.moves is not None:
            plan.moves.check_chains(plan)
        if len(problems) > 1 and plan.algorithm not in IN_TURNS:
            problems.join(guided=False)
        self._executor, self._pieces = executor, cut(Call(problems, plan, seed), executor.jobs)
        self._call = Call(problems, plan, seed, budget and budget.divide(len(self._pieces)))
        self._outcomes: dict[int, Outcome] = {}

    @property
    def has_begun(self) -> bool:
        """Whether some problem has particles."""
        return any(outcome.results for outcome in self._outcomes.values())

    @property
    def has_particles(self) -> bool:
        """Whether every problem has particles to hand over."""
        return all(self._list_units(g) for g in range(len(self._call.problems)))

    @property
    def is_complete(self) -> bool:
        """Whether all pieces came to their end."""
        return len(self._outcomes) == len(self._pieces) and all(each.complete for each in self._outcomes.values())

    def advance(self, control: Control) -> Iterator[None]:
        """Have all pieces run; nothing of them can be looked at before. Raises ArgumentError for observers."""
        if list(control.observers):
            raise ArgumentError(OBSERVED)
        bar = Bar([count_steps(self._call, piece) for piece in self._pieces], control.progress)

        def keep(outcome: Outcome) -> None:
            self._outcomes[outcome.piece.number] = outcome
            if outcome.error is not None:
                raise outcome.error from outcome.cause
            bar.finish(outcome.piece.number, outcome.steps)

        def tell(number: int, steps: int) -> None:
            bar.tell(number, steps)
            if control.spending.is_over():
                raise _Spent

        try:
            self._executor.run(self._call, self._pieces, keep, tell)
        except FeynkacError as error:
            self._hand_over(error)
            raise
        except KeyboardInterrupt:
            if control.spending.why is None:
                raise
        finally:
            bar.close()
        control.spending.why = control.spending.why or self._find_spent()
        yield from ()

    def look(self, g: int) -> None:
        """None: the particles are elsewhere."""

    def _hand_over(self, error: FeynkacError) -> None:
        """Let an error carry what there is."""
        if self.has_begun:
            with suppress(Exception):  # what failed may be what shows the particles, too
                merged = self._merge()
                error.partial = merged if len(merged) > 1 else merged[0]

    def _find_spent(self) -> str | None:
        found = [each.spent for each in self._outcomes.values() if each.spent is not None]
        return f"of its share, as one of {len(self._pieces)} jobs, {found[0]}" if found else None

    def collect(self, complete: bool) -> list[Result]:
        """What there is, one Result for each problem. Raises ModelError, with the others, if some have none."""
        found = [result for result in self._merge() if result is not None]
        if len(found) < len(self._call.problems):
            error = ModelError(
                f"the run was stopped when {len(found)} of {len(self._call.problems)} problems had begun; their "
                "results are in the error's `partial`"
            )
            error.partial = found or None
            raise error
        return found

    def explain_deaths(self) -> list[str | None]:
        """For each problem why all its particles died, None where one lives."""
        found = [self._list_units(g) for g in range(len(self._call.problems))]
        return [units[0][1] if units and all(death for _, death in units) else None for units in found]

    def _merge(self) -> list[Result | None]:
        return [self._merge_problem(g) for g in range(len(self._call.problems))]

    def _merge_problem(self, g: int) -> Result | None:
        units, islands = self._list_units(g), self._call.islands
        if not units:
            return None
        result = merge_islands([result for result, _ in units], [death for _, death in units])
        notes = self._list_losses(g)
        if len(units) < islands:
            notes.append(f"{len(units)} of {islands} islands had begun when the run ended; the others are left out")
            result = replace(result, complete=False)
        return replace(result, warnings=[*notes, *result.warnings])

    def _list_units(self, g: int) -> list[tuple[Result, str | None]]:
        """The islands of a problem that have particles, each with why all its particles died."""
        found = []
        for outcome in map(self._outcomes.get, range(len(self._pieces))):
            if outcome is not None:
                deaths = [*outcome.deaths, *[None] * (len(outcome.results) - len(outcome.deaths))]
                for unit, result, death in zip(outcome.piece.units, outcome.results, deaths, strict=False):
                    if unit // self._call.islands == g:
                        found.append((result, death))
        return found

    def _list_losses(self, g: int) -> list[str]:
        """What to know of workers that died over a problem."""
        lost = sum(
            outcome.lost
            for outcome in self._outcomes.values()
            if any(unit // self._call.islands == g for unit in outcome.piece.units)
        )
        if not lost:
            return []
        times = "once" if lost == 1 else f"{lost} times"
        return [
            f"a worker was lost {times}; its part was run again, from the start and with the same random numbers, so "
            "that the result is what it would have been"
        ]


class _Spent(KeyboardInterrupt):
    """Ends a run as Ctrl-C does, where its budget is used up."""


class Bar:
    """One progress bar of all pieces: steps, and pieces that are done."""

    def __init__(self, limits: Sequence[int | None], progress: bool | None) -> None:
        known = [limit for limit in limits if limit is not None]
        self._limits, self._seen, self._done = limits, [0] * len(limits), 0
        total = sum(known) if len(known) == len(limits) else None
        self._bar = make_bar(total, shown=progress, unit="step")

    def tell(self, number: int, steps: int) -> None:
        """A piece has come so far; less far than before where it had to be begun again."""
        self._bar.update(steps - self._seen[number])
        self._seen[number] = steps

    def finish(self, number: int, steps: int) -> None:
        """A piece is done, maybe in fewer steps than it might have taken: then there are fewer in all."""
        self.tell(number, steps)
        limit = self._limits[number]
        self._done += 1
        if self._bar.total is not None and limit is not None:
            self._bar.total -= limit - steps
        self._bar.set_postfix_str(f"{self._done} of {len(self._limits)} jobs done")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
