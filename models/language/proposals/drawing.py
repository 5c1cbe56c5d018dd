"""Who draws for whom: the problems of one batch may have different proposals, and still share each forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Mask
from feynkac.base.errors import ModelError, quote
from feynkac.models.language.proposals.foreseen import Foreseen, look_for_lists
from feynkac.models.language.proposals.guided import Guided
from feynkac.models.language.proposals.plain import MASKED
from feynkac.models.language.protocols import Frontier, Proposal, Proposed

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.capabilities import Guides
    from feynkac.base.masks import TokenConstraint
    from feynkac.models.language.prompted import Prompted
    from feynkac.models.language.prompts.prompt import Prompt

GROUPS = "the problem of each context"
"""The key in `Texts.companions` under which (U,) problems of the last step's contexts stand."""


@dataclass(frozen=True)
class PromptProblem:
    """A prompt, and what its texts are drawn by."""

    prompt: Prompt
    constraints: tuple[TokenConstraint, ...] = ()
    """They mask every proposal."""
    guides: tuple[Guides, ...] = ()
    proposal: Proposal | None = None
    """None: the law itself, as guides and the constraints' lists of texts have it."""


class Share(NamedTuple):
    """The problems that one proposal draws for."""

    proposal: Proposal
    members: Mask
    """(G,)"""


def arrange(model: Prompted) -> list[Share]:
    """The proposals of a batch, equal ones taken together."""
    found: list[tuple[Proposal | None, tuple[int, ...], list[int]]] = []
    for g, problem in enumerate(model.problems):
        guides = () if problem.proposal is not None else tuple(map(id, problem.guides))
        for proposal, others, members in found:
            if others == guides and (proposal is problem.proposal or proposal == problem.proposal):
                members.append(g)
                break
        else:
            found.append((problem.proposal, guides, [g]))
    numbers = np.arange(len(model.problems))
    return [Share(proposal or _choose(model, some), np.isin(numbers, some)) for proposal, _, some in found]


def _choose(model: Prompted, members: Sequence[int]) -> Proposal:
    """The proposal of problems that name none, and have the same guides."""
    law = Guided(guides) if (guides := model.problems[members[0]].guides) else MASKED
    lists = {g: listed for g in members if (listed := look_for_lists(model, g)) is not None}
    return Foreseen(law, lists) if lists else law


def draw_shares(shares: Sequence[Share], frontier: Frontier) -> Proposed:
    """The next token of each row of a frontier, from the proposal of its problem. Raises ModelError for others."""
    if len(shares) == 1:
        return _draw(shares[0].proposal, frontier)
    group = frontier.state.group[frontier.heads]
    before = frontier.state.companions.get(GROUPS, group)
    n = len(frontier.rows)
    whole = Proposed(np.full(n, -1), np.full(n, -np.inf), np.full(n, -np.inf))
    for proposal, members in shares:
        if members[group].any():
            here, part = _select(frontier, members, members[group], members[before])
            for values, drawn in zip(whole, _draw(proposal, part), strict=True):
                values[here] = drawn
    frontier.state.companions[GROUPS] = group
    return whole


def _draw(proposal: Proposal, frontier: Frontier) -> Proposed:
    """What a proposal draws. Raises ModelError for what are no tokens: a model would read past its table of them."""
    found, n, size = proposal.draw(frontier), len(frontier.rows), frontier.state.vocabulary.size
    tokens = np.asarray(found.tokens)
    shapes = [np.shape(values) for values in found]
    if shapes != [(n,)] * 3 or tokens.dtype.kind not in "iu" or tokens.max(initial=-1) >= size:
        raise ModelError(
            f"proposal {type(proposal).__name__} drew {quote(tokens)} for {n} rows, values of shapes {shapes[1:]}; "
            f"give a token for each, a whole number below {size} or -1 for none, its log-probability and its increment"
        )
    return found


def guide_shares(problems: Sequence[PromptProblem], frontier: Frontier) -> Tensor | None:
    """(U, V) logits of what the guides of each problem make of the law, at temperature 1; None where nothing guides."""
    if not any(problem.guides for problem in problems):
        return None
    kinds: dict[tuple[int, ...], list[int]] = {}
    for g, problem in enumerate(problems):
        kinds.setdefault(tuple(map(id, problem.guides)), []).append(g)
    if len(kinds) == 1:
        return Guided(problems[0].guides).make_logits(frontier)
    group = frontier.state.group[frontier.heads]
    before = frontier.state.companions.get(GROUPS, group)
    whole = frontier.logits.clone()
    for some in kinds.values():
        members = np.isin(np.arange(len(problems)), some)
        if members[group].any():
            _, part = _select(frontier, members, members[group], members[before])
            whole[np.flatnonzero(members[group])] = Guided(problems[some[0]].guides).make_logits(part)
    frontier.state.companions[GROUPS] = group
    return whole


def _select(frontier: Frontier, members: Mask, now: Mask, before: Mask) -> tuple[NDArray[np.int64], Frontier]:
    """The frontier of some problems alone, and where its rows stand in that of all.

    `members` (G,) the problems; `now` (U,) and `before` which contexts of this frontier, and of the last, are theirs.
    """
    here, contexts = np.flatnonzero(now[frontier.context]), np.flatnonzero(now)
    part = replace(
        frontier,
        logits=frontier.logits[contexts],
        mask=frontier.mask[contexts],
        scale=frontier.scale[contexts],
        context=_number(now)[frontier.context[here]],
        uniforms=frontier.uniforms[here],
        pinned=frontier.pinned if here[0] == 0 else None,
        rows=frontier.rows[here],
        groups=np.flatnonzero(members),
        checks=None if frontier.checks is None else frontier.checks.select(here),
        hidden=None if frontier.hidden is None else frontier.hidden[contexts],
    )
    if frontier.parents is None or frontier.tokens is None:
        return here, part
    parents = frontier.parents[contexts]
    parents = np.where(parents < 0, parents, _number(before)[parents])
    return here, replace(part, parents=parents, tokens=frontier.tokens[contexts])


def _number(which: Mask) -> NDArray[np.int64]:
    """The number of each entry among those that are True."""
    return np.cumsum(which) - 1
