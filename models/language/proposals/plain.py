"""Laws from which a prompted language model draws its tokens; none of them changes the target.

    lm.prompt("Once", proposal=Tempered(1.3))           # flatter than the target, for more variety
    lm.prompt("Once", proposal=Drafted(other, 0.8))     # another model's law, mixed with the target's

All of them obey the masks of constraints. A proposal of your own is a class with `draw` (see `Proposal`): make logits,
and let `draw_and_weigh` do the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.language.draws.next_token import Drawn, draw_tokens, score_tokens
from feynkac.models.language.draws.rejection import draw_checked
from feynkac.models.language.protocols import Frontier, Proposed

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.language_model import LanguageModel


@dataclass(frozen=True)
class Masked:
    """The target's own law, restricted to the allowed tokens: the increment is the log of their mass."""

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        drawn = _draw_allowed(frontier, frontier.logits, frontier.scale)
        return Proposed(drawn.tokens, drawn.log_prob, drawn.log_mass)


MASKED = Masked()


@dataclass(frozen=True)
class Tempered:
    """The target's law at another temperature: q is p^(1 / temperature), renormalised on the allowed tokens."""

    temperature: float

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < np.inf:
            raise ArgumentError(f"the temperature of a proposal is {self.temperature}; it must be positive")

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        return draw_and_weigh(frontier, frontier.logits, frontier.scale / np.float32(self.temperature))


@dataclass(frozen=True, eq=False)
class Drafted:
    """A mixture of another model's law and the target's: q = share * q' + (1 - share) * p, on the allowed tokens.

    `lm`: a language model with the same vocabulary, which reads the same tokens; its law is taken at the target's
    temperature, and within what the target's top-k and the like leave. With a share below 1 no increment exceeds
    -log(1 - share) nats.
    """

    lm: LanguageModel
    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ArgumentError(f"the share of the other model is {self.share}; it must be above 0 and at most 1")

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`. Raises ModelError for a model of another vocabulary."""
        own = frontier.logits
        other = follow(self.lm, frontier).to(own.device)
        if other.shape != own.shape:
            raise ModelError(
                f"the proposal's model has {other.shape[1]} tokens and the target {own.shape[1]}; they must be the same"
            )
        return draw_and_weigh(frontier, self._mix(own, other, frontier.scale), np.ones(len(own), np.float32))

    def _mix(self, own: Tensor, other: Tensor, scale: NDArray[np.float32]) -> Tensor:
        import torch

        factor = torch.as_tensor(scale, dtype=torch.float64, device=own.device)[:, None]
        log_p, log_q = (torch.log_softmax(logits.double() * factor, 1) for logits in (own, other))
        if self.share == 1.0:
            return log_q.float()
        return torch.logaddexp(np.log(self.share) + log_q, np.log1p(-self.share) + log_p).float()


def draw_and_weigh(frontier: Frontier, logits: Tensor, scale: NDArray[np.float32]) -> Proposed:
    """Draw from q = softmax(logits * scale) on the allowed tokens, and weigh with the target: log p - log q.

    Where constraints are lazy, q is renormalised by an estimate, which is unbiased given the token.

    `logits` (U, V) float32, `scale` (U,) float32.
    """
    exact = frontier.uniforms.dtype == object
    frontier, logits = _close_empty(frontier, _keep_support(logits, frontier))
    drawn = _draw_allowed(frontier, logits, scale)
    log_prob = score_tokens(frontier.logits, frontier.scale, frontier.context, drawn.tokens, exact)
    with np.errstate(invalid="ignore"):  # where nothing is allowed, all of them are -inf
        increment = log_prob - (drawn.log_prob - drawn.log_mass)
    return Proposed(drawn.tokens, log_prob, np.where(drawn.tokens < 0, -np.inf, increment))


def _keep_support(logits: Tensor, frontier: Frontier) -> Tensor:
    """`logits` (U, V) without the tokens that the target's law leaves out: drawn, they would kill their rows."""
    prompts, heads = frontier.state.prompts, frontier.state.group[frontier.heads]
    if all(prompts[g].law.is_plain for g in heads):
        return logits
    return logits.masked_fill(frontier.logits.isneginf(), -np.inf)


def _close_empty(frontier: Frontier, logits: Tensor) -> tuple[Frontier, Tensor]:
    """The same with nothing allowed where q has no token: a text that cannot go on is no fault of the logits."""
    empty = logits.amax(1).isneginf()
    if not empty.any():
        return frontier, logits
    mask = np.where(empty.cpu().numpy()[:, None], np.uint32(0), frontier.mask)
    return replace(frontier, mask=mask), logits.masked_fill(empty[:, None], 0.0)


def _draw_allowed(frontier: Frontier, logits: Tensor, scale: NDArray[np.float32]) -> Drawn:
    """A token for each row from softmax(logits * scale) on what masks allow and lazy constraints accept.

    `log_mass` (R,): of what each row's mask and checks leave of that law.
    """
    context, checks = frontier.context, frontier.checks
    given = (logits, frontier.mask, scale, context, frontier.uniforms)
    if checks is not None:
        return draw_checked(*given, checks, frontier.pinned)
    drawn = draw_tokens(*given, frontier.pinned)
    return drawn._replace(log_mass=drawn.log_mass[context])


def follow(lm: LanguageModel, frontier: Frontier) -> Tensor:
    """(U, V) float32 logits of another model behind the same contexts; call it once at every frontier of a run.

    Its contexts are opened at the first frontier, and live as long as the run. Its tokens count as forwarded, too.
    """
    state = frontier.state
    if frontier.parents is None or frontier.tokens is None:
        prompts = [state.prompts[g] for g in frontier.groups]
        longest = max(prompt.max_tokens for prompt in prompts)
        contexts = lm.open([prompt.tokens for prompt in prompts], longest)
        state.companions[lm] = contexts
        for g in frontier.groups:
            state.forwarded[g] += len(state.prompts[g].tokens)
        return contexts.start()
    for g in state.group[frontier.heads]:
        state.forwarded[g] += 1
    return state.companions[lm].extend(frontier.parents, frontier.tokens)
