"""Any function of the sample as a potential: `constraint` for bool, `reward` for numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.capabilities import Decodes, Writes, has
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, PotentialError
from feynkac.base.numbers import as_whole
from feynkac.potentials.base import Factor, set_function_reader
from feynkac.potentials.rewards.boundaries import BOUNDARIES
from feynkac.potentials.rewards.folds import Kind, check_kind
from feynkac.potentials.rewards.scoring import Scorer, read_bool, read_number, read_number_or_bool
from feynkac.potentials.rewards.texts import Every, PlainText, TextFactor

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.sampling import View


class SampleFactor(Factor):
    """A function of the sample, whatever the model samples: of the text, or else of what is decoded from latents.

    `on_texts` weighs states that have texts; `on_decoded` makes what weighs states that have decoded samples, when it
    is first needed. Which of the two is asked is decided here and nowhere else.
    """

    def __init__(self, on_texts: Factor, on_decoded: Callable[[], Factor], *, hard: bool = False) -> None:
        self.name, self.hard = on_texts.name, hard
        self._on_texts, self._make = on_texts, on_decoded
        self._made = dict[str, Factor]()

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: what the function foresees from the text so far, or from the clean sample expected."""
        return self._on(state).level(t, state, rows)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: what the function says of the samples."""
        return self._on(state).final(state, rows)

    def log_psi(self, view: View) -> Tensor:
        """(R,) nats, differentiable if the function is: what it foresees of the rows in `view`."""
        return self._on_decoded.log_psi(view)

    @property
    def _on_decoded(self) -> Factor:
        # One for all threads, since what particles remember is kept under it; setdefault is atomic.
        return self._made.get("decoded") or self._made.setdefault("decoded", self._make())

    def _on(self, state: State) -> Factor:
        if has(state, Writes):
            return self._on_texts
        if has(state, Decodes):
            return self._on_decoded
        raise PotentialError(
            f"'{self.name}' is a function of texts or of decoded samples, and {type(state).__name__} has neither; "
            "write a potential with level(t, state, rows) and final(state, rows) for it"
        )


def read_function(f: Callable[[Any], Any]) -> SampleFactor:
    """A plain function given where a potential is expected: bool constrains whole samples, a number is in nats."""
    _check_call(f, "", "")
    scorer = Scorer(f, _name("", f), read_number_or_bool)
    return SampleFactor(PlainText(scorer), partial(_decode_plain, scorer))


# Of modules and not of functions, so that potentials travel to other processes; what they import takes a while.


def _decode_plain(scorer: Scorer) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedPlain

    return DecodedPlain(scorer)


def _decode_constraint(scorer: Scorer, every: Every) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedConstraint, count_steps

    return DecodedConstraint(scorer, count_steps(every, scorer.name))


def _decode_reward(scorer: Scorer, scale: float, kind: Kind, every: Every) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedReward, count_steps

    return DecodedReward(scorer, scale, kind, count_steps(every, scorer.name))


set_function_reader(read_function)


def constraint(f: Callable[..., Any], every: Every = "end", batch: bool = False) -> SampleFactor:
    """The samples for which f is True: f of a text, or of a decoded sample such as an image (C, H, W) from 0 to 1.

    By default f is asked about whole samples only, and any f will do. With any other `every` (see `reward`) you
    promise more: that once f is False of a text, or of the image expected, it stays so in every continuation. Particles
    then die early. With `batch`, f takes all samples at once, as in `reward`, and returns as many bools.

    Raises ArgumentError for an f as `reward` does; PotentialError, when it is used, if f raises or returns anything but
    a bool.
    """
    every = _check(f, every, "constraint", batch)
    scorer = Scorer(f, _name("constraint", f), read_bool, batch)
    on_decoded = partial(_decode_constraint, scorer, every)
    # "sum", so that no boundary may be passed over
    return SampleFactor(TextFactor(scorer, every=every, kind="sum", scale=1.0), on_decoded, hard=True)


def reward(
    f: Callable[..., Any],
    scale: float = 1.0,
    kind: Kind = "difference",
    every: Every = "token",
    batch: bool = False,
) -> SampleFactor:
    """Weight samples by exp(scale * f(sample)), f(sample) being a number (True counts 1, False 0).

    A sample is a text, or what a diffusion model decodes: a tensor, such as an image (C, H, W) from 0 to 1. With
    `batch`, f takes all at once, a list of texts or a tensor (R, C, H, W), and returns as many numbers. Each distinct
    text is scored once a step. Where f is made of torch operations, guided proposals can follow its gradient.

    That is the target for every `kind`; the kind sets what is foreseen for unfinished samples (Singhal et al. 2025,
    "A general framework for inference-time scaling and steering of diffusion models"). With r_s the score at
    boundary s, the level is scale * r_t ("difference"), scale * max r_s ("max") or scale * sum r_s ("sum") over
    the boundaries so far. Boundaries are each step of the model (`every="token"`), every so many steps (a number), or
    the ends of complete words or sentences of a text, where f sees the text up to that end; of an unfinished image it
    sees the clean image expected. Between boundaries the last level stays, and before the first it is 0, which has no
    part in the maximum. With every="end" f sees whole samples only.

    Returning -inf kills a particle (whatever the scale): before the end, do so only if no continuation has weight.

    A number is one of Python, numpy or torch, a Decimal, or an array or tensor with one entry; a batch may be (R, 1).

    Raises ArgumentError for an f that is async or does not take the sample as its one argument; PotentialError, when it
    is used, if f raises or returns NaN, +inf or no number.
    """
    every = _check(f, every, "reward", batch)
    check_kind(kind)
    check_scale(scale)
    scorer = Scorer(f, _name("reward", f), read_number, batch)
    on_decoded = partial(_decode_reward, scorer, float(scale), kind, every)
    return SampleFactor(TextFactor(scorer, every=every, kind=kind, scale=float(scale)), on_decoded)


def check_scale(scale: Any) -> None:
    """Raises ArgumentError for a scale that is no finite number."""
    if isinstance(scale, bool | np.bool_) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise ArgumentError(f"reward(scale={scale!r}): the scale is a finite number, in nats per unit of reward")


def _check(f: Any, every: Any, what: str, batch: bool) -> Every:
    """`every`, as it is meant. Raises ArgumentError for what is no function of the sample, and no boundary."""
    if not callable(f):
        raise ArgumentError(f"{what}({f!r}): give a function of the sample, which is a text or a decoded image")
    _check_call(f, f"{what}: ", "s" if batch else "")
    if isinstance(every, str) and every in BOUNDARIES:
        return every
    if (steps := as_whole(every)) is None or steps < 1:
        names = ", ".join(map(repr, BOUNDARIES))
        raise ArgumentError(f"{what}(every={every!r}): choose one of {names}, or a number of steps, at least 1")
    return steps


def _check_call(f: Callable[..., Any], what: str, many: str) -> None:
    """Raises ArgumentError for a function that cannot be called with one argument, or that returns coroutines."""
    name = _name("", f)
    called = type(f).__call__
    if any(is_kind(f) or is_kind(called) for is_kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)):
        raise ArgumentError(
            f"{what}'{name}' is async, and is called without an event loop. Run it inside of a function: "
            f"def score(texts): return asyncio.run(score_all(texts)), where score_all gathers {name}(text) for each "
            "text, and give that with batch=True"
        )
    try:
        signature = inspect.signature(f)
    except (ValueError, TypeError):  # functions written in C may not tell
        return
    try:
        signature.bind(None)
    except TypeError as cause:
        raise ArgumentError(
            f"{what}'{name}' takes {signature}, and is called with one argument, the sample{many} ({cause}). Fix the "
            f"others: lambda sample{many}: {name}(..., sample{many})"
        ) from None


def _name(what: str, f: Any) -> str:
    inner = getattr(f, "__name__", None) or type(f).__name__
    return f"{what}({inner})" if what else inner
