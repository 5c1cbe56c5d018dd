"""The row of a law, from its texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from feynkac.models.language.texts import BY_EOS
from feynkac.rulers.drawing import Drawn, read_own
from feynkac.rulers.estimates import Estimate, Floats
from feynkac.rulers.frontier import Frontier
from feynkac.rulers.laws import Law
from feynkac.rulers.measured import Measured
from feynkac.smc.resample import systematic
from feynkac.smc.rng import Streams


def describe(drawn: Drawn, base: Law, rewards: Floats, frontier: Frontier, seed: int) -> Measured:
    """The row of a law."""
    law, state, rows, sample = drawn.law, drawn.state, drawn.rows, drawn.sample
    own = read_own(law, state, rows)
    log_p = own if law.is_on(base) else base.model.make_scorer().score_texts(state, rows)
    reward = sample.find_mean(rewards)
    least, reached = frontier.find_least(reward)
    tokens = state.length[rows] + (state.ended[rows] == BY_EOS)
    even, _ = systematic(sample.log_weight, Streams(seed).at("output", 0))
    texts = state.texts(rows if even is None else rows[even])
    return Measured(
        name=law.name,
        reward=reward,
        kl=sample.find_divergence(own + drawn.log_final - log_p, drawn.log_z),
        least_kl=least,
        reached=reached,
        fluency=sample.find_ratio(-log_p, tokens) if np.isfinite(log_p).all() else UNREADABLE,
        distinct_1=count_distinct(texts, 1),
        distinct_2=count_distinct(texts, 2),
        forwarded_tokens=drawn.result.forwarded_tokens or 0,
        texts=texts,
        warnings=[*tell_support(log_p), *drawn.result.warnings],
    )


UNREADABLE = Estimate(math.inf, math.nan, 0)
"""Of texts that the base cannot write."""


def tell_support(log_p: Floats) -> list[str]:
    """A warning where some of the texts have no probability under the base, (R,) nats each."""
    n = int((log_p == -np.inf).sum())
    said = f"{n} of {len(log_p)} texts cannot be written by the base, whose law leaves tokens out: KL is infinite"
    return [said] if n else []


def count_distinct(texts: Sequence[str], n: int) -> float:
    """Different sequences of `n` words, as a share of all there are; nan where there are none."""
    words = [text.split() for text in texts]
    found = [tuple(some[i : i + n]) for some in words for i in range(len(some) - n + 1)]
    return len(set(found)) / len(found) if found else math.nan
