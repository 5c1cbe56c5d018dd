"""What runs in a worker of Ray: one piece at a time, on the parts that it keeps.

Nothing heavy is imported before a piece comes, so that a worker starts in no time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

Missing = list[str]
"""The keys of parts that a worker must be sent."""


class Worker:
    """An actor. `run` has a thread of its own, so that it can be asked how far it is, and told to stop."""

    def __init__(self, threads: int, device: str | None) -> None:
        self._threads, self._device = threads, device
        self._store: Any = None
        self._at = (-1, -1, 0)
        self._stopped = -1

    def start(self) -> bool:
        """True, once the worker is there."""
        return True

    def tell(self) -> tuple[int, int, int]:
        """The run, the piece, and its steps so far."""
        return self._at

    def stop(self, run: int) -> None:
        """End the piece of a run at its next step, and all later ones of it."""
        self._stopped = max(self._stopped, run)

    def run(
        self,
        run: int,
        body: bytes,
        piece: Any,
        sources: Mapping[str, Callable[[], Any] | None],
        shipped: Mapping[str, Any],
        live: set[int],
    ) -> bytes | Missing:
        """The outcome of a piece, pickled; or the keys of parts that are missing.

        `sources`: what makes each part that the call needs; `shipped`: references to those that are sent; `live`: the
        numbers of parts that the caller still has.
        """
        from feynkac.steering.executors.packing import Store
        from feynkac.steering.executors.pieces import run_piece

        self._at = (run, piece.number, 0)
        self._store = self._store or Store()
        self._store.forget(live, sources)
        if missing := self._fill(sources, shipped):
            return missing
        call = self._load(body)
        set_threads(self._threads)

        def observe(step: Any) -> bool:
            self._at = (run, piece.number, self._at[2] + 1)
            return self._stopped >= run

        return self._dump(run_piece(call, piece, observe))

    def _fill(self, sources: Mapping[str, Callable[[], Any] | None], shipped: Mapping[str, Any]) -> Missing:
        import ray  # pyright: ignore[reportMissingImports]

        from feynkac.steering.executors.packing import reload

        missing = Missing()
        for key, source in sources.items():
            if key in self._store:
                continue
            if key in shipped:
                part = self._store.load(ray.get(shipped[key]))
            elif source is None or (part := reload(key, source)) is None:
                missing.append(key)
                continue
            self._store.put(key, put_on(part, self._device))
        return missing

    def _load(self, body: bytes) -> Any:
        from feynkac.base.errors import ArgumentError

        try:
            return self._store.load(body)
        except Exception as cause:
            raise ArgumentError(
                f"a worker cannot read what it was sent: {type(cause).__name__}: {cause}. Modules must be there, too, "
                "in the same versions: give RayExecutor(runtime_env={'working_dir': '.'}) for modules of your own"
            ) from cause

    def _dump(self, outcome: Any) -> bytes:
        from feynkac.base.errors import ModelError

        for attempt in (
            lambda: outcome,
            lambda: replace(outcome, cause=outcome.cause and RuntimeError(repr(outcome.cause))),
        ):
            try:
                return self._store.dump(attempt())
            except Exception as cause:
                refused = cause
        error = ModelError(
            f"the samples of job {outcome.piece.number + 1} cannot be sent back: {type(refused).__name__}: {refused}; "
            "let the model, or the program, give texts, numbers or arrays"
        )
        return self._store.dump(replace(outcome, results=[], deaths=[], complete=False, error=error, cause=None))


def set_threads(threads: int) -> None:
    """Let this thread, and what it calls, have so many threads."""
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    numba.set_num_threads(min(threads, most))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def put_on(part: Any, device: str | None) -> Any:
    """A module on a device, anything else as it is. Raises ModelError where a worker cannot put it there."""
    from feynkac.base.errors import ModelError, quote

    if device is None or not is_module(part):
        return part
    try:
        return part.to(device)
    except Exception as cause:
        raise ModelError(
            f"a worker cannot put its model on device={quote(device)}: {cause}. Give workers a GPU by gpus=1, and see "
            "that their nodes have one and a torch that finds it; or leave device= out"
        ) from cause


def is_module(thing: Any) -> bool:
    """Whether it is a module of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)
