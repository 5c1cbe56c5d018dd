"""The workers of an executor: they start when they are needed, and die when they may."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from feynkac.steering.executors.packing import Packer
from feynkac.steering.executors.ray_worker import Worker

if TYPE_CHECKING:
    from feynkac.steering.executors.on_ray import RayExecutor

CONTROL = "control"
"""The threads of a worker that answer while a piece runs."""


@dataclass(eq=False)
class Handle:
    """A worker, and what is known of it."""

    actor: Any
    starting: Any
    """A reference that is ready once it has started; None afterwards."""
    keys: set[str] = field(default_factory=set)
    """The parts that it has."""


class Pool:
    """As many workers as there may be."""

    def __init__(self, ray: Any, options: RayExecutor) -> None:
        self.packer = Packer()
        self.runs = itertools.count()
        self._ray, self._options = ray, options
        self._workers: list[Handle] = []
        self._busy: set[Handle] = set()
        self._since = time.monotonic()

    def start(self) -> None:
        """Start the workers that are missing."""
        if not self._workers:
            self._since = time.monotonic()
        while len(self._workers) < self._options.workers:
            options = {
                "num_cpus": self._options.threads,
                "num_gpus": self._options.gpus,
                "max_restarts": 0,
                "concurrency_groups": {CONTROL: 1},
                "scheduling_strategy": "SPREAD",
            }
            if self._options.runtime_env is not None:
                options["runtime_env"] = dict(self._options.runtime_env)
            actor = self._ray.remote(**options)(Worker).remote(self._options.threads, self._options.device)
            self._workers.append(Handle(actor, actor.start.remote()))

    @property
    def starting(self) -> dict[Any, Handle]:
        """Workers that are not there yet, by what is ready when they are."""
        return {worker.starting: worker for worker in self._workers if worker.starting is not None}

    def take(self) -> Handle | None:
        """A worker that is free, which is then busy; None where there is none."""
        free = next((one for one in self._workers if one.starting is None and one not in self._busy), None)
        if free is not None:
            self._busy.add(free)
        return free

    def give_back(self, worker: Handle) -> None:
        """A worker is free again."""
        self._busy.discard(worker)

    def drop(self, worker: Handle) -> None:
        """A worker is dead, or to be."""
        self._busy.discard(worker)
        if worker in self._workers:
            self._workers.remove(worker)
        self._ray.kill(worker.actor)

    def check_patience(self) -> None:
        """Raises FeynkacError where none has started for too long."""
        if all(worker.starting is not None for worker in self._workers):
            if time.monotonic() - self._since > self._options.patience:
                self._options.raise_overdue()
        else:
            self._since = time.monotonic()

    def forget(self) -> None:
        """The cluster is gone, and all workers with it."""
        self._workers, self._busy = [], set()

    def close(self) -> None:
        """Let all workers go."""
        for worker in list(self._workers):
            self.drop(worker)
