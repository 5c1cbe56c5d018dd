"""The front door: one call that steers a model with potentials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, overload

from feynkac.errors import ArgumentError, FeynkacError
from feynkac.masks import TokenConstraint
from feynkac.potentials.base import product
from feynkac.result import Result
from feynkac.run import Recorder, Stopwatch, death_notice, raise_if_dead
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.observers import Observer, Progress, run
from feynkac.smc.protocols import Model, Resample
from feynkac.smc.rng import Streams

Algorithm = Literal["smc", "importance", "beam"]
ALGORITHMS = ("smc", "importance", "beam")
BEAM_WIDTH = 2
"""Ways in which a beam extends each particle before it chooses among them."""


@overload
def steer(model: list[Any] | tuple[Any, ...], *potentials: Any, **options: Any) -> list[Result]: ...
@overload
def steer(model: Model, *potentials: Any, **options: Any) -> Result: ...


def steer(
    model: Any,
    *potentials: Any,
    particles: int = 16,
    algorithm: Algorithm = "smc",
    resampler: str | Resample = "ssp",
    ess_threshold: float = 0.5,
    islands: int = 1,
    seed: int | None = None,
    progress: bool | None = None,
    on_death: Literal["raise", "return"] = "raise",
    observers: Iterable[Observer] = (),
) -> Any:
    """Sample from p(x) prod_k exp(potential_k(x)), where p is the law of `model`, with particles.

    Returns a `Result`: weighted samples and the log of the normalising constant in nats. A list of models runs as one
    batch and gives a list of Results; each problem has its own weights and its own resampling.

    - `potentials`: constraints, rewards, functions of the text (bool: a constraint on whole texts; number: a reward
      in nats), or any object with `level` and `final`. Constraints that can mask tokens also guide the proposal.
    - `algorithm`: "smc" resamples when the effective sample size falls below `ess_threshold` times the particles;
      "importance" never does; "beam" extends each particle in two ways at every step and keeps half of the outcomes
      without replacement (Fearnhead and Clifford 2003), so that a result holds twice as many.
    - `resampler`: the name of a scheme in `feynkac.smc.resample`, or a value that replaces scheme and threshold.
    - `islands`: populations that never mix; with two or more the standard error of the log evidence is known.
    - `seed`: the same seed gives the same result; None draws one, and `Result.seed` tells it.
    - `progress`: a progress bar; None shows one on a terminal.
    - `on_death`: "raise" raises AllParticlesDied if every particle has weight zero, "return" gives the dead Result.
    - `observers`: called with every `smc.engine.Step`; one that returns True ends the run there.

    Ctrl-C ends the run and returns the particles there are (`Result.complete` is then False). An error in a potential
    or in the model carries them as `error.partial`. Raises ArgumentError for bad arguments.
    """
    many = isinstance(model, list | tuple)
    models = list(model) if many else [model]
    _check(models, particles, on_death, islands)
    potential = product(*potentials)
    resample, size = _resampler(algorithm, resampler, ess_threshold, islands, particles)
    joint = _joint(models, potential)
    streams, watch = Streams(seed), Stopwatch()
    recorders = [Recorder(g, islands) for g in range(len(models))]
    steps = smc(
        watch.timed("model", joint, "init", "step"),
        watch.timed("potentials", potential, "level", "final"),
        n=[size] * len(models),
        resample=resample,
        rng=streams,
    )

    def results(complete: bool) -> list[Result]:
        notices = [[death_notice(r, potential)] if r.died else [] for r in recorders]
        return [
            recorder.result(watch, streams.seed, complete=complete, warnings=notice)
            for recorder, notice in zip(recorders, notices, strict=True)
        ]

    watchers = [*recorders, *observers, _bar(progress, models)]
    try:
        complete = run(steps, *watchers).ended
    except KeyboardInterrupt:
        complete = False
    except FeynkacError as error:
        if recorders[0].step is not None:
            partial = results(False)
            error.partial = partial if many else partial[0]
        raise
    outcome = results(complete)
    if on_death == "raise" and complete:
        raise_if_dead(recorders, potential, outcome)
    return outcome if many else outcome[0]


def _bar(progress: bool | None, models: list[Any]) -> Progress:
    limits = [prompt.max_tokens for model in models for prompt in getattr(model, "prompts", ())]
    return Progress(max(limits, default=None), force=progress)


def _check(models: list[Any], particles: int, on_death: str, islands: int) -> None:
    if not models:
        raise ArgumentError("an empty list of models; give at least one")
    for model in models:
        if not all(callable(getattr(model, method, None)) for method in ("init", "step", "done")):
            raise ArgumentError(
                f"{model!r} is no model; steer a prompt, as in lm.prompt('...'), or an object with init, step and done"
            )
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
        raise ArgumentError(f"particles is {particles!r}; it must be an integer of at least 1")
    if isinstance(islands, bool) or not isinstance(islands, int) or islands < 1 or particles % islands:
        raise ArgumentError(f"islands is {islands!r}; it must divide the {particles} particles into equal parts")
    if on_death not in ("raise", "return"):
        raise ArgumentError(f"on_death is {on_death!r}; it must be 'raise' or 'return'")


def _resampler(
    algorithm: str, resampler: str | Resample, ess_threshold: float, islands: int, particles: int
) -> tuple[Resample, int]:
    """The resampling of an algorithm, and the size of the population that it works on."""
    if algorithm not in ALGORITHMS:
        raise ArgumentError(f"algorithm is {algorithm!r}; it must be one of {', '.join(ALGORITHMS)}")
    size = particles
    if algorithm == "importance":
        chosen: Resample = schemes.never
    elif algorithm == "beam":
        chosen, size = schemes.then(schemes.optimal(particles // islands), schemes.split(BEAM_WIDTH)), 2 * particles
    elif isinstance(resampler, str):
        chosen = schemes.adaptive(schemes.by_name(resampler), ess=ess_threshold)
    elif callable(resampler):
        chosen = resampler
    else:
        raise ArgumentError(f"resampler is {resampler!r}; give the name of a scheme, or a function of the log-weights")
    return (schemes.islands(chosen, islands) if islands > 1 else chosen), size


def _joint(models: list[Any], potential: Any) -> Model:
    """One model of all problems, its proposal masked by the constraints that can mask tokens."""
    first, *others = models
    if others:
        if not hasattr(first, "joined"):
            raise ArgumentError(f"{type(first).__name__} cannot run with others in one batch; steer them one by one")
        first = first.joined(others)
    masks = [f for f in getattr(potential, "factors", (potential,)) if isinstance(f, TokenConstraint)]
    return first.constrained(masks) if masks and hasattr(first, "constrained") else first
