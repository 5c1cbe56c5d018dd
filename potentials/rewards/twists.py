"""Critics and value functions: guesses on the way that have no part in the target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from feynkac.base.arguments import suggest_names
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.boundaries import Every, read_every
from feynkac.potentials.rewards.calling import OnError
from feynkac.potentials.rewards.samples import SampleFactor, check_scale, make_scorer
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.potentials.rewards.texts import TextFactor


class TextTwist(TextFactor):
    """A guess about texts (see `twist`)."""

    def __init__(self, scorer: Scorer, every: Every, scale: float) -> None:
        super().__init__(scorer, every=every, kind="difference", scale=scale)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) zeros: what was guessed is taken back."""
        return np.zeros(len(rows))


@suggest_names()
def twist(
    f: Callable[..., Any],
    scale: float = 1.0,
    every: Every = "token",
    batch: bool = False,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    on_error: OnError = "raise",
    retries: int | None = None,
) -> SampleFactor:
    """Foresee scale * f(sample so far) nats of log-weight to come, without any part in the target.

    f is a critic or a value function: of a text so far, or of the clean image expected. The particles on which it puts
    much are kept, and at the end its value is taken back, so that the target is that of the other potentials alone,
    whatever f says; the best f is the log of the expected weight to come (Zhao et al. 2024, "Probabilistic inference
    in language models via twisted sequential Monte Carlo"; Kim et al. 2023, CriticControl). The value of -inf is a
    promise that nothing which continues the sample has weight. All else is as in `reward`.

        fk.steer(task, fk.reward(judge, every="end"), fk.twist(critic, batch=True))

    Raises ArgumentError and PotentialError as `reward` does.
    """
    check_scale(scale, "twist")
    every = read_every(every, "twist")
    if every == "end":
        raise ArgumentError("twist(every='end') foresees nothing; give 'token', 'sentence', or a number of steps")
    slow = {"workers": workers, "timeout": timeout, "on_error": on_error, "retries": retries}
    scorer = make_scorer(f, "twist", batch=batch, **slow)
    return SampleFactor(TextTwist(scorer, every, float(scale)), partial(_decode_twist, scorer, float(scale), every))


def _decode_twist(scorer: Scorer, scale: float, every: Every) -> Factor:
    from feynkac.potentials.rewards.decoded import DecodedTwist, count_steps

    return DecodedTwist(scorer, scale, "difference", count_steps(every, scorer.name))
