"""The front door: one call that steers a model with potentials."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, Unpack, overload

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Biased, find_reader
from feynkac.base.contract import Model, Resample
from feynkac.base.errors import ArgumentError, FeynkacError, ModelLost
from feynkac.base.host import check_not_forked
from feynkac.base.numbers import read_flag
from feynkac.base.words import is_word
from feynkac.results.result import Result
from feynkac.smc.observers import Observer, read_observers
from feynkac.smc.rng import Streams
from feynkac.steering.algorithms import Algorithm, Plan
from feynkac.steering.deaths import raise_if_dead
from feynkac.steering.exclusions import refuse_contradiction
from feynkac.steering.executors.divided import Divided
from feynkac.steering.executors.pieces import Executor
from feynkac.steering.moves import read_moves
from feynkac.steering.options import ADVICE, SteerOptions
from feynkac.steering.problems import read_problems
from feynkac.steering.starting import start

BIASED = (
    "biased: the proposal leaves its weights out, so that samples, weights and evidence follow no declared target, "
    "however many the particles"
)


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
    - `progress`: a progress bar; None shows one on a terminal.
    - `on_death`: "raise" raises AllParticlesDied if every particle has weight zero, before the run where no text meets
      some constraints at once and that is soon found out; "return" gives the dead Result.
    - `observers`: called with every `smc.engine.Step`; one that returns True ends the run there.
    - `executor`: where islands and problems run, as `fk.RayExecutor(...)` on many machines; None is here, in one batch.
      Problems have the random numbers that they have without one, islands other ones (see
      `feynkac/steering/executors/README.md`).

    All algorithms have the same target. All but "gibbs" give an unbiased evidence and properly weighted samples.

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
      so that posterior and evidence have no noise (what is left out has less than a billionth of the evidence). For
      prompts of language models under finite constraints of some thousand prefixes, such as `choices`; ArgumentError
      for more. `particles`, `islands`, `seed` and `observers` mean nothing here.

    Ctrl-C ends the run and returns the particles there are, of "gibbs" the finished sweeps (`Result.complete` is then
    False); so does a server that is lost on the way (`ModelLost`), which is then the first warning. Before the first
    step both are raised. What a potential, the model or an observer raises arrives as PotentialError, ModelError (of a
    program ProgramError) or FeynkacError, which name who and at which step, with the cause in `__cause__` and the
    particles in `error.partial`, also where memory ran out. Raises ArgumentError for bad arguments, ProgramError
    inside of a program, except through p.once.
    """
    check_not_forked()
    many = isinstance(model, list | tuple)
    plan = Plan(algorithm, particles, islands, resampler, ess_threshold, sweeps, read_moves(moves))
    if not is_word(on_death, ("raise", "return")):
        raise ArgumentError(f"on_death is {on_death!r}; it must be 'raise' or 'return'")
    watching = read_observers(observers)
    progress = None if progress is None else read_flag("progress", progress)
    problems, streams = read_problems(model, potentials), Streams(seed)
    plan.check_models(problems.models)
    if on_death == "raise":
        refuse_contradiction([problems.find_potential(g) for g in range(len(problems))])
    job = start(problems, plan, streams) if executor is None else Divided(problems, plan, streams.seed, executor)

    def results(complete: bool) -> list[Result]:
        readers = [find_reader(problems.find_potential(g)) for g in range(len(problems))]
        found = [replace(each, reader=reader) for each, reader in zip(job.collect(complete), readers, strict=True)]
        warned = [_warn(result, each) for result, each in zip(found, problems.models, strict=True)]
        return [replace(result, warnings=[*lost, *result.warnings]) for result in warned] if lost else warned

    lost: list[str] = []
    try:
        complete = job.drive(watching, progress)
    except (KeyboardInterrupt, ModelLost) as stopped:
        if not job.has_begun:
            raise
        complete, lost = False, [str(stopped)] if isinstance(stopped, ModelLost) else []
    except FeynkacError as error:
        if job.has_particles:
            with suppress(Exception):  # what failed may be what shows the particles, too
                partial = results(False)
                error.partial = partial if many else partial[0]
        raise
    outcome = results(complete)
    if on_death == "raise" and complete:
        raise_if_dead(job.explain_deaths(), outcome)
    return outcome if many else outcome[0]


def _warn(result: Result, model: Any) -> Result:
    """`result`, which says so where the model's proposal leaves its weights out."""
    if not (isinstance(model, Biased) and model.biased):
        return result
    return replace(result, biased=True, warnings=[BIASED, *result.warnings])
