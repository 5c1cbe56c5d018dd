"""Calls that run: at once, watched, awaited, limited, saved and taken up."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable
from typing import Any

import feynkac as fk
from calls.world import Call, World, look
from feynkac.smc import resample


def list_runs(world: World) -> dict[str, Call]:
    """`steer` and all that is like it."""
    return {**_runs(world), **_watched(world), **_resamplers(world)}


def _runs(world: World) -> dict[str, Call]:
    task, one = world.task, world.one
    steered = {"model": task, "potentials": [one], "particles": 2, "seed": 0, "on_death": "return"}
    base = {"base": task, "laws": {"tilt": (task, world.score)}, "reward": len, "texts": 20}
    moved = lambda moves: fk.steer(task, one, particles=4, seed=0, moves=moves)  # noqa: E731
    return {
        "steer": Call(fk.steer, steered, look, many="potentials"),
        "problems": Call(lambda model: fk.steer(model, particles=2, seed=0), {"model": [(task, one), task]}, look),
        "check": Call(fk.check, {"model": task, "potentials": [one], "timeout": 2.0}, str, many="potentials"),
        "bound_evidence": Call(
            fk.bound_evidence, {"model": task, "potentials": [one], "particles": 2, "runs": 2}, str, many="potentials"
        ),
        "ruler": Call(fk.ruler, base, lambda ruler: print(ruler.table())),
        "redraw": Call(fk.redraw, {"block": 1}, moved),
        "rejuvenate": Call(fk.rejuvenate, {"moves": [_stay]}, moved, many="moves"),
        "markov_twist": Call(fk.markov_twist, {"task": task, "constraint": one, "runs": 4}, world.run),
        "LocalExecutor": Call(fk.LocalExecutor, {"jobs": 1}),
        "RayExecutor": Call(fk.RayExecutor, {"workers": 1}),
    }


def _resamplers(world: World) -> dict[str, Call]:
    """Resamplers that are made of others, each in a run."""
    run = lambda made: look(fk.steer(world.task, particles=4, seed=0, resampler=made))  # noqa: E731
    given: dict[Any, dict[str, Any]] = {
        resample.adaptive: {"scheme": resample.ssp}, resample.mean_partition: {"scheme": resample.systematic},
        resample.islands: {"scheme": resample.ssp, "count": 2}, resample.optimal: {"n": 4}, resample.chopthin: {},
        resample.then: {"first": resample.split(2), "second": resample.optimal(4)}, resample.split: {"k": 1},
        resample.shrink: {"scheme": resample.ssp, "n": 4}, resample.during: {"scheme": resample.ssp, "steps": [1]},
    }  # fmt: skip
    return {f"resampler {make.__name__}": Call(make, valid, run) for make, valid in given.items()}


def _watched(world: World) -> dict[str, Call]:
    """Runs that are watched, awaited, limited, saved and taken up."""
    task, one, path = world.task, world.one, world.folder / "run.checkpoint"
    steered = {"model": task, "potentials": [one], "particles": 2, "seed": 0, "on_death": "return"}
    asked = {**steered, "algorithm": "smc", "islands": 1, "resampler": "ssp", "ess_threshold": 0.5, "observers": ()}
    asked |= {"moves": None, "sweeps": None, "budget": None, "executor": None, "checkpoint": None, "progress": False}
    run = functools.partial(fk.steer, task, one, particles=2, seed=0)

    def save(checkpoint: Any) -> None:
        path.unlink(missing_ok=True)
        run(checkpoint=checkpoint, observers=[lambda step: step.t == 1])

    save(path)
    saved = shutil.copy(path, world.folder / "saved.checkpoint")

    @functools.wraps(fk.resume)
    def resume(*given: Any, **options: Any) -> Any:
        shutil.copy(saved, path)
        return fk.resume(*given, **options)

    return {
        "stream": Call(fk.stream, asked, lambda stream: [*stream] and look(stream.result), many="potentials"),
        "steer_async": Call(_await(fk.steer_async), asked, look, many="potentials"),
        "stream_async": Call(_go_through(fk.stream_async), asked, look, many="potentials"),
        "Budget": Call(fk.Budget, {"seconds": 9.0}, lambda budget: run(budget=budget)),
        "Checkpoint": Call(fk.Checkpoint, {"path": path, "every": 1}, save),
        "checkpoint of a run": Call(lambda checkpoint: save(checkpoint), {"checkpoint": path}),
        "resume": Call(resume, {"path": path, **steered}, look, many="potentials"),
    }


def _await(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **options: Any) -> Any:
        return asyncio.run(function(*given, **options))

    return call


def _go_through(function: Callable[..., Any]) -> Callable[..., Any]:
    async def go(*given: Any, **options: Any) -> Any:
        async with function(*given, **options) as stream:
            async for _ in stream:
                pass
        return stream.result

    return _await(functools.wraps(function)(go))


def _stay(t: int, state: Any, level: Any, alive: Any, rng: Any) -> Any:
    return state, level
