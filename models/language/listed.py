"""A list of texts as a model sees it: the score of each text's usual spelling, all of them in one forward pass.

The usual spelling of a text is the tokenizer's own. What it says of a finite constraint is a lower bound, since others
spell the same text, and where to look: which tokens lead to much mass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.protocols import Contexts
    from feynkac.models.language.texts import Prompt

Ids = tuple[int, ...]


class Scored(NamedTuple):
    """What a text is worth, token by token."""

    log_prob: NDArray[np.float64]
    """(n,) nats of each token behind those before it."""
    log_ends: NDArray[np.float64]
    """(E,) nats of each end-of-sequence token behind the text; empty where the limit ends it, at no price."""

    @property
    def log_end(self) -> float:
        """Nats of ending behind the text."""
        return float(np.logaddexp.reduce(self.log_ends)) if len(self.log_ends) else 0.0

    @property
    def total(self) -> float:
        """Nats of the whole text, its end included."""
        return float(self.log_prob.sum()) + self.log_end


def score_lists(
    contexts: Contexts, logits: Tensor, prompts: Sequence[Prompt], lists: Sequence[Sequence[Ids]], eos: Sequence[int]
) -> list[list[Scored]]:
    """The score of every list of token ids of every prompt, in one forward pass of `contexts` behind its start.

    `contexts` are as `start` made them, and `logits` (G, V) what it gave; they are left as they were. A list as long as
    the limit is cut there, or must end there, as the prompt's `at_limit` has it.
    """
    flat = [(g, ids) for g, some in enumerate(lists) for ids in some]
    written = [i for i, (_, ids) in enumerate(flat) if ids]
    roots = np.arange(len(prompts))
    behind = None
    if written:
        parents = np.array([flat[i][0] for i in written] + roots.tolist())
        behind = contexts.append(parents, [flat[i][1] for i in written] + [()] * len(prompts), every=True)
        contexts.extend(roots + len(written), np.full(len(prompts), -1))
    starts = dict(zip(written, np.cumsum([0, *(len(flat[i][1]) for i in written)]).tolist(), strict=False))
    found: list[list[Scored]] = [[] for _ in prompts]
    for i, (g, ids) in enumerate(flat):
        tail = None if behind is None or not ids else behind[starts[i] : starts[i] + len(ids)]
        found[g].append(_score(logits[g], tail, ids, prompts[g], eos))
    return found


def _score(first: Tensor, behind: Tensor | None, ids: Ids, prompt: Prompt, eos: Sequence[int]) -> Scored:
    """`first` (V,) logits at the start, `behind` (n, V) those behind each token."""
    import torch

    scaled = torch.stack([first, *(() if behind is None else behind)]).double() / prompt.temperature
    log_p = torch.log_softmax(scaled, 1).cpu().numpy()
    at = np.arange(len(ids))
    cut = len(ids) == prompt.max_tokens and prompt.at_limit == "truncate"
    return Scored(log_p[at, list(ids)], log_p[len(ids), [] if cut else list(eos)])


@dataclass
class Node:
    """A prefix of usual spellings."""

    log_value: float = -np.inf
    """Nats that the listed texts have from here on, given this prefix."""
    log_next: dict[int, float] = field(default_factory=dict)
    """How much of that goes through each next token, ends of sequence included."""

    def add(self, token: int, nats: float) -> None:
        """`nats` more of it go through `token`."""
        self.log_next[token] = float(np.logaddexp(self.log_next.get(token, -np.inf), nats))


class Listing:
    """The listed texts of each prompt of a run: what they are worth from any prefix on."""

    def __init__(
        self, lists: Sequence[Sequence[Ids]], scored: Sequence[Sequence[Scored]], tokens: Sequence[bytes], eos: Ids
    ) -> None:
        """`lists` of token ids for each prompt, their scores, and the bytes of all tokens."""
        self._eos = eos
        self._nodes: dict[tuple[int, Ids], Node] = {}
        self._profiles: list[list[tuple[bytes, NDArray[Any], NDArray[Any]]]] = [[] for _ in lists]
        """Of each text its bytes, those written behind each of its tokens, and the nats from there on."""
        for g, (some, scores) in enumerate(zip(lists, scored, strict=True)):
            for ids, score in zip(some, scores, strict=True):
                self._plant(g, ids, score)
                written = [tokens[i] for i in ids]
                places, rest = np.cumsum([0, *map(len, written)]), score.total - np.cumsum([0.0, *score.log_prob])
                self._profiles[g].append((b"".join(written), places, rest))
        self.log_total = [self._find(g, ()) for g in range(len(lists))]
        """What the listed spellings have in all, for each prompt: a lower bound of the evidence of their texts."""

    def _plant(self, g: int, ids: Ids, score: Scored) -> None:
        rest = score.log_end
        last = self._nodes.setdefault((g, ids), Node())
        last.log_value = float(np.logaddexp(last.log_value, rest))
        for token, nats in zip(self._eos, score.log_ends, strict=False):
            last.add(token, float(nats))
        for i in range(len(ids) - 1, -1, -1):
            rest += float(score.log_prob[i])
            node = self._nodes.setdefault((g, ids[:i]), Node())
            node.log_value = float(np.logaddexp(node.log_value, rest))
            node.add(ids[i], rest)

    def _find(self, g: int, ids: Ids) -> float:
        node = self._nodes.get((g, ids))
        return -np.inf if node is None else node.log_value

    def find(self, g: int, ids: Iterable[int]) -> Node | None:
        """The node of a prefix, None where no usual spelling goes on from it."""
        return self._nodes.get((g, tuple(ids)))

    def foresee(self, g: int, ids: Sequence[int], written: bytes) -> float:
        """Nats that the listed texts have from a prefix on: known on usual spellings, and guessed behind others.

        An unusual spelling is taken to go on as the usual one does from the same byte.
        """
        if (node := self.find(g, ids)) is not None:
            return node.log_value
        rests = [
            np.interp(len(written), places, rest)
            for text, places, rest in self._profiles[g]
            if text.startswith(written)
        ]
        return float(np.logaddexp.reduce(rests)) if rests else 0.0
