"""Random programs of extensions and forks of a store of contexts, against a full recompute of every text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny import VOCAB

PROMPTS = [[5, 9, 3, 7, 1], [4], [5, 9, 3, 7, 1], [8, 2, 6, 11, 30]]


def recompute(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """(F, V) next-token logits of each text by a forward pass of its own."""
    with torch.inference_mode():
        return torch.stack([model(input_ids=torch.tensor([text])).logits[0, -1].float() for text in texts])


def run_program(
    model: Any, contexts: Any, prompts: list[list[int]], seed: int, steps: int, keep: float, most: int = 1
) -> None:
    """Random forks, keeps and drops, by up to `most` tokens; the oracle is a list of token lists."""
    rng = np.random.default_rng(seed)
    texts, prefilled = [list(prompt) for prompt in prompts], contexts.forwarded
    torch.testing.assert_close(contexts.start(), recompute(model, texts), atol=1e-4, rtol=1e-4)
    forwarded = contexts.forwarded
    assert forwarded - prefilled <= sum(map(len, prompts))
    for _ in range(steps):
        children = random_children(rng, len(texts), keep, most)
        parents, new = np.array([parent for parent, _ in children]), [list(tokens) for _, tokens in children]
        if most == 1:
            logits = contexts.extend(parents, np.array([tokens[0] if tokens else -1 for tokens in new]))
        else:
            logits = contexts.append(parents, new)
        texts = [texts[parent] + tokens for parent, tokens in zip(parents, new, strict=True)]
        grown = [text for text, tokens in zip(texts, new, strict=True) if tokens]
        forwarded += sum(map(len, new))
        assert logits.dtype == torch.float32
        assert logits.shape[0] == len(grown)
        if grown:
            torch.testing.assert_close(logits, recompute(model, grown), atol=1e-4, rtol=1e-4)
        assert contexts.lengths.tolist() == [len(text) for text in texts]
        assert contexts.forwarded == forwarded


def random_children(rng: np.random.Generator, n: int, keep: float, most: int) -> list[tuple[int, tuple[int, ...]]]:
    """Distinct pairs of a parent and its new tokens, for some of `n` parents, in no order."""
    survivors = rng.permutation(n)[: rng.integers(1, n + 1)]
    pairs = set()
    for parent in np.repeat(survivors, rng.integers(1, 4, len(survivors))).tolist():
        n_new = 0 if rng.random() < keep else rng.integers(1, most + 1)
        pairs.add((parent, tuple(rng.integers(VOCAB, size=n_new).tolist())))
    return [sorted(pairs)[i] for i in rng.permutation(len(pairs))[:9]]
