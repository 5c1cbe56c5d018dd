"""Steering on a Ray cluster: what a user gives, and the way to the cluster."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, FeynkacError, ModelError
from feynkac.base.extras import needing
from feynkac.base.numbers import read_real, read_seconds, read_whole
from feynkac.steering.executors.clusters import check_environment, check_listening, check_text, describe_nodes
from feynkac.steering.executors.pieces import Call, Outcome, Piece

PATIENCE = 60.0
"""Seconds to wait for a first worker where nothing else is said."""


class RayExecutor:
    """Runs calls of `steer` on workers of a Ray cluster, each a process with a model of its own.

        with fk.RayExecutor(workers=4, threads=8) as executor:
            results = fk.steer(prompts, reward, particles=64, seed=0, executor=executor)

    Needs `pip install 'feynkac[ray]'`. The workers start with the first call and stay, with what they have loaded,
    until `close()`, which `with` calls. `docs/clusters.md` says how it goes on a real cluster.

    - `workers`: how many.
    - `jobs`: into how many pieces a call is cut, by default one for each worker. The result depends on the seed, and
      on `jobs` in the rounding of float32 only; not on the number of workers, nor on which does what.
    - `threads`: CPUs that a worker takes, and threads that torch and numba have there.
    - `gpus`: GPUs that a worker takes, or a part of one.
    - `device`: where workers put language models, as "cuda"; None: where they are here.
    - `address`: of the cluster, or "auto" for the one that runs on this machine; None: that of the environment variable
      `RAY_ADDRESS`, or else a new one of this machine alone, which ends with the executor.
    - `retries`: how often a piece is begun again whose worker died.
    - `patience`: seconds to wait for the first worker. By default a cluster that is too small is refused at once, and
      one that is busy after a minute; give it where a cluster grows by itself.
    - `runtime_env`: of the workers, as Ray has it.

    Raises MissingExtra where Ray is not installed, FeynkacError where it is not reached or too small, ArgumentError for
    bad arguments.
    """

    @suggest_names()
    def __init__(
        self,
        workers: int,
        *,
        jobs: int | None = None,
        threads: int = 1,
        gpus: float = 0.0,
        device: str | None = None,
        address: str | None = None,
        retries: int = 2,
        patience: float | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        self.workers = read_whole("workers", workers, 1)
        self._jobs = self.workers if jobs is None else read_whole("jobs", jobs, 1)
        self.threads = read_whole("threads", threads, 1)
        self.gpus = read_real("gpus", gpus, 0.0)
        self.retries = read_whole("retries", retries, 0)
        self.device = check_text("device", device, "cuda")
        self.address = check_text("address", address, "head:6379")
        self.runtime_env = check_environment(runtime_env)
        self._grows, self.patience = patience is not None, read_seconds("patience", patience) or PATIENCE
        self._ray = import_ray()
        self._pool: Any = None
        self._has_started_ray = False

    @property
    def jobs(self) -> int:
        """Into how many pieces a call is cut, at most."""
        return self._jobs

    def run(
        self,
        call: Call,
        pieces: Sequence[Piece],
        keep: Callable[[Outcome], None],
        tell: Callable[[int, int], None],
    ) -> None:
        """See `Executor`. Raises ArgumentError for what cannot be sent, ModelError for a piece that no worker ends."""
        from feynkac.steering.executors.ray_pool import Pool
        from feynkac.steering.executors.ray_run import Run
        from feynkac.steering.executors.sending import pack_call

        if self._pool is None:
            self._pool = Pool(self._ray, weakref.proxy(self))  # so that workers go with an executor that is dropped
        parcel = pack_call(self._pool.packer, call)  # before anything is started
        self._connect()
        Run(self._ray, self._pool, parcel, self.retries).drive(pieces, keep, tell)

    def close(self) -> None:
        """Let the workers go, and the Ray that was started here."""
        if self._pool is not None and self._ray.is_initialized():
            self._pool.close()
        if self._has_started_ray:
            self._ray.shutdown()
        self._pool, self._has_started_ray = None, False

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RayExecutor(workers={self.workers}, jobs={self.jobs}, threads={self.threads}, gpus={self.gpus:g})"

    def _connect(self) -> None:
        """Reach the cluster, and see that it has room."""
        ray = self._ray
        if not ray.is_initialized():
            self._pool.forget()
            known = self.address or os.environ.get("RAY_ADDRESS")
            try:
                check_listening(known)
                # "local", since Ray by itself would join any cluster that somebody has left running on this machine.
                ray.init(address=known or "local", log_to_driver=False, logging_level="WARNING")
            except Exception as cause:
                said = str(cause).strip().rstrip(".")
                raise FeynkacError(
                    f"no Ray cluster is reached at {known or 'this machine'}: {said}. Start one with "
                    "`ray start --head`, give its address=, or leave it out for a cluster of this machine alone"
                ) from cause
            self._has_started_ray = True
        room = self.count_room()
        if room < self.workers and not self._grows:
            raise FeynkacError(
                f"the cluster has room for {room} of {self.workers} workers of {self.threads} CPUs and {self.gpus:g} "
                f"GPUs; {self.describe_resources()}. A worker has all its CPUs and GPUs on one "
                "node. Ask for fewer workers= or threads=, or give patience= seconds for a cluster that grows"
            )

    def count_room(self) -> int:
        """How many workers all nodes together have room for, whoever uses them now."""
        found = 0.0
        for node in self._ray.nodes():
            resources = node["Resources"] if node["Alive"] else {}
            room = resources.get("CPU", 0.0) // self.threads
            found += min(room, resources.get("GPU", 0.0) // self.gpus) if self.gpus else room
        return int(found)

    def describe_resources(self) -> str:
        """What the cluster has, and what of it is free, in words."""
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        listed = [f"{total.get(name, 0.0):g} {name}s ({free.get(name, 0.0):g} free)" for name in ("CPU", "GPU")]
        return f"it has {' and '.join(listed)}{describe_nodes(self._ray.nodes())}"

    def raise_overdue(self) -> None:
        """Raises FeynkacError for workers that do not start."""
        raise FeynkacError(
            f"no worker of {self.threads} CPUs and {self.gpus:g} GPUs has started in {self.patience:g} s; "
            f"{self.describe_resources()}. Wait until others are done, ask for less, or give more patience="
        )


def import_ray() -> Any:
    """The package. Raises MissingExtra where it is missing, ArgumentError inside of a worker."""
    with needing("ray", "RayExecutor needs Ray"):
        import cloudpickle  # noqa: F401
        import ray  # pyright: ignore[reportMissingImports]
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        raise ArgumentError("a RayExecutor inside of a worker of Ray; make it in the process that steers")
    return ray


def describe_piece(piece: Piece) -> str:
    """A piece in the words of an error."""
    return f"job {piece.number + 1}"


def make_loss(piece: Piece, times: int, cause: BaseException) -> ModelError:
    """The error of a piece whose workers all died."""
    said = str(cause).strip().splitlines()
    return ModelError(
        f"{describe_piece(piece)} lost its worker {times} times, the last time by {type(cause).__name__}"
        f"{': ' + said[0].rstrip('.') if said else ''}. Where memory ran out use more jobs=, or fewer particles"
    )
