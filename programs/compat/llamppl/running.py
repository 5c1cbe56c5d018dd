"""Runs the coroutines of all particles side by side; what they ask is answered once every one of them waits."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import numpy as np
from greenlet import greenlet

from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ProgramError
from feynkac.models.language.histories import Histories
from feynkac.models.language.nodes import Node
from feynkac.programs.compat.llamppl.answering import Logits, answer
from feynkac.programs.compat.llamppl.rows import HERE, Dead, ModelRow
from feynkac.programs.runtime.serving import Ask

if TYPE_CHECKING:
    from feynkac.programs.compat.llamppl.modeling import Model

MAX_STEPS = 10_000
"""Steps after which a model is taken to run forever."""


class Population:
    """All particles of a run, as a model of the engine and as its population; it is changed in place.

    The engine is a plain function, and runs on a greenlet; `wait` hands an awaitable to the event loop around it.
    """

    def __init__(self, model: Model, wait: Callable[[Awaitable[Any]], Any]) -> None:
        self.model = model
        self.wait = wait
        self.rows: list[ModelRow] = []
        self.t = 0
        self._asked: list[tuple[ModelRow, Ask | Logits, Any, asyncio.Future[Any]]] = []
        self._awaited: set[ModelRow] = set()

    def __len__(self) -> int:
        return len(self.rows)

    # --- what the engine calls

    def init(self, n: int, rng: Rng) -> Population:
        """`n` copies of the model."""
        self.rows = [ModelRow(copy.deepcopy(self.model), self) for _ in range(n)]
        return self

    def step(self, t: int, state: Population, rng: Rng) -> tuple[Population, LogW]:
        """One step of every model; (N,) increments in nats."""
        self.t = t
        self._rng = rng
        self._uniforms = list[Sequence[Any]]()
        for number, row in enumerate(self.rows):
            row.number = number
            row.used = 0
        moving = [row for row in self.rows if not row.over]
        if moving and t >= MAX_STEPS:
            raise ProgramError(f"{type(self.model).__name__} does not stop within {MAX_STEPS} steps; call finish()")
        before = [row.model.weight for row in moving]
        self.wait(self._advance(moving))
        increment = np.zeros(len(self.rows))
        for row, weight in zip(moving, before, strict=True):
            row.dead = row.model.weight == -math.inf
            increment[row.number] = row.model.weight - weight
        return self, increment

    def done(self, state: Population) -> Mask:
        """(N,) which models have finished."""
        return np.array([row.over for row in self.rows], np.bool_)

    def fork(self, rows: Rows) -> Population:
        """Row `i` continues from `rows[i]`; the first child of each keeps the model itself, the others copy it."""
        kept = {parent: i for i, parent in reversed(list(enumerate(rows.tolist())))}
        old = self.rows
        self.rows = [old[parent] if kept[parent] == i else old[parent].fork() for i, parent in enumerate(rows.tolist())]
        return self

    def retire(self, rows: Rows) -> None:
        """Mark rows as dead."""
        for i in rows.tolist():
            self.rows[i].dead = True

    def __getitem__(self, row: int) -> Model:
        return self.rows[row].model

    # --- what particles call

    def find_uniforms(self, number: int) -> Sequence[Any]:
        """(N,) the uniforms that each row uses as its number `number` of this step."""
        while len(self._uniforms) < number:
            self._uniforms.append(self._rng.uniform(len(self.rows)).tolist())
        return self._uniforms[number - 1]

    async def ask(self, row: ModelRow, question: Ask | Logits) -> Any:
        """Wait for an answer."""
        if row.model.weight == -math.inf:
            raise Dead
        u = row.draw_uniform() if isinstance(question, Ask) and question.draws else 0.0
        future = asyncio.get_running_loop().create_future()
        self._asked.append((row, question, u, future))
        self._serve_soon()
        return await future

    def list_held(self) -> dict[Histories, set[Node]]:
        """Where the contexts of all particles that go on stand."""
        held: dict[Histories, set[Node]] = {}
        for row in self.rows:
            if not row.over:
                places = [*row.places, *((context.histories, context.node) for context in row.contexts)]
                for histories, node in places:
                    held.setdefault(histories, set()).add(node)
        return held

    # --- inner workings

    async def _advance(self, rows: Sequence[ModelRow]) -> None:
        loop = asyncio.get_running_loop()
        tasks = []
        self._asked = []
        self._awaited = set(rows)
        for row in rows:
            here = copy_context()
            here.run(HERE.set, row)
            tasks.append(loop.create_task(self._turn(row), context=here))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _turn(self, row: ModelRow) -> None:
        try:
            await row.take_turn(self.t == 0)
        finally:
            self._awaited.discard(row)
            self._serve_soon()

    def _serve_soon(self) -> None:
        if self._asked and self._is_complete():
            asyncio.get_running_loop().call_soon(self._serve)

    def _is_complete(self) -> bool:
        return self._awaited <= {row for row, _, _, _ in self._asked}

    def _serve(self) -> None:
        """Answer all that was asked, if by now no particle can go on without."""
        if not self._asked or not self._is_complete():
            return
        asked = [one for one in self._asked if not one[3].done()]
        self._asked = []
        try:
            found = answer([one[1] for one in asked], [one[2] for one in asked], self.list_held())
        except Exception as error:
            for *_, future in asked:
                future.set_exception(error)
        else:
            for (*_, future), value in zip(asked, found, strict=True):
                future.set_result(value)


async def bridge(function: Callable[[Callable[[Awaitable[Any]], Any]], Any]) -> Any:
    """`function(wait)`, a plain function that may `wait` for awaitables of the running event loop."""
    strand = greenlet(function)
    strand.gr_context = copy_context()
    result = strand.switch(lambda awaitable: strand.parent.switch(awaitable))  # pyright: ignore[reportOptionalMemberAccess]
    while not strand.dead:
        try:
            value = await result
        except BaseException as error:
            result = strand.throw(error)
        else:
            result = strand.switch(value)
    return result
