"""Laws from which a prompted language model draws its tokens; none of them changes the target.

    lm.prompt("Once", proposal=Tempered(1.3))           # flatter than the target, for more variety
    lm.prompt("Once", proposal=Drafted(other, 0.8))     # another model's law, mixed with the target's

All of them obey the masks of constraints. A proposal of your own is a class with `draw` (see `Proposal`): make logits,
and let `draw_and_weigh` do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.masks import TokenMask, unpack
from feynkac.models.language.draws.next_token import Drawn, draw_tokens, score_tokens
from feynkac.models.language.draws.rejection import draw_checked
from feynkac.models.language.laws.law import shape
from feynkac.models.language.proposals.spending import count_ratios
from feynkac.models.language.protocols import Frontier, Proposal, Proposed, count_spent

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.prompted import Prompted
    from feynkac.models.language.prompts.prompt import Prompt


@dataclass(frozen=True)
class Masked:
    """The target's own law, restricted to the allowed tokens: the increment is the log of their mass."""

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        drawn = _draw_allowed(frontier, frontier.logits, frontier.scale)
        return Proposed(drawn.tokens, drawn.log_prob, drawn.log_mass)


MASKED = Masked()
CANNOT_GO_BACK = (
    "redraw takes texts back to where they were, and the contexts of an expert, or of a proposal's own model, only go "
    "on; leave out either these, or moves=redraw(...)"
)

_LACKING = "the proposal's law leaves out tokens that the target has; mix it with the target's: mix=0.1"


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

    `lm`: a language model with the same vocabulary, which reads the same tokens, its law at the target's temperature;
    or one prompt of such a model, `other.prompt(...)`, with a law and a text of its own before what is written. Either
    is taken within what the target's top-k and the like leave. With a share below 1 no increment exceeds
    -log(1 - share) nats. Raises ArgumentError for a share that is none, for several prompts, and, at the latest when
    it draws, for a law that leaves out tokens (top_k, an ensemble's, a beam's) which only a share below 1 brings back.
    """

    lm: LanguageModel | Prompted
    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ArgumentError(f"the share of the other model is {self.share}; it must be above 0 and at most 1")
        if (prompt := self._prompt) is not None and self.share == 1.0 and not prompt.law.is_plain:
            raise ArgumentError(_LACKING)

    @cached_property
    def _prompt(self) -> Prompt | None:
        """The prompt that the proposal reads; None where it reads that of the target."""
        from feynkac.models.language.prompted import Prompted

        if not isinstance(self.lm, Prompted):
            return None
        if len(self.lm.prompts) != 1:
            raise ArgumentError(f"a proposal of {len(self.lm.prompts)} prompts; give one")
        return self.lm.prompts[0]

    @property
    def beneath(self) -> LanguageModel:
        """The model that it asks."""
        return cast("LanguageModel", self.lm) if self._prompt is None else cast("Prompted", self.lm).lm

    @property
    def key(self) -> Any:
        """What its contexts are kept by in `Texts.companions`, beside the numbers of the problems."""
        return self.lm if self._prompt is None else self

    def find_prompt(self, target: Prompt) -> Prompt:
        """The prompt that it reads before the texts of `target`."""
        return replace(target, variant=self.beneath.variant) if self._prompt is None else self._prompt

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`. Raises ModelError for a model of another vocabulary."""
        own = frontier.logits
        other = self._follow(frontier).to(own.device)
        if other.shape != own.shape:
            raise ModelError(
                f"the proposal's model has {other.shape[1]} tokens and the target {own.shape[1]}; they must be the same"
            )
        log_p, log_q = self._mix(own, other, frontier.scale)
        _check_support(log_p, log_q, frontier.mask)
        count_ratios(frontier, log_p, log_q)
        return draw_and_weigh(frontier, log_q.float(), np.ones(len(own), np.float32))

    def _follow(self, frontier: Frontier) -> Tensor:
        """(U, V) logits of the other law behind the same texts; of a prompt's law, with its temperature applied."""
        if self._prompt is None:
            return follow(cast("LanguageModel", self.lm), frontier)
        other: Any = self.lm
        prompt: Prompt = other.prompts[0]
        logits = walk_with(self, other.lm, [prompt] * len(frontier.groups), frontier)
        texts = frontier.state.tokens(frontier.heads)
        shaped = shape(logits, [prompt.law] * len(texts), lambda u: prompt.find_history(texts[u]))
        return shaped / prompt.law.temperature

    def _mix(self, own: Tensor, other: Tensor, scale: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """(U, V) float64 log p and log q."""
        import torch

        factor = torch.as_tensor(scale, dtype=torch.float64, device=own.device)[:, None]
        log_p = torch.log_softmax(own.double() * factor, 1)
        log_q = torch.log_softmax(other.double() * (factor if self._prompt is None else 1.0), 1)
        if self.share == 1.0:
            return log_p, log_q
        return log_p, torch.logaddexp(np.log(self.share) + log_q, np.log1p(-self.share) + log_p)


def _check_support(log_p: Tensor, log_q: Tensor, mask: TokenMask) -> None:
    """Raises ArgumentError where q has no mass on a token that p has mass on and the mask allows.

    Ensembles, beams of bytes and padded models leave out tokens, whatever the law of their prompts.
    """
    lacking = log_q.isneginf() & ~log_p.isneginf()
    if lacking.any() and (lacking.cpu().numpy() & unpack(mask, lacking.shape[1])).any():
        raise ArgumentError(_LACKING)


def read_proposal(proposal: Any, mix: Any) -> Proposal | None:
    """A proposal as an object that draws; another prompt is drafted from, mixed with `mix` of the target's law.

    Raises ArgumentError for what cannot draw, and for a share that is none.
    """
    from feynkac.models.language.prompted import Prompted

    if proposal is None:
        return None
    if isinstance(proposal, Prompted):
        if isinstance(mix, bool) or not isinstance(mix, int | float) or not 0.0 <= mix < 1.0:
            raise ArgumentError(f"mix is {quote(mix)}; give the share of the target's own law, from 0 to below 1")
        return Drafted(proposal, 1.0 - mix)
    if isinstance(proposal, type) or not isinstance(proposal, Proposal):
        raise ArgumentError(
            f"proposal is {quote(proposal)}; give one of feynkac.models.language.proposals, another prompt, or an "
            "object with draw(frontier)"
        )
    return proposal


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
    given = (logits, frontier.mask, scale, context)
    if checks is not None:
        return draw_checked(*given, checks, frontier.pinned)
    drawn = draw_tokens(*given, frontier.uniforms, frontier.pinned)
    return drawn._replace(log_mass=drawn.log_mass[context])


def follow(lm: LanguageModel, frontier: Frontier) -> Tensor:
    """(U, V) float32 logits of another model behind the same contexts; call it once at every frontier of a run.

    Its contexts are opened at the first frontier, and live as long as the run. Its tokens count as forwarded, too.
    Raises ModelError for prompts of which it does not know the tokens.
    """
    prompts = [replace(frontier.state.prompts[g], variant=lm.variant) for g in frontier.groups]
    if (unknown := max(max(prompt.tokens) for prompt in prompts)) >= lm.n_embeddings:
        raise ModelError(
            f"the proposal's model reads the target's prompt, and has no token {unknown}; give it a prompt of its own, "
            "proposal=other.prompt(...)"
        )
    return walk_with(lm, lm, prompts, frontier)


def walk_with(key: Any, lm: LanguageModel, prompts: Sequence[Prompt], frontier: Frontier) -> Tensor:
    """(U, V) float32 logits of `lm` behind `prompts`, one for each problem of the frontier, and the texts there.

    `key`: what its contexts are kept by in `Texts.companions`, those of each share of a batch apart.
    """
    state, key = frontier.state, (key, tuple(frontier.groups.tolist()))
    if frontier.parents is None or frontier.tokens is None:
        contexts = lm.open_prompts(prompts, max(state.prompts[g].max_tokens for g in frontier.groups))
        state.companions[key] = contexts
        logits, groups, taken = contexts.start(), frontier.groups, [len(prompt.tokens) for prompt in prompts]
    else:
        if (frontier.parents < 0).any():
            raise ArgumentError(CANNOT_GO_BACK)
        contexts = state.companions[key]
        logits, groups = contexts.extend(frontier.parents, frontier.tokens), state.group[frontier.heads]
        taken = [1] * len(groups)
    for g, n in zip(groups, count_spent(contexts, taken), strict=True):
        state.forwarded[g] += int(n)
    return logits
