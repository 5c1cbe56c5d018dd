"""Contexts of bytes over contexts of tokens: each is a weighted beam of ways to spell its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import ModelError, quote
from feynkac.models.language.bytewise.hypotheses import Beam, Hypotheses, add_loss, join, prune
from feynkac.models.language.bytewise.kernels import Words, find_ways, sum_next
from feynkac.models.language.draws.next_token import check_law
from feynkac.models.language.protocols import require_saving

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.protocols import Contexts

END = 256
"""The id of the end of a text; those below it are bytes."""
_ROWS = 16
"""Laws that are summed at once in float64."""


class ByteContexts:
    """See `feynkac.models.language.protocols.Contexts`: U texts of bytes, each behind a prompt of tokens and bytes."""

    def __init__(
        self,
        beneath: Contexts,
        behind: Sequence[Sequence[int]],
        lengths: Sequence[int],
        words: Words,
        ends: Sequence[int],
        beam: Beam,
        device: Any,
    ) -> None:
        """`beneath` are contexts of the prompts' tokens, `behind` the bytes of each prompt that follow these."""
        self._beneath, self._behind, self._words, self._beam = beneath, behind, words, beam
        self._device = device
        self._columns, self._n_words = [*words.ids.tolist(), *ends], len(words.ids)
        self.forwarded = 0
        """Tokens that went through the model beneath."""
        self.lengths = np.array(lengths, np.int64)
        """(U,) tokens and bytes of each context."""
        self.spent = np.zeros(len(lengths), np.int64)
        """(U,) tokens forwarded for each context by the last call."""
        self.dropped = np.zeros(len(lengths))
        """(U,) nats: what of log p(bytes) the beam has dropped so far; 0 where nothing was."""

    def start(self) -> Tensor:
        """(G, 257) float32 logits of the byte behind each prompt. Raises ModelError where a prompt has no mass."""
        logits = self._beneath.start()
        self.forwarded = self._beneath.forwarded
        n = len(logits)
        spent = self.lengths - [len(some) for some in self._behind]
        self._hypotheses = self._begin(logits, np.arange(n), np.arange(n), np.zeros(n))
        for i in range(max(map(len, self._behind))):
            given = np.array([some[i] if i < len(some) else -1 for some in self._behind])
            self._move(np.arange(n), given)
            spent += self.spent
        self.spent = spent
        if len(wrong := np.setdiff1d(np.arange(n), self._hypotheses.owner)):
            written = bytes(self._behind[wrong[0]])
            raise ModelError(
                f"no spelling of the prompt's last bytes {quote(written)} is left; lower heal, or raise beam"
            )
        return self._to_logits(np.arange(n))

    def save(self) -> dict[str, Any]:
        """See `feynkac.base.capabilities.SavesContexts`."""
        known = self._hypotheses
        return {
            "beneath": require_saving(self._beneath).save(),
            "hypotheses": {each.name: getattr(known, each.name) for each in fields(known)},
            "forwarded": self.forwarded,
            "lengths": self.lengths,
            "dropped": self.dropped,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what `save` gave."""
        require_saving(self._beneath).load(saved["beneath"])
        self._hypotheses, self.forwarded = Hypotheses(**saved["hypotheses"]), saved["forwarded"]
        self.lengths, self.dropped = saved["lengths"], saved["dropped"]
        self.spent = np.zeros(len(self.lengths), np.int64)

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """See `Contexts.extend`; one pass for the hypotheses that are complete with their byte."""
        self._move(np.asarray(parents, np.int64), tokens)
        return self._to_logits(np.flatnonzero(tokens >= 0))

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """See `Contexts.append`; as many passes as the longest list has bytes."""
        import torch

        count, parents = np.array([len(some) for some in tokens], np.int64), np.asarray(parents, np.int64)
        start = np.cumsum(count) - count if every else np.cumsum(count > 0) - 1
        places, found = [np.empty(0, np.int64)], [torch.empty(0, END + 1, device=self._device)]
        spent = np.zeros(len(count), np.int64)
        for i in range(max(1, int(count.max(initial=0)))):
            self._move(parents, np.array([some[i] if i < len(some) else -1 for some in tokens], np.int64))
            spent += self.spent
            parents = np.arange(len(count))
            shown = np.flatnonzero(count > i if every else count == i + 1)
            places.append(start[shown] + (i if every else 0))
            found.append(self._to_logits(shown))
        self.spent = spent
        return torch.cat(found)[torch.as_tensor(np.argsort(np.concatenate(places)), device=self._device)]

    def log_laws(self, rows: Rows) -> NDArray[np.float64]:
        """(R, 257) nats of each next byte, and of the end, behind the contexts `rows`.

        A context without hypotheses has a text without mass: whatever comes behind it counts for nothing, and it ends.
        """
        known = self._hypotheses
        out = np.full((len(self.lengths), END + 1), -np.inf)
        out[:, END] = np.where(np.isin(np.arange(len(out)), known.owner), -np.inf, 0.0)
        some = known.take(np.flatnonzero(np.isin(known.owner, rows)))
        where = (some.owner, some.base, some.low, some.high, some.depth, some.at, some.values)
        sum_next(self._words.data, self._words.start, *where, out)
        np.logaddexp.at(out[:, END], some.owner, some.log_end)
        return out[rows]

    def _to_logits(self, rows: Rows) -> Tensor:
        import torch

        return torch.as_tensor(self.log_laws(rows), dtype=torch.float32, device=self._device)

    def _move(self, parents: Rows, given: NDArray[np.int64]) -> None:
        """Context j becomes `parents[j]` and the byte `given[j]`; -1 keeps it."""
        moving, before = np.flatnonzero((given >= 0) & (given < END)), self._hypotheses
        n_parents = len(self.lengths)
        first = np.searchsorted(before.owner, np.arange(n_parents))
        last = np.searchsorted(before.owner, np.arange(n_parents), side="right")
        spans = (before.base, before.low, before.high, before.depth, before.at, before.values)
        asked = (parents[moving], given[moving], first, last)
        (owner, source, place, low, high), mass = find_ways(self._words.data, self._words.start, *spans, *asked)
        kept, log_kept = prune(owner, mass, place >= 0, len(moving), self._beam)
        self.lengths, self.dropped = self.lengths[parents] + (given >= 0), self.dropped[parents]
        self.dropped[moving] = add_loss(self.dropped[moving], log_kept)
        owner, source, place, low, high = (x[kept] for x in (owner, source, place, low, high))
        begun, whole = np.flatnonzero(place < 0), np.flatnonzero(place >= 0)
        going = before.take(source[begun]).go_on(low[begun], high[begun], log_kept.total[owner[begun]])
        going.owner = moving[owner[begun]]
        still = np.flatnonzero(given < 0)
        same = np.concatenate(
            [np.arange(int(first[u]), int(last[u])) for u in parents[still]] or [np.empty(0, np.int64)]
        )
        carried = before.take(same)
        carried.owner = np.repeat(still, (last - first)[parents[still]])
        share = mass[kept] - log_kept.total[owner]
        fresh = (moving[owner[whole]], before.tokens[source[whole]], self._words.ids[place[whole]], share[whole])
        self._hypotheses = self._forward([carried.pack(), going.pack()], *fresh)

    def _forward(
        self,
        kept: Sequence[Hypotheses],
        owner: NDArray[np.int64],
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        share: NDArray[np.float64],
    ) -> Hypotheses:
        """Those `kept`, and new ones: of contexts `owner`, with `tokens` behind contexts of tokens `parents`."""
        self.spent = np.zeros(len(self.lengths), np.int64)
        if not len(tokens):
            return join(kept)
        held = np.concatenate([some.tokens for some in kept])
        pairs = np.stack([np.r_[held, parents], np.r_[np.full(len(held), -1), tokens]])
        distinct, one, where = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        where = where.reshape(-1)
        np.add.at(self.spent, owner[one[distinct[1] >= 0] - len(held)], 1)
        logits = self._beneath.extend(distinct[0], distinct[1])
        self.forwarded = self._beneath.forwarded
        for some, now in zip(kept, np.split(where, [len(kept[0].tokens), len(held)])[:2], strict=True):
            some.tokens = now
        now = where[len(held) :]
        row = np.cumsum(distinct[1] >= 0) - 1
        return join([*kept, self._begin(logits[row[now].tolist()], owner, now, share)])

    def _begin(
        self, logits: Tensor, owner: NDArray[np.int64], tokens: NDArray[np.int64], share: NDArray[np.float64]
    ) -> Hypotheses:
        """Hypotheses at the end of a token, behind which the model beneath gives `logits` (H, V)."""
        import torch

        n, n_words = len(logits), self._n_words
        columns = torch.as_tensor(self._columns, device=logits.device)
        known = logits[:, columns]
        totals = [torch.logsumexp(some.double(), 1) for some in known.split(_ROWS)]
        log_total = torch.cat([*totals, torch.empty(0, dtype=torch.float64, device=logits.device)]).cpu().numpy()
        check_law(log_total, logits)
        log_end = torch.logsumexp(known[:, n_words:].double(), 1).cpu().numpy() - log_total
        size = np.zeros(n, np.int64)
        values = known[:, :n_words].contiguous().cpu().numpy().reshape(-1)
        at = np.arange(n) * n_words
        base = share - log_total
        return Hypotheses(owner, tokens, base, share + log_end, size, size + n_words, size.copy(), at, values)
