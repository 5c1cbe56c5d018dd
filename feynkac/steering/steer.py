"""The front door: one call that steers a model with potentials."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, Unpack, overload

from feynkac.base.arguments import suggest_names
from feynkac.base.contract import Model, Resample
from feynkac.results.result import Result
from feynkac.smc.budgets import Budget
from feynkac.smc.observers import Observer
from feynkac.steering.algorithms import Algorithm
from feynkac.steering.checkpoints.saved import Saved
from feynkac.steering.checkpoints.saving import Checkpoint
from feynkac.steering.executors.pieces import Executor
from feynkac.steering.options import ADVICE, SteerOptions
from feynkac.steering.running import Run


@overload
def steer(model: list[Any] | tuple[Any, ...], *potentials: Any, **options: Unpack[SteerOptions]) -> list[Result]: ...
@overload
def steer(model: Model, *potentials: Any, **options: Unpack[SteerOptions]) -> Result: ...


@suggest_names(**ADVICE)
def steer(
    model: Any,
    *potentials: Any,
    particles: int = 16,
    algorithm: Algorithm = "smc",
    resampler: str | Resample = "ssp",
    ess_threshold: float = 0.5,
    islands: int = 1,
    sweeps: int | None = None,
    moves: Any = None,
    seed: int | None = None,
    progress: bool | None = None,
    on_death: Literal["raise", "return"] = "raise",
    observers: Iterable[Observer] = (),
    executor: Executor | None = None,
    budget: Budget | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | Saved | None = None,
) -> Any:
    """Sample from p(x) prod_k exp(potential_k(x)), where p is the law of `model`, with particles.

    Returns a `Result`: weighted samples and the log of the normalising constant in nats. A list of problems runs as one
    batch and gives a list of Results; each has its own weights and its own resampling, all share the forward passes. A
    problem is a model, or a tuple of a model and potentials of its own, beside those of all:

        fk.steer([(lm.prompt(a), fk.json_schema(one)), (lm.prompt(b), fk.json_schema(other), reward)], particles=16)

    - `potentials`: constraints, rewards, functions of a text or an image (bool: a constraint on whole ones; number: a
      reward in nats), or any object with `level` and `final`. Constraints that can mask tokens also guide the proposal.
    - `algorithm`: one of those below.
    - `resampler`: the name of a scheme in `feynkac.smc.resample`, or a value that replaces scheme and threshold.
    - `islands`: populations that never mix. Two or more give `log_evidence_interval` an upper end; four is a start.
    - `sweeps`: of "gibbs", 10 by default, at least 2.
    - `moves`: of "smc": `fk.redraw(8)` draws the last tokens of all particles anew now and then, and takes them by the
      rule of Metropolis and Hastings, `fk.redraw(4, tail=4)` those before a tail that stays; `fk.rejuvenate(f)` makes
      moves of your own; all do waste-free SMC with `chains=`. The target stays what it is, and the evidence unbiased.
    - `seed`: the same seed gives the same result; None draws one, and `Result.seed` tells it.
    - `progress`: a progress bar; None shows one of runs that take more than half a second, on a terminal or in a
      notebook, in the main thread.
    - `on_death`: "raise" raises AllParticlesDied if every particle has weight zero, before the run where no text meets
      some constraints at once and that is soon found out; "return" gives the dead Result.
    - `observers`: called with every `smc.engine.Step`; one that returns True ends the run there. However the run ends,
      their `close()` is called, of those that have one.
    - `budget`: `fk.Budget(seconds=, tokens=, calls=)`, at whose first limit the run ends.
    - `executor`: where islands and problems run, as `fk.RayExecutor(...)` on many machines; None is here, in one batch.
      Problems have the random numbers that they have without one, islands other ones (see
      `feynkac/steering/executors/README.md`).
    - `checkpoint`: a path to which the run is saved, every 30 seconds or so (`fk.Checkpoint(path, every=10)`: every 10
      steps, or sweeps of "gibbs", too); `fk.resume(path, model, *potentials)` goes on from there after a kill, to the
      same result. For prompts, programs, samplers and canvases; not for "exact", nor with `executor`.

    All algorithms have the same target and give an unbiased evidence, all but "gibbs" properly weighted samples, too.

    - "smc" resamples when the effective sample size falls below `ess_threshold` times the particles; with 0 never.
    - "optimal" extends at most `particles` distinct texts in a step, weighs all their next tokens, and keeps some of
      these without replacement (Fearnhead and Clifford 2003). A result holds four times `particles`: texts that have
      ended keep their places, and potentials that weigh partial texts see four for each that is extended. For prompts
      of language models, with no proposal of their own and no lazy constraint. It pays for rewards that know partial
      texts, and a little for masks; where all is decided at the end, "smc" is better. `resampler` and `ess_threshold`
      mean nothing here.
    - "importance" never resamples. Constraints still mask its proposal.
    - "best_of_n" draws `particles` samples from the model as it stands (by its own proposal, where it has one): nothing
      is masked, and potentials are asked about whole samples only. `Result.best` is the one with the largest reward
      (that is, log-weight, into which goes also what a program scores). Weights and evidence are those of importance
      sampling from p.
    - "beam" extends each particle in two ways at every step and keeps half of the outcomes without replacement
      (Fearnhead and Clifford 2003), so that a result holds twice as many.
    - "gibbs" is particle Gibbs (Andrieu, Doucet, Holenstein 2010): the first of `sweeps` is plain SMC, each later one
      an SMC run of `particles` about a path drawn from the one before. The samples are the populations of all sweeps
      but the first, each with the same share of the weight: their mean tends to the posterior as the sweeps grow,
      for any number of particles. The evidence is that of the first sweep alone, since conditional runs overestimate
      it. `History.sweeps` says where in the history each begins. Each island is a chain of its own, a list of models
      takes turns. `resampler` and `ess_threshold` are for the first sweep; the conditional ones must draw ancestors
      multinomially at every step. Needs a model that can walk a path again, as prompts, programs and samplers can.
    - "exact" samples nothing: it lists every text that the constraints allow, each spelling by itself, with its weight,
      so that posterior and evidence have no noise (what is left out has less than 2e-8 of the evidence). For
      prompts of language models under finite constraints of some thousand prefixes, such as `choices`; ArgumentError
      for more. `particles`, `islands` and `seed` mean nothing here; `observers` see no step, and are closed.

    Ctrl-C ends the run and returns the particles there are, of "gibbs" the finished sweeps (`Result.complete` is then
    False). So do a budget that is used up, of "exact" with the texts found, and a server that is lost on the way
    (`ModelLost`); what it was is then the first warning. Before the first step Ctrl-C and ModelLost are raised. What a
    potential, the model or an observer raises arrives as PotentialError, ModelError (of a program ProgramError) or
    FeynkacError, which name who and at which step, with the cause in `__cause__` and the particles in `error.partial`,
    also where memory ran out. Raises ArgumentError for bad arguments, ProgramError inside of a program, except through
    p.once.
    """
    run = Run(
        model, potentials, particles=particles, algorithm=algorithm, resampler=resampler, ess_threshold=ess_threshold,
        islands=islands, sweeps=sweeps, moves=moves, seed=seed, progress=progress, on_death=on_death,
        observers=observers, executor=executor, budget=budget, checkpoint=checkpoint,
    )  # fmt: skip
    for _ in run.advance():
        pass
    return run.finish()
