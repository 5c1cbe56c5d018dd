"""Every text of a prompt's law that its constraints allow, with its probability: no sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import has
from feynkac.base.masks import unpack
from feynkac.models.language import texts
from feynkac.models.language.draws.next_token import check_law
from feynkac.models.language.laws.law import shape
from feynkac.models.language.protocols import Drops, Spends
from feynkac.models.language.texts import Texts

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.prompted import Prompted

BATCH = 64
"""Histories forwarded at once, the likeliest first."""
MOST_TEXTS = 300_000
"""Finished texts that are kept."""
NEGLIGIBLE = 1e-9
"""Share of the mass found so far that may be left unvisited where nothing but masks weighs."""


class Enumerated(NamedTuple):
    """The texts found, and what was not visited."""

    state: Texts
    """L finished texts, each row a spelling."""
    log_prob: NDArray[np.float64]
    """(L,) nats of each."""
    log_left: float
    """Nats of the prefixes that were not visited; -inf where nothing was left."""
    forwarded: int
    """Histories that went through the model, the prompt's last token among them."""


@dataclass
class _Tree:
    """Prefixes of texts: each entry is one token behind another entry."""

    parent: NDArray[np.int64]
    token: NDArray[np.int64]
    log_prob: NDArray[np.float64]
    automata: NDArray[np.int64]
    depth: NDArray[np.int64]

    def add(self, other: _Tree) -> NDArray[np.int64]:
        """Append entries; their numbers."""
        start = len(self.parent)
        for name, value in vars(other).items():
            setattr(self, name, np.concatenate([getattr(self, name), value]))
        return np.arange(start, len(self.parent))

    def spell(self, entry: int) -> list[int]:
        """The token ids of an entry."""
        return [int(self.token[each]) for each in self.list_path(entry)[1:]]

    def list_path(self, entry: int) -> list[int]:
        """The entries from the first to this one."""
        path = [entry]
        while self.parent[path[-1]] >= 0:
            path.append(int(self.parent[path[-1]]))
        return path[::-1]


class Enumeration:
    """The walk through all allowed texts of one prompt, the likeliest prefixes first."""

    def __init__(self, model: Prompted) -> None:
        self._model, self._prompt = model, model.prompts[0]
        self._blank = model.open(1)
        self._contexts = self._blank.contexts
        start = self._blank.automata
        none = np.zeros(1, np.int64)
        self._tree = _Tree(none - 1, none - 1, np.zeros(1), start, none)
        self._open: NDArray[np.int64] = np.empty(0, np.int64)
        """Entries that are not forwarded yet."""
        self._context: NDArray[np.int64] = np.empty(0, np.int64)
        """The context of the parent of each open entry."""
        self._found: list[tuple[int, int]] = []
        """Finished texts: an entry, and how it ended."""
        self._log_found: list[float] = []
        self.forwarded = 0
        self._most = 0
        self._dropped: dict[int, float] = {}
        """Nats that the contexts of entries dropped, where these are approximate."""
        self._log_forgotten = -np.inf
        """Nats of prefixes that could not all be kept."""

    def run(self, most: int, masked: bool, watch: Callable[[int], Any]) -> Enumerated:
        """Walk until nothing is left, or nothing that counts (`masked`), or `most` histories were forwarded.

        It gives up early where what had to be forgotten counts, and where `watch` returns True.
        """
        self._most = most
        self._grow(np.zeros(1, np.int64), self._contexts.start(), np.zeros(1, np.int64))
        while len(self._open) and self.forwarded < most and not self._is_over(masked):
            order = np.arange(min(BATCH, most - self.forwarded, len(self._open)))  # the likeliest stand first
            self._visit(order)
            if watch(len(order)) is True:
                break
        state = self._write()
        return Enumerated(state, state.log_prob, self._log_left, self.forwarded)

    @property
    def _log_left(self) -> float:
        """Nats of the prefixes that are not visited."""
        return float(np.logaddexp.reduce(self._tree.log_prob[self._open], initial=self._log_forgotten))

    def _is_over(self, masked: bool) -> bool:
        """Whether what is left cannot matter, or what was forgotten does."""
        if not masked:
            return self._log_forgotten > -np.inf
        found = np.logaddexp.reduce(self._log_found, initial=-np.inf)
        left, tiny = self._log_left, np.log(NEGLIGIBLE)
        return bool(left < found + tiny or self._log_forgotten > np.logaddexp(found, left) + tiny)

    def _visit(self, order: NDArray[np.int64]) -> None:
        """Forward these open entries, and keep the contexts that others still need."""
        entries, parents = self._open[order], self._context[order]
        rest = np.ones(len(self._open), np.bool_)
        rest[order] = False
        self._open, self._context = self._open[rest], self._context[rest]
        kept, place = np.unique(self._context, return_inverse=True)
        logits = self._contexts.extend(
            np.concatenate([kept, parents]), np.concatenate([np.full(len(kept), -1), self._tree.token[entries]])
        )
        self._context = place.astype(np.int64)
        self._grow(entries, logits, np.arange(len(kept), len(kept) + len(entries)))

    def _grow(self, entries: NDArray[np.int64], logits: Tensor, contexts: NDArray[np.int64]) -> None:
        """The allowed tokens behind entries that were forwarded."""
        self.forwarded += len(entries)
        if has(self._contexts, Drops):
            self._dropped.update(zip(entries.tolist(), self._contexts.dropped[contexts].tolist(), strict=True))
        tree = self._tree
        log_p = self._normalise(logits, entries)
        group = np.zeros(len(entries), np.int64)
        allowed = unpack(self._model.mask(tree.automata[entries], tree.depth[entries], group), log_p.shape[1])
        above, token = np.nonzero(allowed & (log_p > -np.inf))
        nats = tree.log_prob[entries[above]] + log_p[above, token]
        ends = self._model.lm.vocabulary.ends[token]
        for entry, each in zip(entries[above[ends]].tolist(), nats[ends].tolist(), strict=True):
            self._finish(entry, texts.BY_EOS, each)
        above, token, nats = above[~ends], token[~ends], nats[~ends]
        kept = self._choose(nats, tree.depth[entries[above]] + 1)
        above, token, nats = above[kept], token[kept], nats[kept]
        automata = self._model.columns.advance(tree.automata[entries[above]], token, np.zeros(len(token), np.int64))
        born = _Tree(entries[above], token, nats, automata, tree.depth[entries[above]] + 1)
        self._sort(tree.add(born), contexts[above])

    def _choose(self, nats: NDArray[np.float64], depth: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which new entries to keep: those that end here, and of the others no more than can ever be visited."""
        going = ~self._is_cut(depth)
        if len(self._found) + (~going).sum() > MOST_TEXTS:
            self._forget(nats)
            return np.empty(0, np.int64)
        room = len(nats) if self._prompt.stop else max(self._most - self.forwarded, 0)
        order = np.flatnonzero(going)[np.argsort(-nats[going], kind="stable")]
        self._forget(nats[order[room:]])
        return np.sort(np.concatenate([np.flatnonzero(~going), order[:room]]))

    def _forget(self, nats: NDArray[np.float64]) -> None:
        self._log_forgotten = float(np.logaddexp.reduce(nats, initial=self._log_forgotten))

    def _is_cut(self, depth: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (depth == self._prompt.max_tokens) & (self._prompt.at_limit == "truncate")

    def _sort(self, born: NDArray[np.int64], contexts: NDArray[np.int64]) -> None:
        """New entries are finished, or open."""
        cut = self._is_cut(self._tree.depth[born])
        stopped = np.array([bool(self._prompt.stop) and self._has_stop(entry) for entry in born.tolist()], np.bool_)
        accepted = self._model.columns.accepts(self._tree.automata[born], np.zeros(len(born), np.int64))
        for how, where in ((texts.BY_STOP, stopped), (texts.AT_LIMIT, cut & ~stopped)):
            for entry in born[where & accepted].tolist():
                self._finish(entry, how, float(self._tree.log_prob[entry]))
        going = ~(cut | stopped)
        entries, parents = np.concatenate([self._open, born[going]]), np.concatenate([self._context, contexts[going]])
        order = np.argsort(-self._tree.log_prob[entries], kind="stable")
        room = max(self._most - self.forwarded, 0)
        self._forget(self._tree.log_prob[entries[order[room:]]])
        self._open, self._context = entries[order[:room]], parents[order[:room]]

    def _has_stop(self, entry: int) -> bool:
        written = self._model.lm.vocabulary.bytes(self._tree.spell(entry))
        return any(stop in written for stop in self._prompt.stop)

    def _finish(self, entry: int, how: int, nats: float) -> None:
        self._found.append((entry, how))
        self._log_found.append(nats)

    def _normalise(self, logits: Tensor, entries: NDArray[np.int64]) -> NDArray[np.float64]:
        """(F, V) log-probabilities behind `entries` under the prompt's law."""
        import torch

        prompt, law = self._prompt, self._prompt.law
        spell = self._tree.spell
        logits = shape(logits, [law] * len(entries), lambda u: prompt.find_history(spell(int(entries[u]))))
        scaled = logits.double() / law.temperature
        log_total = torch.logsumexp(scaled, 1)
        check_law(log_total.cpu().numpy(), logits)
        return (scaled - log_total[:, None]).cpu().numpy()

    def _write(self) -> Texts:
        """The finished texts as a population."""
        spelt = [self._tree.spell(entry) for entry, _ in self._found]
        n = len(spelt)
        blank = self._blank.fork(np.zeros(n, np.int64))
        spent = len(self._prompt.tokens) + self.forwarded - 1
        blank.forwarded[0] = self._contexts.forwarded if has(self._contexts, Spends) else spent
        ids = np.zeros((n, 1 + max([0, *map(len, spelt)])), np.int64)
        nats = np.zeros(ids.shape)
        end = self._model.lm.vocabulary.eos[:1]
        for row, log_prob, some, (entry, _), total in zip(ids, nats, spelt, self._found, self._log_found, strict=True):
            row[: len(some) + len(end)] = (*some, *end)  # the end counts of those that ended by it
            log_prob[: len(some) + 1] = np.diff([*self._tree.log_prob[self._tree.list_path(entry)], total])
        entries = np.array([entry for entry, _ in self._found], np.int64)
        return replace(
            blank,
            ids=ids,
            length=np.array([len(some) for some in spelt], np.int64),
            log_prob=np.array(self._log_found, np.float64),
            token_log_prob=nats,
            dropped=np.array([self._tell_dropped(entry) for entry, _ in self._found], np.float64),
            ended=np.array([how for _, how in self._found], np.int64),
            automata=self._tree.automata[entries],
        )

    def _tell_dropped(self, entry: int) -> float:
        """What was dropped up to where the last token of a text, or its end, was foreseen."""
        return self._dropped.get(entry, self._dropped.get(int(self._tree.parent[entry]), 0.0))
