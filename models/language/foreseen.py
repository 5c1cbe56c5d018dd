"""The proposal for constraints that list their texts: it looks ahead along the usual spelling of each.

A mask alone goes where the next token is likely, and a rigid text behind it may not be: of "skill" and "cloud" a blank
may be the likeliest first token, and lead nowhere. Weights make up for this proposal as for any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.capabilities import Lists, has
from feynkac.base.errors import FeynkacError
from feynkac.base.masks import unpack
from feynkac.models.language.listed import Ids, Listing, Node, score_lists
from feynkac.models.language.proposals import MASKED, draw_and_weigh
from feynkac.models.language.protocols import Frontier, Proposal, Proposed

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.prompted import Prompted

MOST_TEXTS, MOST_TOKENS = 256, 1024
"""Texts, and tokens of their usual spellings, up to which they are scored at the start of a run."""
SHARE = 0.9
"""The share of the look-ahead in the proposal; the rest is the masked law, for other spellings."""


@dataclass(frozen=True, eq=False)
class Foreseen:
    """A mixture of the law given the usual spellings of listed texts, where a prefix is one, and of the masked law.

    `constraint`: the one that lists them; `lists`: their usual spellings. No increment exceeds that of the masked law
    by more than -log(1 - `SHARE`).
    """

    constraint: Any
    lists: tuple[Ids, ...]

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        state = frontier.state
        if frontier.parents is None:
            state.companions[self.constraint] = self._score(frontier)
        listing: Listing = state.companions[self.constraint]
        heads = frontier.heads
        found = [
            listing.find(int(g), ids[:n].tolist())
            for g, ids, n in zip(state.group[heads], state.ids[heads], state.length[heads], strict=True)
        ]
        if not any(found):
            return MASKED.draw(frontier)
        return draw_and_weigh(frontier, mix(frontier, found), np.ones(len(found), np.float32))

    def _score(self, frontier: Frontier) -> Listing:
        state = frontier.state
        vocabulary, prompts = state.vocabulary, state.prompts
        lists = [[ids for ids in self.lists if len(ids) <= prompt.max_tokens] for prompt in prompts]
        scored = score_lists(state.contexts, frontier.logits, prompts, lists, vocabulary.eos)
        for g, some in enumerate(lists):
            state.forwarded[g] += sum(map(len, some))
        return Listing(lists, scored, vocabulary.tokens, vocabulary.eos)


def mix(frontier: Frontier, found: Sequence[Node | None]) -> Tensor:
    """(U, V) logits of the proposal: those of the target where no node was found."""
    import torch

    logits = frontier.logits
    scaled = logits * torch.as_tensor(frontier.scale, device=logits.device)[:, None]
    rows = [u for u, node in enumerate(found) if node is not None]
    log_p = torch.log_softmax(scaled[rows].double(), 1)
    allowed = unpack(frontier.mask[rows], logits.shape[1])
    masked = log_p.masked_fill(~torch.as_tensor(allowed, device=logits.device), -torch.inf)
    plain = np.log1p(-SHARE) + masked - torch.logsumexp(masked, 1, keepdim=True)
    for u, law, permitted in zip(rows, plain, allowed, strict=True):
        node = found[u]
        assert node is not None
        tokens = [token for token in node.log_next if permitted[token]]
        ahead = np.array([node.log_next[token] for token in tokens])
        if len(tokens) and np.isfinite(total := np.logaddexp.reduce(ahead)):
            at = torch.as_tensor(tokens, device=logits.device)
            share = torch.as_tensor(np.log(SHARE) + ahead - total, device=logits.device)
            law[at] = torch.logaddexp(law[at], share)
            scaled[u] = law.float()
    return scaled


def look_for_lists(model: Prompted) -> Proposal:
    """The proposal that foresees the texts of the first constraint that lists them, if some does; else the mask's.

    Only texts that the other constraints accept count. A prompt with stop strings may end before its text does.
    """
    listing = next((each for each in model.constraints if has(each, Lists)), None)
    if listing is None or any(prompt.stop for prompt in model.prompts):
        return MASKED
    listed = listing.list_texts(MOST_TEXTS)
    if not listed:
        return MASKED
    longest = max(prompt.max_tokens for prompt in model.prompts)
    spelt = [ids for text in listed if (ids := _spell(model, text)) is not None and len(ids) <= longest]
    lists = tuple(ids for ids in spelt if model.accepts_tokens(ids))
    if not lists or sum(map(len, lists)) > MOST_TOKENS:
        return MASKED
    return Foreseen(listing, lists)


def _spell(model: Prompted, text: str) -> Ids | None:
    """The usual spelling of a text; None where the tokenizer cannot write it."""
    try:
        return tuple(model.lm.spell(text))
    except FeynkacError:
        return None
