"""Texts of a law, with their weights, and how probable and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from feynkac.base.contract import Rows
from feynkac.base.errors import PotentialError, quote, shorten
from feynkac.models.language.texts import Texts
from feynkac.potentials.base import Factor
from feynkac.results.result import Result
from feynkac.rulers.estimates import Floats, Sample
from feynkac.rulers.laws import Law
from feynkac.smc.checks import name_of
from feynkac.smc.engine import Step
from feynkac.steering.steer import steer

ISLANDS = 10
"""Populations of a steered law that never mix: from their spread come its errors."""


@dataclass(frozen=True)
class Drawn:
    """Weighted texts of a law, and what is known of them."""

    law: Law
    result: Result
    state: Texts
    rows: Rows
    """(R,) those that have weight."""
    sample: Sample
    log_final: Floats
    """(R,) nats of the potentials."""

    @property
    def log_z(self) -> float | None:
        """The log of the estimated normalising constant; None where it is known to be 0."""
        return None if self.law.potential is None else self.result.log_evidence


def draw(law: Law, texts: int, seed: int) -> Drawn:
    """Texts of a law: of a prompt independent ones, of a target those of SMC. Raises AllParticlesDied."""
    last: list[tuple[Step, Texts]] = []

    def keep(step: Step) -> None:
        last[:] = [(step, cast(Texts, step.state))]

    steered = law.potential is not None
    n = -(-texts // ISLANDS) * ISLANDS if steered else texts
    result: Result = steer(
        law.model,
        *([law.potential] if steered else []),
        particles=n,
        algorithm="smc" if steered else "importance",
        islands=ISLANDS if steered else 1,
        seed=seed,
        progress=False,
        observers=[keep],
    )
    if not result.complete:
        raise KeyboardInterrupt
    ((step, state),) = last
    rows = np.flatnonzero(step.log_weight > -np.inf)
    parts = ISLANDS if result.history.resampled else n
    sample = Sample(step.log_weight[rows], rows // (n // parts), parts)
    return Drawn(law, result, state, rows, sample, step.level[rows])


def score(reward: Factor, drawn: Drawn) -> Floats:
    """(R,) rewards of the texts that have weight. Raises PotentialError where one is not finite."""
    values = reward.final(drawn.state, drawn.rows)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        (text,) = drawn.state.texts(drawn.rows[wrong[:1]])
        raise PotentialError(
            f"'{name_of(reward)}' is {values[wrong[0]]} for the text {quote(shorten(text))}; a reward has a mean only "
            "if it is finite. What texts must not do is a constraint: measure (task, constraint) as a law"
        )
    return values


def read_own(law: Law, state: Texts, rows: Rows) -> Floats:
    """(R,) nats of texts under the prompt that drew them."""
    drawn = state.tell_log_prob(rows)
    if len(law.model.lm.vocabulary.eos) < 2:
        return drawn
    # Which of several ends of sequence was drawn is no part of a text: all of them count.
    return np.maximum(drawn, law.model.make_scorer().score_texts(state, rows))
