"""Memory that runs out in a pass: smaller parts, the same numbers, told once in the log and in each result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models.language.caches import forward, prefill
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from tests.models.language.tiny import tiny

FAULTS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "host": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "python": MemoryError(),
}


@pytest.fixture
def cramped(monkeypatch):
    """Has every forward pass of more than so many rows, or tokens of a prompt, run out of memory."""

    def limit(rows: int, tokens: int, error: BaseException) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        whole, last = forward.Forward.all, forward.Forward.last

        def check(ids: torch.Tensor) -> None:
            shapes.append((ids.shape[0], ids.shape[1]))
            if ids.shape[0] > rows or ids.shape[1] > tokens:
                raise error

        def forward_all(self: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            check(ids)
            return whole(self, ids, *args, **kwargs)

        def forward_last(self: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            check(ids)
            return last(self, ids, *args, **kwargs)

        monkeypatch.setattr(forward.Forward, "all", forward_all)
        monkeypatch.setattr(forward.Forward, "last", forward_last)
        return shapes

    return limit


@pytest.mark.parametrize("kind", FAULTS)
def test_prompts_that_are_too_many_or_too_long_for_the_memory_are_forwarded_in_parts(
    kind, cramped, monkeypatch
) -> None:
    """Four prompts of 40 tokens in passes of at most two rows and 16 tokens: each behind the one before."""
    monkeypatch.setattr(prefill, "_LEAST", 4)
    model, prompts = tiny("llama"), [[5 + i, *[(7 * j + i) % 50 for j in range(39)]] for i in range(4)]
    wanted = SharedContexts(Twins(model), prompts, 4).start()
    shapes = cramped(2, 16, FAULTS[kind])
    contexts = SharedContexts(Twins(model), prompts, 4)
    torch.testing.assert_close(contexts.start(), wanted, atol=1e-5, rtol=1e-5)
    assert contexts.forwarded == 160 and max(rows for rows, _ in shapes) == 4 and (1, 10) in shapes
    assert contexts.strained is not None


@pytest.mark.parametrize("kind", FAULTS)
def test_a_run_that_lacks_memory_gives_the_same_and_says_so_once(kind, tiny_lm, cramped, caplog) -> None:
    lm = tiny_lm("a", "b", seed=3)
    task = lm.prompt("ab", max_tokens=5)
    lm.score("a", ["a"])  # the check of the caches is over
    wanted = fk.steer(task, fk.reward(len, every="end"), particles=16, seed=1)
    cramped(1, 100, FAULTS[kind])
    found = fk.steer(task, fk.reward(len, every="end"), particles=16, seed=1)
    assert found.samples == wanted.samples
    np.testing.assert_allclose(found.log_weights, wanted.log_weights, atol=1e-5)
    assert len([said for said in found.warnings if "smaller parts from now on" in said]) == 1
    assert not any("memory" in said for said in wanted.warnings)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len([record for record in told if "smaller parts" in record.getMessage()]) == 1


def test_a_program_that_lacks_memory_gives_the_same_and_says_so(tiny_lm, cramped) -> None:
    lm = tiny_lm("a", "b", seed=3)

    @fk.program
    def two(p, lm):
        text = lm.context("ab")
        return p.sample(text.gen(max_tokens=3))

    lm.score("a", ["a"])
    wanted = fk.steer(two(lm), particles=16, seed=1)
    cramped(1, 100, FAULTS["cuda"])
    found = fk.steer(two(lm), particles=16, seed=1)
    assert found.samples == wanted.samples and any("smaller parts from now on" in said for said in found.warnings)


def test_memory_that_holds_not_even_one_short_prompt_is_an_error_with_advice(tiny_lm, cramped) -> None:
    lm = tiny_lm("a", "b")
    lm.score("a", ["a"])
    cramped(0, 100, FAULTS["cuda"])
    with pytest.raises(fk.ModelError, match="use fewer particles"):
        fk.steer(lm.prompt("ab", max_tokens=3), particles=4, seed=0)
