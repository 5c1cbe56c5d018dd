"""All next tokens of a population at once, for algorithms that weigh them before they draw any.

On the CPU the logits are left as they are, in float32, and read by the kernels of `draw.py`: a bound on the weight of a
child is one on its logit. On other devices, and for vocabularies so small that nothing is gained by a kernel, the
log-probabilities are made, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenMask, unpack
from feynkac.models.language.draws.kernels import NextTokenLaw, draw, normalise
from feynkac.models.language.draws.next_token import check_law, sum_masses
from feynkac.models.language.proposals.plain import Masked
from feynkac.models.language.protocols import Frontier, Proposal

if TYPE_CHECKING:
    from torch import Tensor

DENSE_UP_TO = 1 << 14
"""Logits in all up to which float64 costs nothing."""
Ids: TypeAlias = NDArray[np.int64]


def list_children(frontier: Frontier, guided: Tensor | None = None) -> Dense | Packed:
    """The next tokens that a frontier allows, scored by log p, or by it as guides have it.

    `guided`: (U, V) the scaled logits plus what each token is worth to the guides, in nats. Raises ModelError for
    logits that are no law.
    """
    logits, mask, scale = frontier.logits, frontier.mask, frontier.scale
    if logits.device.type == "cpu" and logits.numel() > DENSE_UP_TO:
        everything = np.full_like(mask, 0xFFFFFFFF)
        log_total, plain = sum_masses(logits, everything, scale)[0], logits.numpy()
        scored = plain if guided is None else (guided.numpy() / scale[:, None]).astype(np.float32, copy=False)
        return Packed(frontier.context, plain, scored, mask, scale, log_total)
    import torch

    scaled = logits.double() * torch.as_tensor(scale, device=logits.device).double()[:, None]
    log_total = torch.logsumexp(scaled, 1)
    check_law(log_total.cpu().numpy(), logits)
    forbidden = torch.as_tensor(~unpack(mask, logits.shape[1]), device=logits.device)
    log_p = (scaled - log_total[:, None]).masked_fill(forbidden, -torch.inf)
    if guided is None:
        return Dense(frontier.context, log_p, log_p)
    return Dense(frontier.context, log_p, (guided.double() - log_total[:, None]).masked_fill(forbidden, -torch.inf))


def check_undrawn(proposals: Sequence[Proposal | None], lazy: bool) -> None:
    """Raises ArgumentError for proposals of a user's own, and where constraints are `lazy`."""
    for proposal in proposals:
        if not isinstance(proposal, Masked | None):
            raise ArgumentError(
                "algorithm='optimal' weighs every next token and draws from no proposal, and a prompt has "
                f"{type(proposal).__name__}; leave proposal= out, or take algorithm='smc'"
            )
    if lazy:
        raise ArgumentError(
            "algorithm='optimal' weighs every next token, and a lazy constraint is asked about one at a time; take "
            "algorithm='smc'"
        )


@dataclass(frozen=True, eq=False)
class Dense:
    """The children of J histories as the log-probabilities of all tokens (see `Children`)."""

    history: Ids
    log_p: Tensor
    """(J, V) float64, -inf where a token is not allowed."""
    score: Tensor
    """(J, V) the same plus what is foreseen of each."""

    @property
    def log_mass(self) -> LogW:
        """(J,) nats."""
        import torch

        return torch.logsumexp(self.score, 1).cpu().numpy()

    def tell_allowed(self) -> LogW:
        """(J,) nats (see `TellsAllowed`)."""
        import torch

        return torch.logsumexp(self.log_p, 1).cpu().numpy()

    def among(self, histories: Rows) -> Dense:
        """See `Children.among`."""
        at = self._place(histories)
        return Dense(np.arange(len(histories)), self.log_p[at], self.score[at])

    def above(self, bound: LogW) -> tuple[Rows, Ids]:
        """See `Children.above`."""
        at, token = (self.score > self._place(bound)[:, None]).nonzero(as_tuple=True)
        return at.cpu().numpy(), token.cpu().numpy()

    def without(self, at: Rows, chosen: Ids) -> Dense:
        """See `Children.without`."""
        score = self.score.clone()
        score[self._place(at), self._place(chosen)] = -np.inf
        return replace(self, score=score)

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> Ids:
        """See `Children.draw`."""
        import torch

        places, each = np.unique(at, return_inverse=True)
        cdf = torch.cumsum(torch.softmax(self.score[self._place(places)], 1), 1)
        cdf /= cdf[:, -1:].clone()
        if uniforms.dtype == object:
            return _draw_enumerated(cdf.cpu().numpy()[each], uniforms)
        points = self._place(uniforms)[:, None]
        # A token without mass ends where the one before it ends, so that no point falls to it.
        return torch.searchsorted(cdf[self._place(each)], points, right=True).squeeze(1).cpu().numpy()

    def weigh(self, at: Rows, chosen: Ids) -> tuple[LogW, LogW]:
        """See `Children.weigh`."""
        place = self._place(at), self._place(chosen)
        return self.score[place].cpu().numpy(), self.log_p[place].cpu().numpy()

    def _place(self, values: NDArray[Any]) -> Tensor:
        import torch

        return torch.as_tensor(values, device=self.log_p.device)


@dataclass(frozen=True, eq=False)
class Packed:
    """The children of J histories as logits and masks (see `Children`)."""

    history: Ids
    logits: NDArray[np.float32]
    """(J, V)"""
    scored: NDArray[np.float32]
    """(J, V) the same plus what is foreseen of each, as logits."""
    mask: TokenMask
    scale: NDArray[np.float32]
    """(J,) one over the temperature."""
    log_total: LogW
    """(J,) log-sums of exp(logit / temperature) over the whole vocabulary."""

    @cached_property
    def _law(self) -> NextTokenLaw:
        return normalise(self.scored, self.mask, self.scale)

    @property
    def log_mass(self) -> LogW:
        """(J,) nats."""
        return self._law.log_allowed - self.log_total

    def tell_allowed(self) -> LogW:
        """(J,) nats (see `TellsAllowed`)."""
        law = self._law if self.scored is self.logits else normalise(self.logits, self.mask, self.scale)
        return law.log_allowed - self.log_total

    def among(self, histories: Rows) -> Packed:
        """See `Children.among`."""
        if np.array_equal(histories, np.arange(len(self.logits))):
            return replace(self, history=histories)
        logits = self.logits[histories]
        scored = logits if self.scored is self.logits else self.scored[histories]
        mask, scale, log_total = self.mask[histories], self.scale[histories], self.log_total[histories]
        return Packed(np.arange(len(histories)), logits, scored, mask, scale, log_total)

    def above(self, bound: LogW) -> tuple[Rows, Ids]:
        """See `Children.above`."""
        least = ((bound + self.log_total) / self.scale).astype(np.float32)
        found = np.flatnonzero(self.scored > least[:, None])
        at, token = np.divmod(found, self.logits.shape[1])
        allowed = (self.mask[at, token >> 5] >> (token & 31).astype(np.uint32)) & 1 == 1
        return at[allowed], token[allowed]

    def without(self, at: Rows, chosen: Ids) -> Packed:
        """See `Children.without`."""
        mask = self.mask.copy()
        np.bitwise_and.at(mask, (at, chosen >> 5), ~(np.uint32(1) << (chosen & 31).astype(np.uint32)))
        return replace(self, mask=mask)

    def draw(self, at: Rows, uniforms: NDArray[Any]) -> Ids:
        """See `Children.draw`."""
        return draw(self.scored, self.mask, self.scale, self._law, at, uniforms)

    def weigh(self, at: Rows, chosen: Ids) -> tuple[LogW, LogW]:
        """See `Children.weigh`."""
        score, log_p = (
            np.float64(each[at, chosen]) * self.scale[at] - self.log_total[at] for each in (self.scored, self.logits)
        )
        return score, log_p


def _draw_enumerated(cdf: NDArray[np.float64], uniforms: NDArray[Any]) -> Ids:
    """(K,) tokens by comparisons alone, for the symbolic uniforms of `smc.testing`."""
    tokens = np.empty(len(uniforms), np.int64)
    for k, (ends, u) in enumerate(zip(cdf, uniforms, strict=True)):
        with_mass = np.flatnonzero(np.diff(ends, prepend=0.0) > 0.0)
        tokens[k] = next((v for v in with_mass[:-1] if u < ends[v]), with_mass[-1])
    return tokens
