"""Models and sub-models: what a LLaMPPL program subclasses."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from feynkac.base.errors import ArgumentError, FeynkacError, ProgramError
from feynkac.programs.compat.llamppl.rows import expect_await
from feynkac.programs.numbers import read_nats


class Model:
    """One particle. A subclass calls `super().__init__()` and has `async def step(self)`, called until `finish()`.

    `weight` is its log-weight in nats, such that the log of the mean of exp(weight) estimates the evidence.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget weight, twist, and having finished."""
        self.weight = 0.0
        self.twist_amount = 0.0
        self.finished = False
        self.mode = "sample"
        self.beam_idx = 0
        self.force_eos = False

    async def start(self) -> None:
        """Called once, before the first step."""

    async def step(self) -> None:
        """One step; particles are resampled between steps."""
        raise NotImplementedError(f"{type(self).__name__} has no step(); write `async def step(self)`")

    def finish(self) -> None:
        """Take no further step. The twist is taken back."""
        self.untwist()
        self.finished = True

    def done_stepping(self) -> bool:
        return self.finished

    def sample(self, dist: Any, proposal: Any = None) -> Awaitable[Any]:
        """A value from `dist`; drawn from `proposal`, where one is given, and weighed by dist / proposal."""
        return expect_await(self._sample(dist, proposal), "sample")

    def observe(self, dist: Any, x: Any) -> Awaitable[Any]:
        """Weigh by the probability of `x` under `dist`."""
        return expect_await(self._observe(dist, x), "observe")

    def intervene(self, dist: Any, x: Any) -> Awaitable[Any]:
        """Let `dist` take the value `x`, without any weight."""
        return expect_await(self._intervene(dist, x), "intervene")

    async def _sample(self, dist: Any, proposal: Any) -> Any:
        if proposal is None:
            return (await dist.sample())[0]
        value, log_q = await proposal.sample()
        self.score(await dist.log_prob(value) - log_q)
        return value

    async def _observe(self, dist: Any, x: Any) -> Any:
        self.score(await dist.log_prob(x))
        return x

    async def _intervene(self, dist: Any, x: Any) -> Any:
        await dist.log_prob(x)
        return x

    def condition(self, b: Any) -> None:
        """Go on only if `b` holds; else the weight is zero."""
        if inspect.isawaitable(b):
            raise ArgumentError("condition() was given a coroutine, which always holds: write condition(await ...)")
        if not b:
            self.score(-math.inf)
            self.finish()

    def score(self, score: float) -> None:
        """Multiply the weight by exp(score); -inf is final."""
        self.weight += read_nats(f"{type(self).__name__}.score", score, bools=True)

    def twist(self, amt: float) -> None:
        """Multiply the weight by exp(amt) until the next step: a guess of what is to come."""
        amt = read_nats(f"{type(self).__name__}.twist", amt, bools=True)
        self.score(amt)
        self.twist_amount += amt

    def untwist(self) -> None:
        """Take the twist back."""
        if self.weight > -math.inf:
            self.score(-self.twist_amount)
        self.twist_amount = 0.0

    def call(self, submodel: SubModel) -> Awaitable[Any]:
        """Run a sub-model as a part of this one; returns what it returns."""
        return expect_await(submodel.run_with_parent(self), "call")

    def immutable_properties(self) -> Iterable[str]:
        """Names of attributes that no step changes: all particles share them."""
        return set()

    def string_for_serialization(self) -> str:
        """What a record of the run shows for this particle."""
        return str(self)

    def __str__(self) -> str:
        return "Particle"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        shared = set(self.immutable_properties())
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            setattr(twin, name, value if name in shared else self._copy(name, value, memo))
        return twin

    def _copy(self, name: str, value: Any, memo: dict[int, Any]) -> Any:
        try:
            return copy.deepcopy(value, memo)
        except FeynkacError:
            raise
        except Exception as cause:
            kind = type(self).__name__
            raise ProgramError(
                f"{kind}.{name} is a {type(value).__name__} that cannot be copied, as each particle is ({cause}); name "
                f"it in immutable_properties() of {kind} if no step changes it, or else do without it between steps"
            ) from cause


class SubModel:
    """A part of a model: a subclass has `async def forward(self)`, and samples and weighs as a model does."""

    def __init__(self) -> None:
        self.parent: Any = None

    async def run_with_parent(self, parent: Any) -> Any:
        """Run as a part of `parent`; returns what `forward` does."""
        before = self.parent
        self.parent = parent
        try:
            return await self.forward()
        finally:
            self.parent = before

    async def forward(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(); write `async def forward(self)`")

    def sample(self, dist: Any, proposal: Any = None) -> Awaitable[Any]:
        return self.parent.sample(dist, proposal)

    def observe(self, dist: Any, x: Any) -> Awaitable[Any]:
        return self.parent.observe(dist, x)

    def intervene(self, dist: Any, x: Any) -> Awaitable[Any]:
        return self.parent.intervene(dist, x)

    def call(self, submodel: SubModel) -> Awaitable[Any]:
        return self.parent.call(submodel)

    def condition(self, b: Any) -> None:
        self.parent.condition(b)

    def score(self, score: float) -> None:
        self.parent.score(score)

    def twist(self, amt: float) -> None:
        self.parent.twist(amt)


def submodel(f: Callable[..., Any]) -> Callable[..., SubModel]:
    """Make a sub-model of an async function whose first argument is the sub-model.

        @submodel
        async def two_tokens(self, context):
            return await self.sample(context.next_token()), await self.sample(context.next_token())

    It is run by `await self.call(two_tokens(context))`.
    """

    @functools.wraps(f, updated=())
    class OfFunction(SubModel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__()
            self.args = args
            self.kwargs = kwargs

        async def forward(self) -> Any:
            return await f(self, *self.args, **self.kwargs)

    return OfFunction
