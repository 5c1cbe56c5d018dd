"""The proposal for constraints that list their texts: it looks ahead along the usual spelling of each.

A mask alone goes where the next token is likely, and a rigid text behind it may not be: of "skill" and "cloud" a blank
may be the likeliest first token, and lead nowhere. Weights make up for this proposal as for any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from feynkac.base.capabilities import Lists, has
from feynkac.base.errors import FeynkacError
from feynkac.base.masks import unpack
from feynkac.models.language.listed import Ids, Listing, Node, can_end, score_lists
from feynkac.models.language.proposals import MASKED, draw_and_weigh
from feynkac.models.language.protocols import Frontier, Proposal, Proposed
from feynkac.models.language.texts import name_listing

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.prompted import Prompted

MOST_TEXTS, MOST_TOKENS, MOST_IN_ALL = 256, 1024, 4096
"""Texts, tokens of their usual spellings, and such tokens of all prompts of a batch, up to which they are scored."""
SHARE = 0.9
"""The share of the look-ahead in the proposal; the rest is the masked law, for other spellings."""


@dataclass(frozen=True, eq=False)
class Foreseen:
    """A mixture of the law given the usual spellings of listed texts, where a prefix is one, and of the masked law.

    `at`: the number of the constraint that lists them; `lists`: their usual spellings, all different. No increment
    exceeds that of the masked law by more than -log(1 - `SHARE`).
    """

    at: int
    lists: tuple[Ids, ...]

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        state = frontier.state
        if frontier.parents is None:
            state.companions[name_listing(self.at)] = self._score(frontier)
        listing: Listing = state.companions[name_listing(self.at)]
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
        lists = [[ids for ids in self.lists if can_end(ids, prompt, vocabulary)] for prompt in prompts]
        scored = score_lists(state.contexts, frontier.logits, prompts, lists, vocabulary)
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
    """The proposal that foresees the texts of the first constraint that lists them, if some does; else `MASKED`.

    A prompt that was given a `Masked()` of its own never looks ahead. Only texts that the other constraints accept
    count.
    """
    longest = max(prompt.max_tokens for prompt in model.prompts)
    for at, constraint in enumerate(model.constraints):
        if has(constraint, Lists):
            spelt = [ids for ids in _list_spellings(model, constraint) if len(ids) <= longest]
            lists = tuple(ids for ids in spelt if model.accepts_tokens(ids))
            n = sum(map(len, lists))
            if lists and n <= MOST_TOKENS and n * len(model.prompts) <= MOST_IN_ALL:
                return Foreseen(at, lists)
    return MASKED


_spellings: WeakKeyDictionary[Any, WeakKeyDictionary[Any, list[Ids]]] = WeakKeyDictionary()
"""What was listed and spelt before, for each constraint and model."""


def _list_spellings(model: Prompted, constraint: Any) -> list[Ids]:
    """The usual spelling of each text of a constraint, none twice."""
    try:
        known = _spellings.setdefault(constraint, WeakKeyDictionary())
        if model.lm not in known:
            known[model.lm] = _spell_all(model, constraint)
        return known[model.lm]
    except TypeError:  # a constraint of a user's own may have no hash
        return _spell_all(model, constraint)


def _spell_all(model: Prompted, constraint: Any) -> list[Ids]:
    listed = constraint.list_texts(MOST_TEXTS) or []
    return list(dict.fromkeys(ids for text in listed if (ids := _spell(model, text)) is not None))


def _spell(model: Prompted, text: str) -> Ids | None:
    """The usual spelling of a text; None where the tokenizer cannot write it."""
    try:
        return tuple(model.lm.spell(text))
    except FeynkacError:
        return None
