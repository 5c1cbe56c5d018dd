"""What all contexts of a prompt have in common behind it: tokens that can join the prompt, and be kept once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feynkac.models.language.caches.plan import Indices, Layout

EVERY = 16
"""Passes from one look at the contexts to the next."""
_LEAST = 16
"""Tokens in common that are moved; fewer stay where they are."""
Tokens = NDArray[np.int32]


def write_tokens(own: Tokens, at: Indices, tokens: Indices, count: Indices) -> Tokens:
    """`own` (C, time) with the first `count` (C,) of `tokens` (C, Q) at `at` (C,); as wide as it takes."""
    missing = int((at + count).max(initial=0)) - own.shape[1]
    own = np.pad(own, ((0, 0), (0, max(missing, own.shape[1])))) if missing > 0 else own
    for j in range(tokens.shape[1]):
        rows = np.flatnonzero(count > j)
        own[rows, at[rows] + j] = tokens[rows, j]
    return own


def count_shared(own: Tokens, layout: Layout) -> int:
    """Tokens behind the prompt in which all contexts of one prompt agree, for every prompt."""
    n = int(layout.length.min(initial=own.shape[1]))
    first = np.unique(layout.prompt, return_index=True, return_inverse=True)
    agree = (own[:, :n] == own[first[1][first[2]], :n]).all(0)
    return n if agree.all() else int(agree.argmin())


def is_worth_it(shared: int, layout: Layout, prompts: Indices) -> bool:
    """Whether moving tokens takes less than reading them for each context up to the next look.

    `prompts`: tokens of the prompts in use, which are copied, as is what the contexts keep of their own.
    """
    n = len(layout.length)
    moved = int(prompts.sum()) + n * (int(layout.length.max(initial=0)) - shared)
    return n > len(prompts) and shared >= _LEAST and EVERY * shared * n >= moved
