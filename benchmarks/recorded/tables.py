"""What both sides of a comparison read: recorded laws, and checks that count. It needs no feynkac."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
CHECKS = {
    "date": ("The contract was signed on", rf" ({MONTHS}) \d\d?, \d{{4}}\."),
    "words": ("It was a dark and windy night, and", r"( [a-z]{2,9}){3,5}[.!?]"),
    "no e": ("It was a dark and windy night, and", r"[ a-df-z]{10,25}\."),
    "person": ("Somebody, in JSON:", r' \{"name": "[A-Za-z ]{1,12}", "age": (0|[1-9]\d?)\}'),
    "order": ("An order, in JSON:", r' \{"item": "(apple|pear|plum)", "count": [1-9]\d?, "express": (true|false)\}'),
}
"""A prompt and a pattern each; the last two are JSON schemas, spelled as patterns."""
BEHIND = r"[\s\S]*"  # anything may follow: that a text ends at once is so unlikely that nothing else would be measured
LIMIT = 20
"""Tokens of a text."""


class Table:
    """The recorded laws of one check, behind texts that can still become right."""

    def __init__(self, folder: Path, name: str) -> None:
        self.logits: NDArray[np.float32] = np.load(folder / f"{name}.npy")
        """(C, V)."""
        self.contexts: list[list[int]] = json.loads((folder / f"{name}.json").read_text())
        """The tokens of each text."""
        self.rows = {tuple(tokens): i for i, tokens in enumerate(self.contexts)}

    def choose(self, particles: int, seed: int) -> NDArray[np.int64]:
        """(N,) contexts in which particles stand: all different ones, as long as there are any."""
        order = np.random.default_rng(seed).permutation(len(self.contexts))
        return np.resize(order, particles).astype(np.int64)


class Check:
    """A pattern and whatever follows, asked about texts so far and about whole ones; `calls` counts."""

    def __init__(self, name: str) -> None:
        self._pattern, self.calls = regex.compile(CHECKS[name][1] + BEHIND), 0

    def prefix(self, text: str) -> bool:
        """Whether the text can still become right."""
        self.calls += 1
        return self._pattern.fullmatch(text, partial=True) is not None

    def complete(self, text: str) -> bool:
        """Whether the text is right."""
        self.calls += 1
        return self._pattern.fullmatch(text) is not None
