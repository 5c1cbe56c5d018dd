"""Prompts that are remembered between runs: their keys and values, within a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from feynkac.base.errors import ArgumentError
from feynkac.models.language.caches.forward import autocast_dtype
from feynkac.models.language.caches.prefill import Ids, Prefix, count_common
from feynkac.models.language.editing.changes import count_changes

_WORTH = 16
"""Tokens from which on a beginning that two prompts have in common is used."""


class Remembered:
    """A prompt whose keys and values are kept: what `CausalLM.remember` gives. As a context manager it ends with it."""

    def __init__(self, store: Store, prefix: Prefix) -> None:
        self._store, self._prefix = store, prefix

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._prefix.ids)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self._prefix.nbytes

    @property
    def is_kept(self) -> bool:
        """Whether it is still there: not forgotten, not dropped for later ones, the model as it was."""
        return self._store.holds(self._prefix)

    def forget(self) -> None:
        """Drop it; runs that have begun keep what they use."""
        self._store.drop(self._prefix)

    def __enter__(self) -> Remembered:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def __repr__(self) -> str:
        state = "" if self.is_kept else ", dropped"
        return f"Remembered({self.tokens} token{'s' * (self.tokens != 1)}, {self.nbytes / 1e6:.1f} MB{state})"


class Key(NamedTuple):
    """Under what a prefix was read."""

    kind: Any
    """The edits; None without any."""
    precision: Any
    """What torch.autocast lowers it to."""
    changes: int
    """How often weights and edits had been changed in place."""


class Store:
    """What is remembered of one model as it is now. Weights and edits changed in place empty it.

    `model`: whose parameters count their changes. Changes through `.data` are not counted by torch, nor seen here.
    """

    def __init__(self, model: Any, is_current: Callable[[], bool]) -> None:
        """`is_current` tells whether all of the model but the values of its weights is as it was."""
        self._model, self._is_current, self._lock = model, is_current, threading.Lock()
        self._kept: dict[Prefix, Key] = {}
        """Those used last stand at the end."""

    def add(self, prefix: Prefix, kind: Any, most: int, changes: int) -> Remembered:
        """Keep `prefix`; what was used longest ago goes where all together take more than `most` bytes.

        `changes`: what `count_changes` gave before it was forwarded. It is not kept if the weights changed meanwhile.
        Raises ArgumentError for one that alone takes more.
        """
        if prefix.nbytes > most:
            size, allowed = (f"{n / 1e6:.3g} MB" for n in (prefix.nbytes, most))
            raise ArgumentError(
                f"{len(prefix.ids)} tokens take {size} to remember, more than the {allowed} allowed; pass most=bytes"
            )
        with self._lock:
            self._check()
            key = Key(kind, autocast_dtype(self._model), changes)
            prefix = next((one for one in self._list(key) if one.ids == prefix.ids), prefix)
            if changes == self.count_changes(kind):
                self._use(prefix, key)
            while sum(one.nbytes for one in self._kept) > most:
                del self._kept[next(iter(self._kept))]
        return Remembered(self, prefix)

    def find(self, ids: Ids, kind: Any) -> tuple[Prefix | None, int]:
        """The prefix that spares the most tokens of `ids`, and how many; (None, 0) if none is worth it.

        What edits do may depend on where a prompt ends, so that an edited one is found as a whole or not at all.
        """
        with self._lock:
            if not self._kept:
                return None, 0
            self._check()
            key = Key(kind, autocast_dtype(self._model), self.count_changes(kind))
            spared = {prefix: _spare(prefix.ids, ids) for prefix in self._list(key)}
            best = max(spared, key=lambda prefix: spared[prefix], default=None)
            if best is None or (spared[best] < (_WORTH if kind is None else len(ids)) and best.ids != ids):
                return None, 0
            self._use(best, key)
            return best, spared[best]

    def _list(self, key: Key) -> list[Prefix]:
        return [prefix for prefix, its in self._kept.items() if its == key]

    def _use(self, prefix: Prefix, key: Key) -> None:
        self._kept.pop(prefix, None)
        self._kept[prefix] = key

    def holds(self, prefix: Prefix) -> bool:
        """Whether `prefix` is still of use."""
        with self._lock:
            self._check()
            return prefix in self._kept and self._is_current()

    def drop(self, prefix: Prefix | None = None) -> None:
        """Forget one, or all."""
        with self._lock:
            for one in [prefix] if prefix is not None else list(self._kept):
                self._kept.pop(one, None)

    def _check(self) -> None:
        for prefix, key in list(self._kept.items()):
            if key.changes != self.count_changes(key.kind):
                del self._kept[prefix]

    def count_changes(self, kind: Any) -> int:
        """How often weights, and what the edits `kind` hold, have been changed in place."""
        return count_changes(self._model) + (0 if kind is None else count_changes(kind.edits))


def _spare(known: Ids, ids: Ids) -> int:
    """Tokens of `ids` that need no pass; the last is forwarded again for the law behind it, unless all is known."""
    return len(ids) if known == ids else min(count_common(known, ids), len(ids) - 1)
