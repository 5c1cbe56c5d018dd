"""The proposal for constraints that list their texts: it looks ahead along the usual spelling of each.

A mask alone goes where the next token is likely, and a rigid text behind it may not be: of "skill" and "cloud" a blank
may be the likeliest first token, and lead nowhere. Weights make up for this proposal as for any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from feynkac.base.capabilities import Lists, has
from feynkac.base.errors import FeynkacError
from feynkac.base.masks import TokenMask, unpack
from feynkac.models.language.proposals.guided import Guided
from feynkac.models.language.proposals.listed import Ids, Listing, Node, can_end, name_listing, score_lists
from feynkac.models.language.proposals.plain import Masked, draw_and_weigh
from feynkac.models.language.protocols import Frontier, Proposed

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.prompted import Prompted

MOST_TEXTS, MOST_TOKENS = 256, 1024
"""Texts, and tokens of their usual spellings, up to which the texts of a problem are scored."""
SHARE = 0.9
"""The share of the look-ahead in the proposal; the rest is the masked law, for other spellings."""


class Listed(NamedTuple):
    """The texts of one problem of a batch."""

    column: int
    """The number of the constraint that lists them."""
    lists: tuple[Ids, ...]
    """Their usual spellings, all different."""


@dataclass(frozen=True, eq=False)
class Foreseen:
    """A mixture of the law given the usual spellings of listed texts, where a prefix is one, and of a masked law.

    `law`: that law, the target's own or a guided one; `lists`: by problem. No increment exceeds that of the masked law
    by more than -log(1 - `SHARE`).
    """

    law: Masked | Guided
    lists: Mapping[int, Listed]

    def draw(self, frontier: Frontier) -> Proposed:
        """See `Proposal.draw`."""
        state, heads = frontier.state, frontier.heads
        if frontier.parents is None:
            self._score(frontier)
        listings = {g: state.companions[name_listing(g, listed.column)] for g, listed in self.lists.items()}
        found: list[Node | None] = [
            listing.find(ids[:n].tolist()) if (listing := listings.get(int(g))) is not None else None
            for g, ids, n in zip(state.group[heads], state.ids[heads], state.length[heads], strict=True)
        ]
        if not any(found):
            return self.law.draw(frontier)
        scale = np.ones(len(found), np.float32)
        return draw_and_weigh(frontier, mix(self._make_logits(frontier), frontier.mask, found), scale)

    def _make_logits(self, frontier: Frontier) -> Tensor:
        """(U, V) log of the law that is mixed in, not normalised."""
        import torch

        if isinstance(self.law, Guided):
            return self.law.make_logits(frontier)
        logits = frontier.logits
        return logits * torch.as_tensor(frontier.scale, device=logits.device)[:, None]

    def _score(self, frontier: Frontier) -> None:
        state = frontier.state
        vocabulary, groups = state.vocabulary, frontier.groups.tolist()
        prompts = [state.prompts[g] for g in groups]
        lists = [
            [ids for ids in self.lists[g].lists if can_end(ids, prompt, vocabulary)] if g in self.lists else []
            for g, prompt in zip(groups, prompts, strict=True)
        ]
        scored = score_lists(state.contexts, frontier.logits, prompts, lists, vocabulary, frontier.groups)
        for g, some, scores in zip(groups, lists, scored, strict=True):
            if g in self.lists:
                listing = Listing(some, scores, vocabulary.tokens, vocabulary.eos)
                state.companions[name_listing(g, self.lists[g].column)] = listing
                state.forwarded[g] += sum(score.spent for score in scores)


def mix(logits: Tensor, mask: TokenMask, found: Sequence[Node | None]) -> Tensor:
    """(U, V) logits of the proposal under `mask`: `logits` as they are where no node was found."""
    import torch

    rows = [u for u, node in enumerate(found) if node is not None]
    allowed = unpack(mask[rows], logits.shape[1])
    masked = logits[rows].double().masked_fill(~torch.as_tensor(allowed, device=logits.device), -torch.inf)
    log_total = torch.logsumexp(masked, 1, keepdim=True)
    plain = np.log1p(-SHARE) + masked - log_total.clamp_min(torch.finfo(masked.dtype).min)
    possible = plain.isfinite().cpu().numpy()  # neither forbidden by the mask, nor by a guide
    mixed = logits.clone()
    for u, law, permitted in zip(rows, plain, possible, strict=True):
        node = found[u]
        assert node is not None
        tokens = [token for token in node.log_next if permitted[token]]
        ahead = np.array([node.log_next[token] for token in tokens])
        if len(tokens) and np.isfinite(total := np.logaddexp.reduce(ahead)):
            at = torch.as_tensor(tokens, device=logits.device)
            share = torch.as_tensor(np.log(SHARE) + ahead - total, device=logits.device)
            law[at] = torch.logaddexp(law[at], share)
            mixed[u] = law.float()
    return mixed


def look_for_lists(model: Prompted, g: int) -> Listed | None:
    """The texts of the first constraint of problem `g` that lists them; None if there is none, or they are too many.

    Only texts that the other constraints accept count.
    """
    problem = model.problems[g]
    for column, constraint in enumerate(problem.constraints):
        if has(constraint, Lists):
            spelt = [ids for ids in _list_spellings(model, constraint) if len(ids) <= problem.prompt.max_tokens]
            lists = tuple(ids for ids in spelt if model.columns.accepts_tokens(ids, g))
            if lists and sum(map(len, lists)) <= MOST_TOKENS:
                return Listed(column, lists)
    return None


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
