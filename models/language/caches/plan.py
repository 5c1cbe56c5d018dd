"""The plan of one step of the shared cache: which slots are copied, what is forwarded, where it reads and writes.

Pure index arithmetic on the host; `feynkac.models.language.caches.shared` carries it out.
Shapes: U contexts before the step, C after it, F of them forwarded, Q new tokens each (some of them padding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where contexts stand."""

    slot: Indices
    """(U,) the slot of each context; together they are exactly 0..U-1."""
    length: Indices
    """(U,) tokens in the slot, behind the prompt."""
    prompt: Indices
    """(U,) the number of each context's prompt."""


@dataclass(frozen=True)
class Plan:
    """One step: copy slots, then forward the tokens of some contexts."""

    layout: Layout
    """After the step."""
    source: Indices
    """(M,) slots that are copied first, the first `copied` tokens of them; disjoint from `target`."""
    target: Indices
    copied: int
    room: tuple[int, int]
    """Slots, and tokens in each, that must be there before anything is written."""
    kept: tuple[int, int]
    """Slots, and tokens in each, that hold something before the step."""
    rows: Rows
    """(F,) contexts after the step that are forwarded, in the order of the pass."""
    slots: Indices | None
    """(F,) the slot of each row; None where row r stands in slot r."""
    at: int | Indices
    """The place in its slot of each row's first new token: one for all, or (F,)."""
    length: int
    """Tokens of the longest row behind its prompt, new ones included."""
    hidden: NDArray[np.bool_] | None
    """(F, Q, length) what a new token must not attend to: what comes later, or was never written; None if nothing."""
    parts: list[tuple[int, Rows | None]]
    """Each prompt in use with its rows in the pass; None for all of them."""
    positions: Indices
    """(F, Q) the place of each new token in the whole text."""
    picked: Indices
    """(2, K) the row of the pass and the new token of it, for each of the K logits wanted, in the caller's order."""


def plan_step(
    before: Layout, prompt_lengths: Indices, parents: Rows, count: Indices, n_new: int, every: bool = False
) -> Plan:
    """Context i becomes context `parents[i]` and `count[i]` of its `n_new` tokens; `every`: logits after each."""
    placed, source, target = _place(before, parents)
    rows = np.flatnonzero(count)
    order = np.arange(len(rows))
    if len(rows) == len(count):
        rows = np.argsort(placed.slot)  # all of them in the order of their slots, so that nothing is gathered
        order = np.argsort(rows)
    at, new, steps = placed.length[rows], count[rows], np.arange(n_new)
    length = int((at + new).max(initial=0))
    aligned = bool((at + n_new == length).all())
    first = prompt_lengths[placed.prompt[rows]] + at
    return Plan(
        layout=replace(placed, length=placed.length + count),
        source=source,
        target=target,
        copied=int(before.length[parents][placed.slot != before.slot[parents]].max(initial=0)),
        room=(len(parents), int(placed.length.max(initial=0)) + n_new),
        kept=(len(before.slot), int(before.length[parents].max(initial=0))),
        rows=rows,
        slots=None if len(rows) == len(count) else placed.slot[rows],
        at=length - n_new if aligned and len(rows) == len(count) else at,
        length=length,
        hidden=None if aligned and n_new == 1 else np.arange(length) > (at[:, None] + steps)[..., None],
        parts=_group(placed.prompt[rows]),
        # What fills up the shorter lists is stored behind them, where the next tokens will overwrite it.
        positions=np.minimum(first[:, None] + steps, first[:, None] + new[:, None] - 1),
        picked=_pick(order, new[order], every),
    )


def split_plan(plan: Plan, most: int) -> Iterator[tuple[Plan, Indices]]:
    """The pass of a plan as passes of at most `most` rows, each with the places that its logits have among all."""
    of = np.arange(len(plan.rows)) // most
    for k in range(int(of[-1]) + 1):
        chosen = np.flatnonzero(of == k)
        place = np.flatnonzero(of[plan.picked[0]] == k)
        row, at = plan.picked[:, place]
        rows = plan.rows[chosen]
        part = replace(
            plan,
            rows=rows,
            slots=plan.layout.slot[rows],
            at=plan.at if isinstance(plan.at, int) else plan.at[chosen],
            hidden=None if plan.hidden is None else plan.hidden[chosen],
            parts=_group(plan.layout.prompt[rows]),
            positions=plan.positions[chosen],
            picked=np.stack([row - k * most, at]),
        )
        yield part, place


def _place(before: Layout, parents: Rows) -> tuple[Layout, Indices, Indices]:
    """A slot for each new context, and the copies that this takes.

    One child of each parent stays where the parent is, if that is a slot that remains; the others take free slots.
    """
    n, source = len(parents), before.slot[parents]
    length = before.length[parents]
    heir = np.zeros(n, np.bool_)
    heir[np.unique(source, return_index=True)[1]] = True
    heir &= source < n
    free = np.ones(n, np.bool_)
    free[source[heir]] = False
    slot = source.copy()
    slot[~heir] = np.flatnonzero(free)
    copied = ~heir & (length > 0)
    return Layout(slot, length, before.prompt[parents]), source[copied], slot[copied]


def _group(prompt: Indices) -> list[tuple[int, Rows | None]]:
    numbers = np.unique(prompt).tolist()
    return [(g, np.flatnonzero(prompt == g) if len(numbers) > 1 else None) for g in numbers]


def _pick(order: Indices, new: Indices, every: bool) -> Indices:
    """The last new token of each row in the caller's order, or all of them."""
    if not every:
        return np.stack([order, new - 1])
    return np.stack([np.repeat(order, new), np.concatenate([np.arange(0), *map(np.arange, new)])])
