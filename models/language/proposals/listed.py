"""A list of texts as a model sees it: the score of each text's usual spelling, all of them in one forward pass.

The usual spelling of a text is the tokenizer's own. What it says of a finite constraint is a lower bound, since others
spell the same text, and where to look: which tokens lead to much mass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.models.language.laws.law import shape
from feynkac.models.language.protocols import count_spent

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.prompts.prompt import Prompt
    from feynkac.models.language.protocols import Contexts

Ids = tuple[int, ...]
LISTING = "listing"
AT_ONCE = 256
"""Tokens whose logits are held at once, (256, V)."""


def name_listing(g: int, column: int) -> tuple[str, int, int]:
    """The key in `companions` of what is foreseen of the texts of a constraint of problem `g`."""
    return LISTING, g, column


class Scored(NamedTuple):
    """What a text is worth, token by token."""

    log_prob: NDArray[np.float64]
    """(n,) nats of each token behind those before it."""
    log_ends: NDArray[np.float64]
    """(E,) nats of each end-of-sequence token behind the text."""
    cut: bool
    """Whether the limit ends the text, at no price."""
    spent: int
    """Tokens that were forwarded for it."""

    @property
    def log_end(self) -> float:
        """Nats of ending behind the text."""
        return 0.0 if self.cut else float(np.logaddexp.reduce(self.log_ends, initial=-np.inf))

    @property
    def total(self) -> float:
        """Nats of the whole text, its end included."""
        return float(self.log_prob.sum()) + self.log_end


def score_lists(
    contexts: Contexts,
    logits: Tensor,
    prompts: Sequence[Prompt],
    lists: Sequence[Sequence[Ids]],
    vocabulary: Vocabulary,
    groups: NDArray[np.int64] | None = None,
) -> list[list[Scored]]:
    """The score of every list of token ids of every prompt, behind the start of `contexts`.

    `contexts` are as `start` made them, and are left so; `logits` (P, V) are what it gave for these `prompts`, under
    their laws (see `shape_starts`). `groups` (P,): the contexts of the prompts, by default all, in order. All lists go
    through the model in one pass, unless they have more than `AT_ONCE` tokens. A list as long as the limit is cut
    there, or must end there, as the prompt's `at_limit` has it; one whose last token completes a stop string has ended.
    """
    eos = vocabulary.eos
    flat = [(g, ids) for g, some in enumerate(lists) for ids in some]
    firsts = [_Next(row, prompt, eos) for row, prompt in zip(logits[:, None], prompts, strict=True)]
    found: list[list[Scored]] = [[] for _ in prompts]
    n = len(contexts.lengths)
    roots, place = np.arange(n), np.arange(n) if groups is None else groups
    for some in _split(flat):
        written = [(g, ids) for g, ids in some if ids]
        behind: Tensor | None = None
        spent: Iterator[int] = iter(())
        if written:
            parents = np.concatenate([roots[place[[g for g, _ in written]]], roots])
            behind = contexts.append(parents, [ids for _, ids in written] + [()] * n, every=True)
            spent = iter(count_spent(contexts, [len(ids) for _, ids in written]).tolist())
            roots = np.arange(len(written), len(written) + n)
        at = 0
        for g, ids in some:
            rest = None if behind is None else _follow(behind[at : at + len(ids)], prompts[g], ids, eos)
            taken = next(spent) if ids else 0
            found[g].append(_score(firsts[g], rest, ids, _ends(ids, prompts[g], vocabulary), taken))
            at += len(ids)
    contexts.extend(roots, np.full(n, -1))
    return found


def shape_starts(logits: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """(G, V) the logits behind each prompt under its law."""
    return shape(logits, [prompt.law for prompt in prompts], lambda g: prompts[g].ids)


def score_firsts(logits: Tensor, tokens: Sequence[int]) -> NDArray[np.float64]:
    """(G, A) nats of each of `tokens` as the next one, by laws (G, V)."""
    import torch

    scaled = logits.double()
    return (scaled[:, list(tokens)] - torch.logsumexp(scaled, 1, keepdim=True)).cpu().numpy()


class _Next:
    """(n, V) logits as laws of the next token; only what is asked for leaves the device."""

    def __init__(self, logits: Tensor, prompt: Prompt, eos: Sequence[int]) -> None:
        import torch

        self._scaled = logits.double() / prompt.law.temperature
        self._log_total, self._eos = torch.logsumexp(self._scaled, 1), list(eos)

    def read(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """(k,) nats of token i in law i."""
        at = list(range(len(tokens)))
        return (self._scaled[at, list(tokens)] - self._log_total[at]).cpu().numpy()

    def read_ends(self) -> NDArray[np.float64]:
        """(E,) nats of the ends of sequence in the last law."""
        return (self._scaled[-1, self._eos] - self._log_total[-1]).cpu().numpy()


def _follow(logits: Tensor, prompt: Prompt, ids: Ids, eos: Sequence[int]) -> _Next:
    """The laws behind each of `ids`, where the model gives `logits` (n, V)."""
    return _Next(shape(logits, [prompt.law] * len(ids), lambda i: prompt.find_history(ids[: i + 1])), prompt, eos)


def _split(flat: Sequence[tuple[int, Ids]]) -> Iterator[list[tuple[int, Ids]]]:
    """Parts of a list with about `AT_ONCE` tokens each."""
    part: list[tuple[int, Ids]] = []
    for each in flat:
        if part and sum(len(ids) for _, ids in part) + len(each[1]) > AT_ONCE:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def can_end(ids: Ids, prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether a text of a prompt may consist of these tokens: no limit and no stop string comes before the last."""
    written = vocabulary.bytes(ids[:-1])
    return len(ids) <= prompt.max_tokens and not any(stop in written for stop in prompt.stop)


def _ends(ids: Ids, prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether a text ends with its last token, at no price."""
    cut = len(ids) == prompt.max_tokens and prompt.at_limit == "truncate"
    return cut or any(stop in vocabulary.bytes(ids) for stop in prompt.stop)


def _score(first: _Next, behind: _Next | None, ids: Ids, cut: bool, spent: int) -> Scored:
    """`first` is the law at the start, `behind` those behind each token."""
    if not ids or behind is None:
        return Scored(np.empty(0), first.read_ends(), cut, spent)
    return Scored(np.concatenate([first.read(ids[:1]), behind.read(ids[1:])]), behind.read_ends(), cut, spent)


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
    """The listed texts of one problem of a run: what they are worth from any prefix on."""

    def __init__(self, lists: Sequence[Ids], scores: Sequence[Scored], tokens: Sequence[bytes], eos: Ids) -> None:
        """`lists` of distinct token ids, their scores, and the bytes of all tokens."""
        self._lists, self._scores, self._eos = lists, scores, eos
        self._nodes: dict[Ids, Node] = {}
        self._profiles: list[tuple[bytes, NDArray[Any], NDArray[Any]]] = []
        """Of each text its bytes, how many are written behind each of its tokens, and the nats from there on."""
        for ids, score in zip(lists, scores, strict=True):
            written = [tokens[i] for i in ids]
            rest = np.cumsum([score.log_end, *score.log_prob[::-1]])[::-1]
            self._plant(ids, score, rest)
            self._profiles.append((b"".join(written), np.cumsum([0, *map(len, written)]), rest))
        self.log_total = self._nodes.get((), Node()).log_value
        """What the listed spellings have in all: a lower bound of the evidence of their texts."""

    def save(self) -> list[Any]:
        """What another process makes it of again, beside the tokens."""
        return [(tuple(ids), tuple(score)) for ids, score in zip(self._lists, self._scores, strict=True)]

    @classmethod
    def load(cls, saved: Sequence[Any], tokens: Sequence[bytes], eos: Ids) -> Listing:
        """What `save` gave."""
        return cls([ids for ids, _ in saved], [Scored(*score) for _, score in saved], tokens, eos)

    def _plant(self, ids: Ids, score: Scored, rest: NDArray[np.float64]) -> None:
        """Add a text to the nodes of its prefixes; `rest` (n + 1,) are the nats from each of them on."""
        for i, nats in enumerate(rest.tolist()):
            node = self._nodes.setdefault(ids[:i], Node())
            node.log_value = float(np.logaddexp(node.log_value, nats))
            if i < len(ids):
                node.add(ids[i], nats)
            elif not score.cut:
                for token, each in zip(self._eos, score.log_ends.tolist(), strict=True):
                    node.add(token, each)

    def find(self, ids: Iterable[int]) -> Node | None:
        """The node of a prefix, None where no usual spelling goes on from it."""
        return self._nodes.get(tuple(ids))

    def foresee(self, ids: Sequence[int], written: bytes) -> float:
        """Nats that the listed texts have from a prefix on: known on usual spellings, and guessed behind others.

        An unusual spelling is taken to go on as the usual one does from the same byte. Always finite, since a guess
        must not kill what other spellings can save.
        """
        node = self.find(ids)
        if node is not None and node.log_value > -np.inf:
            return node.log_value
        likely = [(places, rest) for text, places, rest in self._profiles if text.startswith(written)]
        rests = [np.interp(len(written), places, rest) for places, rest in likely if rest[0] > -np.inf]
        return float(np.logaddexp.reduce(rests)) if rests else 0.0
