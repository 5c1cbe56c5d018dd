"""The plan of a step of the shared cache, carried out on lists of tokens instead of tensors."""

from __future__ import annotations

import numpy as np
import pytest

from feynkac.models.language.caches.plan import Layout, Plan, plan_step

PROMPTS = np.array([3, 5])
NEVER = -9


def carry_out(store: np.ndarray, plan: Plan, tokens: np.ndarray) -> None:
    """Copy and write as the cache does; reading what is not hidden must give the oracle's texts."""
    assert not set(plan.source) & set(plan.target)
    store[plan.target, : plan.copied] = store[plan.source, : plan.copied]
    slots = np.arange(len(plan.rows)) if plan.slots is None else plan.slots
    at = np.broadcast_to(plan.at, len(plan.rows))
    for row, (slot, place) in enumerate(zip(slots, at, strict=True)):
        store[slot, place : place + tokens.shape[1]] = tokens[plan.rows[row]]


def visible(store: np.ndarray, plan: Plan, row: int, new: int) -> list[int]:
    """The tokens in its slot that new token `new` of a row of the pass attends to."""
    slot = row if plan.slots is None else plan.slots[row]
    seen = store[slot, : plan.length]
    return seen.tolist() if plan.hidden is None else seen[~plan.hidden[row, new]].tolist()


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("seed", range(20))
def test_every_token_attends_to_its_own_past(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 2, rng.integers(1, 4))
    layout = Layout(np.arange(len(prompt)), np.zeros(len(prompt), np.int64), prompt)
    texts: list[list[int]] = [[] for _ in prompt]
    store, fresh = np.full((64, 200), NEVER), iter(range(10**6))
    for _ in range(12):
        parents = rng.permutation(np.repeat(np.arange(len(texts)), rng.integers(0, 3, len(texts))))[:20]
        if not len(parents):
            parents = np.zeros(1, np.int64)
        count = rng.integers(0, most + 1, len(parents))
        tokens = np.array([[next(fresh) for _ in range(most)] for _ in parents])
        every = bool(rng.integers(2))
        plan = plan_step(layout, PROMPTS, parents, count, most, every)
        carry_out(store, plan, tokens)
        texts = [texts[p] + tokens[i, : count[i]].tolist() for i, p in enumerate(parents)]
        layout = plan.layout
        check(plan, store, texts, parents, count, every)


def check(plan: Plan, store: np.ndarray, texts: list[list[int]], parents, count, every: bool) -> None:
    layout = plan.layout
    assert sorted(layout.slot) == list(range(len(parents)))
    assert layout.length.tolist() == [len(text) for text in texts]
    for i, text in enumerate(texts):
        assert store[layout.slot[i], : len(text)].tolist() == text
    assert sorted(plan.rows) == np.flatnonzero(count).tolist()
    assert plan.room[0] >= len(parents)
    for row, i in enumerate(plan.rows):
        before = len(texts[i]) - count[i]
        for new in range(count[i]):
            assert visible(store, plan, row, new) == texts[i][: before + new + 1]
            assert plan.positions[row, new] == PROMPTS[layout.prompt[i]] + before + new
        assert plan.room[1] >= before + plan.positions.shape[1]
    wanted = [(i, new) for i in range(len(parents)) for new in range(count[i]) if every or new == count[i] - 1]
    assert [(plan.rows[row], new) for row, new in plan.picked.T] == wanted
    parts = [(row, g) for g, rows in plan.parts for row in (range(len(plan.rows)) if rows is None else rows)]
    assert sorted(parts) == [(row, layout.prompt[i]) for row, i in enumerate(plan.rows)]
    ends = PROMPTS[layout.prompt[plan.rows]] + layout.length[plan.rows]
    assert (plan.positions < ends[:, None]).all()  # padding, too: it must not lie beyond the model's window


def test_one_child_stays_and_the_usual_step_needs_neither_gather_nor_mask() -> None:
    layout = Layout(np.array([1, 0, 2]), np.array([4, 4, 4]), np.zeros(3, np.int64))
    plan = plan_step(layout, PROMPTS, np.array([0, 0, 2]), np.ones(3, np.int64), 1)
    assert (plan.source.tolist(), plan.target.tolist(), plan.copied) == ([1], [0], 4)
    assert plan.layout.slot.tolist() == [1, 0, 2]
    assert plan.slots is None and plan.hidden is None and plan.at == 4
    assert plan.rows.tolist() == [1, 0, 2] and plan.picked.tolist() == [[1, 0, 2], [0, 0, 0]]
