"""What a proposal spends on being another law than the target: how much its ratios alone thin out a population."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.smc.weights import log_sum_exp

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.protocols import Frontier


def count_ratios(frontier: Frontier, log_p: Tensor, log_q: Tensor) -> None:
    """Add up log E[(p / q)^2] under q, one number a step and problem, in the companions of the texts.

    `log_p`, `log_q`: (U, V). The effective share of particles that ratios alone leave is exp of less their sum, if no
    step resampled.
    """
    moment = (2.0 * log_p - log_q).nan_to_num(-np.inf).logsumexp(1).cpu().numpy()
    group, companions = frontier.state.group[frontier.rows], frontier.state.companions
    for g in np.unique(group).tolist():
        each = moment[frontier.context[group == g]]
        spent = log_sum_exp(each) - math.log(len(each))
        companions["spent", g] = companions.get(("spent", g), 0.0) + spent


def doubt_proposal(companions: MutableMapping[Any, Any], g: int) -> list[str]:
    """What to say of a proposal that leaves less than half of the particles effective; nothing of any other."""
    spent = companions.get(("spent", g), 0.0)
    if spent <= math.log(2.0):
        return []
    return [
        f"the proposal differs from the target so much that its ratios alone leave {math.exp(-spent):.0%} of the "
        "particles effective: unless it leads where the potentials weigh, it costs more than it gives; compare with "
        "no proposal, or raise mix="
    ]
