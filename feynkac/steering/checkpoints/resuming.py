"""A run that was saved goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

from feynkac.base.contract import Resample
from feynkac.base.host import check_not_forked
from feynkac.smc.budgets import Budget
from feynkac.smc.observers import Observer
from feynkac.steering.checkpoints.saved import Saved
from feynkac.steering.steer import steer


def resume(
    path: str | os.PathLike[str],
    model: Any,
    *potentials: Any,
    particles: int | None = None,
    algorithm: str | None = None,
    resampler: str | Resample | None = None,
    ess_threshold: float | None = None,
    islands: int | None = None,
    sweeps: int | None = None,
    moves: Any = None,
    seed: int | None = None,
    progress: bool | None = None,
    on_death: Literal["raise", "return"] = "raise",
    observers: Iterable[Observer] = (),
    budget: Budget | None = None,
) -> Any:
    """Go on with a run that `steer(..., checkpoint=path)` has saved, to the Result that it would have had.

        fk.steer(task, potential, particles=64, seed=1, checkpoint="run.checkpoint")    # is killed
        fk.resume("run.checkpoint", task, potential)

    `model` and `potentials` are what the run was started with, made anew in this process; so are a `resampler` and
    `moves` that are functions of yours. How it samples is in the file: other options need not be given, and must be the
    same if they are. On a CPU, with the same libraries and as many threads, samples, weights and evidence are the same
    bit for bit. The run is saved on to the same file, as often as before; a run that has ended gives its result. The
    file stays: remove it when it is no longer wanted.

    What is compared: the release of feynkac, the model (its configuration, type of numbers, and some of its weights),
    prompts and their options, and of potentials their names, order, settings and what they were made of (a pattern, a
    grammar). Not compared is what a function of yours computes. `observers` see the steps from here on. Timing counts
    from here on, too. Nothing in a file is run: it holds numbers and JSON.

    Raises ArgumentError for a file that is no checkpoint or is damaged, and for another run than was saved, of which it
    names the differences; and what `steer` raises.
    """
    check_not_forked()
    saved = Saved(path)
    options = {
        "particles": particles,
        "algorithm": algorithm,
        "resampler": resampler,
        "ess_threshold": ess_threshold,
        "islands": islands,
        "sweeps": sweeps,
        "moves": moves,
        "seed": seed,
    }
    asked: dict[str, Any] = {**saved.read_options(options), "progress": progress, "on_death": on_death}
    return steer(model, *potentials, **asked, observers=observers, budget=budget, checkpoint=saved)
