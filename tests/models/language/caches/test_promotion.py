"""Tokens that all contexts share move behind their prompts, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny
from walks import PROMPTS, recompute, run_program

import feynkac as fk
from feynkac.models.edits import Emphasise
from feynkac.models.language.caches import promotion, shared
from feynkac.models.language.caches.plan import Layout
from feynkac.models.language.caches.promotion import count_shared, is_worth_it, write_tokens
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.store import SharedLayer
from feynkac.models.language.caches.twin import Twins


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Look after each pass, move whatever is shared; the numbers of tokens moved so far."""
    counts: list[int] = []
    promote = SharedLayer.promote

    def counted(self: SharedLayer, n: int, *rest: Any) -> None:
        if self is self.cache.shared[0]:
            counts.append(n)
        promote(self, n, *rest)

    monkeypatch.setattr(SharedLayer, "promote", counted)
    monkeypatch.setattr(shared, "EVERY", 1)
    monkeypatch.setattr(shared, "is_worth_it", lambda n, *_: n > 0)
    return counts


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("most", [1, 4])
def test_contexts_stay_exact_when_what_they_share_moves(name: str, most: int, moved: list[int]) -> None:
    model = tiny(name)
    for seed in range(6):
        for prompts in (PROMPTS[:1], PROMPTS):
            contexts = SharedContexts(Twins(model), prompts, 20)
            run_program(model, contexts, prompts, seed, steps=10, keep=0.2, most=most)
    assert sum(moved) > 40 and max(moved) > 1


def test_room_of_contexts_that_died_is_given_back(moved: list[int]) -> None:
    model = tiny("llama")
    contexts = SharedContexts(Twins(model), [[1, 2, 3]], 9)
    contexts.start()
    contexts.extend(np.zeros(40, np.int64), np.arange(40))
    assert contexts._cache.shared[0].own[0].shape[0] >= 40
    logits = contexts.extend(np.array([39, 17, 17]), np.array([4, 5, 6]))
    assert contexts._cache.shared[1].own[0].shape[0] == 6
    torch.testing.assert_close(
        logits, recompute(model, [[1, 2, 3, 39, 4], [1, 2, 3, 17, 5], [1, 2, 3, 17, 6]]), atol=1e-4, rtol=1e-4
    )


def test_prompts_that_no_context_continues_are_freed(moved: list[int]) -> None:
    model = tiny("llama")
    contexts = SharedContexts(Twins(model), [[1, 2, 3], [7, 8, 9, 10]], 9)
    contexts.start()
    contexts.extend(np.array([1, 1]), np.array([4, 5]))
    assert contexts._cache.shared[0].prefixes[0][0].shape[2] == 0
    logits = contexts.extend(np.array([1, 0]), np.array([4, 5]))
    torch.testing.assert_close(
        logits, recompute(model, [[7, 8, 9, 10, 5, 4], [7, 8, 9, 10, 4, 5]]), atol=1e-4, rtol=1e-4
    )


def test_biases_of_a_prompt_do_not_reach_what_moves_behind_it(moved: list[int], smollm2: Path) -> None:
    """The same text under emphasis, with and without moves."""
    lm = fk.CausalLM.from_pretrained(str(smollm2))
    edited = lm.edited(Emphasise("weather", alpha=0.1))
    prompt = edited.prompt("The weather today is", max_tokens=3)
    forced = [lm.tokenizer(" sunny and")["input_ids"]]
    contexts = edited.open_prompts(prompt.prompts, 8)
    start = contexts.start()
    moved.clear()
    for token in (*forced[0], 253):
        logits = contexts.extend(np.zeros(1, np.int64), np.array([token]))
    assert sum(moved) == len(forced[0]) + 1
    moved.clear()
    again = edited.open_prompts(prompt.prompts, 8)
    torch.testing.assert_close(again.start(), start)
    wanted = again.append(np.zeros(1, np.int64), [[*forced[0], 253]])
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-4)


def test_what_is_shared_is_counted_for_every_prompt() -> None:
    own = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [5, 6, 7, 0], [5, 6, 8, 0]], np.int32)
    lengths, prompts = np.array([4, 4, 3, 3]), np.array([0, 0, 1, 1])
    assert count_shared(own, Layout(np.arange(4), lengths, prompts)) == 2
    assert count_shared(own[:2], Layout(np.arange(2), np.array([2, 4]), prompts[:2])) == 2
    assert count_shared(own[[0, 2]], Layout(np.arange(2), np.array([4, 3]), np.array([0, 1]))) == 3
    assert count_shared(own[[0, 2]], Layout(np.arange(2), np.array([4, 3]), np.array([0, 0]))) == 0


def test_tokens_are_written_behind_each_other() -> None:
    own = write_tokens(np.zeros((2, 0), np.int32), np.zeros(2, np.int64), np.array([[7, 8], [9, 0]]), np.array([2, 1]))
    own = write_tokens(own[[1, 0]], np.array([1, 2]), np.array([[5], [6]]), np.array([1, 0]))
    assert own[0, :2].tolist() == [9, 5] and own[1, :2].tolist() == [7, 8]


def test_a_move_must_save_more_than_it_takes() -> None:
    def layout(n: int, length: int) -> Layout:
        return Layout(np.arange(n), np.full(n, length), np.zeros(n, np.int64))

    assert is_worth_it(20, layout(32, 40), np.array([500]))
    assert not is_worth_it(promotion._LEAST - 1, layout(32, 40), np.array([500]))
    assert not is_worth_it(20, layout(2, 40), np.array([5000]))
    assert not is_worth_it(20, layout(1, 40), np.array([5]))  # one context reads its own tokens as fast as a prompt
