"""The proposal that follows potentials which know what each next token is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from feynkac.base.capabilities import Guides
from feynkac.base.errors import PotentialError
from feynkac.models.language.proposals.plain import draw_and_weigh
from feynkac.models.language.protocols import Frontier, Proposed
from feynkac.smc.checks import call, name_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Guided:
    """The target's law times what each next token is worth to `guides`: q(v) is p(v) exp(sum of guides of v), allowed.

    Where a guide gives the change of its potential's level, the level and the increment together are the log of q's
    normaliser: of all proposals of one token the one of least variance.
    """

    guides: tuple[Guides, ...]

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        return draw_and_weigh(frontier, self.make_logits(frontier), np.ones(len(frontier.scale), np.float32))

    def make_logits(self, frontier: Frontier) -> Tensor:
        """(U, V) log q, not normalised. Raises PotentialError for a guide of another shape, or that gives NaN."""
        import torch

        logits = frontier.logits
        total = logits * torch.as_tensor(frontier.scale, device=logits.device)[:, None]
        for guide in self.guides:
            worth = call(guide.guide, frontier, of=guide, what="guide", error=PotentialError)
            worth = torch.as_tensor(worth, device=logits.device)
            if worth.shape != logits.shape:
                raise PotentialError(
                    f"'{name_of(guide)}' guides with a tensor of shape {tuple(worth.shape)}; it is one number for each "
                    f"next token of each context, {tuple(logits.shape)}"
                )
            total = total + worth
        if torch.isnan(total).any() or (total == torch.inf).any():
            names = ", ".join(f"'{name_of(guide)}'" for guide in self.guides)
            raise PotentialError(f"{names}: what guides the next token is NaN or +inf; give finite numbers, or -inf")
        # Where guides forbid all tokens, any law will do: their potentials reject what is drawn.
        lost = (total == -torch.inf).all(1, keepdim=True)
        return torch.where(lost, logits, total).float()
