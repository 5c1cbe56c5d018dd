"""Powers of the model's law: the target p(x)^alpha, over whole samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import TellsLogProb, require
from feynkac.base.contract import LogW, Rows, Schedule, State
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.numbers import as_real, read_whole
from feynkac.potentials.base import Factor

if TYPE_CHECKING:
    from torch import Tensor

_NO_MASS = -1e30
"""Nats of a token that has no mass, where a finite number is wanted."""


@suggest_names()
def power(alpha: float, schedule: Schedule | int | None = None) -> PowerOfLaw:
    """The potential p(x)^(alpha - 1), which makes the target p(x)^alpha, times what other potentials weigh.

        fk.steer(lm.prompt("2 + 2 ="), fk.power(4.0))

    p is the law that the prompt declares, and x a text as a sequence of tokens, its end of sequence among them; a text
    that is cut at `max_tokens` counts as it stands. The power is normalised over whole texts; a temperature of
    1 / alpha is normalised at each token, forgets what a token leads to, and has another law. An `alpha` above 1 makes
    likely texts likelier, one below 1 makes them rarer, and 1 is p itself. In a product of two powers their excesses
    over 1 add.

    `schedule`: the power alpha_t of prefixes on the way, after step t = 0, 1, ..., as a function of t, or the number of
    tokens over which it rises evenly from 1 to `alpha`; by default it is `alpha` from the first token on. It changes
    the variance and never the target (Power-SMC, arXiv 2602.10273, 2026). Where texts may end early a long rise does
    harm: a text that has ended is weighed in full beside others that are not yet.

    Raises ArgumentError for an `alpha` that is no positive number and for a schedule that is none. It is for prompts of
    language models; in a program write `p.factor((alpha - 1) * text.log_drawn)` behind each token that is drawn.
    """
    if not _is_power(alpha):
        raise ArgumentError(f"power({quote(alpha)}): the power of the model's law is a positive number")
    return PowerOfLaw(float(alpha), _read_schedule(schedule))


class PowerOfLaw(Factor):
    """The potential p(x)^(alpha - 1) (see `power`), with levels (alpha_t - 1) log p of the prefix."""

    def __init__(self, alpha: float, schedule: Schedule | int | None = None) -> None:
        self.alpha = alpha
        self._schedule = schedule
        self.name = f"power({alpha:g})"

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: alpha_t - 1 times the log-probability so far."""
        return _times(self.find_alpha(t) - 1.0, self._read(state, rows))

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: alpha - 1 times the log-probability of whole samples."""
        return _times(self.alpha - 1.0, self._read(state, rows))

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats, how the level changes with each next token: so tokens are drawn from p^alpha_t.

        An end of sequence leads from the power of prefixes so far to that of whole texts. Of all laws of one token this
        has increments of least variance (Power-SMC, section 4).
        """
        import torch

        state, heads, device = frontier.state, frontier.heads, frontier.logits.device
        alpha = self.find_alpha(int(state.length[heads[0]]))
        log_p = (frontier.logits * torch.as_tensor(frontier.scale, device=device)[:, None]).log_softmax(1)
        log_p = log_p.clamp_min(_NO_MASS)  # what has none stays without, whatever the sign of alpha - 1
        worth = (alpha - 1.0) * log_p
        if alpha != self.alpha:
            ends = list(state.vocabulary.eos)
            owed = torch.as_tensor((self.alpha - alpha) * state.tell_log_prob(heads), device=device)
            worth[:, ends] = ((self.alpha - 1.0) * log_p[:, ends] + owed[:, None]).to(worth)
        return worth

    def find_alpha(self, t: int) -> float:
        """The power of prefixes after step `t`. Raises PotentialError where the schedule gives no positive number."""
        if self._schedule is None:
            return self.alpha
        if isinstance(self._schedule, int):
            return 1.0 + (self.alpha - 1.0) * min((t + 1) / self._schedule, 1.0)
        try:
            alpha = self._schedule(t)
        except Exception as error:
            raise PotentialError(
                f"'{self.name}' at step {t}: the schedule raised {type(error).__name__}: {error}; it is called with t"
            ) from error
        if not _is_power(alpha):
            raise PotentialError(
                f"'{self.name}' at step {t}: the schedule returned {quote(alpha)}; return a positive number"
            )
        return float(alpha)

    def _read(self, state: State, rows: Rows) -> LogW:
        told = require(
            state,
            TellsLogProb,
            f"'{self.name}' needs the log-probability of each sample, which {type(state).__name__} does not tell; it "
            "is for prompts of language models (in a program p.factor((alpha - 1) * text.log_drawn) after each token)",
        )
        return told.tell_log_prob(rows)


def _is_power(alpha: Any) -> bool:
    return (as_real(alpha) or 0.0) > 0.0


def _times(factor: float, log_prob: NDArray[np.float64]) -> LogW:
    """What has no mass has none to any positive power."""
    dead = log_prob == -np.inf
    return np.where(dead, -np.inf, factor * np.where(dead, 0.0, log_prob))


def _read_schedule(schedule: Any) -> Schedule | int | None:
    if schedule is None or (callable(schedule) and not isinstance(schedule, type)):
        return cast(Any, schedule)
    return read_whole("schedule", schedule, 1, ", the tokens over which the power rises, or a function of the step")
