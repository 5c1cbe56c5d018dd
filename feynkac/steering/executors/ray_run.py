"""One call on the workers of a pool: hand out pieces, watch them, begin those again whose worker died."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from feynkac.base.errors import FeynkacError, ModelError
from feynkac.steering.executors.on_ray import describe_piece, make_loss
from feynkac.steering.executors.packing import Parcel, unpack
from feynkac.steering.executors.pieces import Outcome, Piece
from feynkac.steering.executors.ray_pool import CONTROL, Handle, Pool

POLL = 0.5
"""Seconds between two looks at how far the workers are."""
GRACE = 60.0
"""Seconds that a step may take after Ctrl-C before its particles are given up."""


class Run:
    """A call on its way."""

    def __init__(self, ray: Any, pool: Pool, parcel: Parcel, retries: int) -> None:
        self._ray, self._pool, self._parcel, self._retries = ray, pool, parcel, retries
        self._number = next(pool.runs)
        self._body = ray.put(parcel.body)
        self._shipped: dict[str, Any] = {}
        self._busy: dict[Any, tuple[Handle, Piece]] = {}
        self._waiting: deque[Piece] = deque()
        self._lost = Counter[int]()
        self._failed = 0
        """Workers that died while they started, such as on a node that went."""
        self._polls: dict[Any, Handle] = {}
        self._polled = time.monotonic()

    def drive(self, pieces: Sequence[Piece], keep: Callable[[Outcome], None], tell: Callable[[int, int], None]) -> None:
        """Run all pieces. Raises ModelError for one that loses its worker too often, and what `keep` raises."""
        self._waiting.extend(pieces)
        try:
            while self._waiting or self._busy:
                self._pool.start()
                while self._waiting and (worker := self._pool.take()) is not None:
                    self._submit(worker, self._waiting.popleft())
                self._wait(keep, tell)
        except KeyboardInterrupt:
            self._drain(keep)
            raise
        finally:
            self._leave()

    def _submit(self, worker: Handle, piece: Piece, extra: Sequence[str] = ()) -> None:
        parts = self._parcel.parts
        needed = [key for key, part in parts.items() if key in extra or (key not in worker.keys and not part.source)]
        for key in needed:
            if key not in self._shipped:
                self._shipped[key] = self._ray.put(self._pool.packer.pack_part(parts[key]).body)
        sources = {key: part.source for key, part in parts.items()}
        shipped = {key: self._shipped[key] for key in needed}
        live = self._pool.packer.live
        reference = worker.actor.run.remote(self._number, self._body, piece, sources, shipped, live)
        self._busy[reference] = (worker, piece)

    def _wait(self, keep: Callable[[Outcome], None], tell: Callable[[int, int], None]) -> None:
        """Wait for something to happen, and see to it."""
        starting = self._pool.starting
        if not self._busy:
            self._pool.check_patience()
        ready, _ = self._ray.wait([*self._busy, *starting, *self._polls], num_returns=1, timeout=POLL)
        for reference in ready:
            if reference in self._polls:
                self._read_poll(reference, tell)
            elif reference in starting:
                self._welcome(starting[reference])
            else:
                self._finish(reference, keep, tell)
        if time.monotonic() - self._polled > POLL:
            self._polled = time.monotonic()
            asked = set(self._polls.values())
            for worker in [worker for worker, _ in self._busy.values() if worker not in asked]:
                self._polls[worker.actor.tell.options(concurrency_group=CONTROL).remote()] = worker

    def _welcome(self, worker: Handle) -> None:
        try:
            self._ray.get(worker.starting)
            worker.starting = None
        except self._ray.exceptions.RayError as cause:
            self._pool.drop(worker)
            self._failed += 1
            if self._failed > self._retries:
                said = " ".join(str(cause).split())
                raise ModelError(f"workers of Ray do not start, {self._failed} so far: {said}") from cause

    def _read_poll(self, reference: Any, tell: Callable[[int, int], None]) -> None:
        del self._polls[reference]
        try:
            run, number, steps = self._ray.get(reference)
        except self._ray.exceptions.RayError:  # its piece will say so
            return
        if run == self._number and any(piece.number == number for _, piece in self._busy.values()):
            tell(number, steps)

    def _finish(self, reference: Any, keep: Callable[[Outcome], None], tell: Callable[[int, int], None]) -> None:
        """A piece has come back, or its worker is dead."""
        worker, piece = self._busy.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as raised:
            self._pool.give_back(worker)
            raise self._read_error(piece, raised) from raised.cause
        except self._ray.exceptions.RayError as cause:
            self._pool.drop(worker)
            self._lost[piece.number] += 1
            if self._lost[piece.number] > self._retries:
                raise make_loss(piece, self._lost[piece.number], cause) from cause
            self._waiting.appendleft(piece)
            tell(piece.number, 0)
            return
        if isinstance(answer, list):  # of parts that it could not load
            self._submit(worker, piece, answer)
            return
        worker.keys = set(self._parcel.parts)
        self._pool.give_back(worker)
        keep(replace(unpack(answer, self._parcel.parts), lost=self._lost[piece.number]))

    def _read_error(self, piece: Piece, raised: Any) -> FeynkacError:
        """What a worker raised outside of the run of its piece."""
        cause = raised.cause
        if isinstance(cause, FeynkacError):
            return type(cause)(str(cause))
        return ModelError(f"{describe_piece(piece)} failed in its worker: {type(cause).__name__}: {cause}")

    def _drain(self, keep: Callable[[Outcome], None]) -> None:
        """After Ctrl-C: end all pieces that run at their next step, and keep what they have."""
        self._waiting.clear()
        self._stop()
        ended = time.monotonic() + GRACE
        while self._busy and time.monotonic() < ended:
            for reference in self._ray.wait(list(self._busy), num_returns=1, timeout=GRACE)[0]:
                self._finish(reference, keep, lambda number, steps: None)

    def _stop(self) -> None:
        for worker, _ in self._busy.values():
            worker.actor.stop.options(concurrency_group=CONTROL).remote(self._number)

    def _leave(self) -> None:
        """Workers that are still at it, because something was raised, end at their next step; others wait for them."""
        self._stop()
        for worker, _ in self._busy.values():
            self._pool.give_back(worker)
        self._busy.clear()
