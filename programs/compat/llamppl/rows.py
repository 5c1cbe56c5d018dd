"""One particle of a run: its turn in each step, and what its coroutine asks for meanwhile."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import FeynkacError, ProgramError
from feynkac.models.language.histories import Histories
from feynkac.models.language.nodes import Node
from feynkac.programs.compat.llamppl.answering import Logits, answer
from feynkac.programs.runtime.causes import describe_cause, find_line
from feynkac.programs.runtime.serving import Ask

if TYPE_CHECKING:
    from feynkac.programs.compat.llamppl.distributions.lmcontext import LMContext
    from feynkac.programs.compat.llamppl.modeling import Model
    from feynkac.programs.compat.llamppl.running import Population


class Dead(BaseException):
    """Ends the coroutine of a particle of weight zero; no `except Exception` of a user stops it."""


class ModelRow:
    """One particle: its model, and what the engine must know of it."""

    def __init__(self, model: Model, run: Population) -> None:
        self.model = model
        self.run = run
        self.dead = False
        self.number = 0
        """Which row of the population it is."""
        self.used = 0
        """How many uniforms of this step it has used."""
        self.contexts: WeakSet[LMContext] = WeakSet()
        self.promises: list[tuple[Coroutine[Any, Any, Any], str, str | None]] = []
        """What its step has asked for so far, and at which line."""
        self.places: list[tuple[Histories, Node]] = []
        """Histories without a context that it asked about last."""

    @property
    def over(self) -> bool:
        return self.dead or bool(self.model.done_stepping())

    def fork(self) -> ModelRow:
        """A copy; the contexts that are copied with it are known by what the copying left in its memory."""
        memo: dict[int, Any] = {}
        twin = ModelRow(copy.deepcopy(self.model, memo), self.run)
        twin.contexts.update(memo[id(context)] for context in self.contexts if id(context) in memo)
        twin.dead = self.dead
        twin.places = list(self.places)
        return twin

    async def take_turn(self, first: bool) -> None:
        """One step of its model."""
        try:
            if first:
                await self.model.start()
            self.model.untwist()
            if not self.over and self.model.weight > -math.inf:
                await self.model.step()
            self._check_promises()
            if self.model.done_stepping():
                self.model.untwist()
        except Dead:
            pass
        except FeynkacError as error:
            error.add_note(self._place())
            raise
        except Exception as cause:
            raise ProgramError(f"{self._place()}: {describe_cause(cause, type(self.model).step)}") from cause
        finally:
            self._list_forgotten()

    def _check_promises(self) -> None:
        """Raises ProgramError for what the step has asked for and never awaited."""
        for what, where in self._list_forgotten():
            raise ProgramError(
                f"self.{what}(...){f' {where}' if where else ''} was never awaited, and so never happened: write "
                f"`await self.{what}(...)`"
            )

    def _list_forgotten(self) -> list[tuple[str, str | None]]:
        """What was never awaited, which is closed, and where it was asked for."""
        promises, self.promises = self.promises, []
        forgotten = [each for each in promises if inspect.getcoroutinestate(each[0]) == inspect.CORO_CREATED]
        for promise, _, _ in forgotten:
            promise.close()
        return [(what, where) for _, what, where in forgotten]

    def _place(self) -> str:
        return f"in {type(self.model).__name__}, particle {self.number}, step {self.run.t}"

    def draw_uniform(self) -> Any:
        """Its next uniform of this step."""
        self.used += 1
        return self.run.find_uniforms(self.used)[self.number]


HERE: ContextVar[ModelRow | None] = ContextVar("particle", default=None)
"""The particle whose coroutine is running; None outside of runs."""


def expect_await(promise: Coroutine[Any, Any, Any], what: str) -> Coroutine[Any, Any, Any]:
    """`promise`, which the step that is running must have begun to await when it ends: its line is remembered."""
    row = HERE.get()
    if row is not None:
        row.promises.append((promise, what, find_line(type(row.model).step)))
    return promise


def draw_uniform() -> Any:
    """A uniform in [0, 1) of the particle that is running; of numpy's global generator outside of runs."""
    row = HERE.get()
    return float(np.random.random()) if row is None else row.draw_uniform()  # noqa: NPY002


async def fetch_answer(question: Ask | Logits, of: LMContext | Node | None = None) -> Any:
    """The answer, once all particles of the run wait for one; `of` is what the question is about."""
    row = HERE.get()
    if row is None:
        return answer([question], [draw_uniform()], {})[0]
    if isinstance(of, Node):
        row.places = [*row.places[-1:], (question.histories, of)]
    elif of is not None:
        row.contexts.add(of)
    return await row.run.ask(row, question)


def answer_now(question: Logits) -> NDArray[np.float32]:
    """(V,) log-probabilities without waiting for others; contexts of the same run are forwarded along."""
    row = HERE.get()
    return answer([question], [0.0], {} if row is None else row.run.list_held())[0]
