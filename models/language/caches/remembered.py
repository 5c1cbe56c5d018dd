"""Prompts that are remembered between runs: their keys and values, within a bound."""

from __future__ import annotations

import threading
from typing import Any

from feynkac.base.errors import ArgumentError
from feynkac.models.language.caches.forward import autocast_dtype
from feynkac.models.language.caches.prefill import Ids, Prefix, count_common

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
        return f"Remembered({self.tokens} tokens, {self.nbytes / 1e6:.1f} MB{state})"


class Store:
    """What is remembered of one model as it is now. Weights changed in place empty it.

    `model`: whose parameters count their changes. Changes through `.data` are not counted by torch, nor seen here.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._lock = model, threading.Lock()
        self._kept: dict[Prefix, tuple[Any, Any]] = {}
        """Each prefix with its edits and its precision; those used last stand at the end."""
        self._changes = count_changes(model)

    def add(self, prefix: Prefix, kind: Any, most: int) -> Remembered:
        """Keep `prefix`; what was used longest ago goes where all together take more than `most` bytes.

        Raises ArgumentError for one that alone takes more.
        """
        if prefix.nbytes > most:
            size, allowed = (f"{n / 1e6:.3g} MB" for n in (prefix.nbytes, most))
            raise ArgumentError(
                f"{len(prefix.ids)} tokens take {size} to remember, more than the {allowed} allowed; pass most=bytes"
            )
        with self._lock:
            self._check()
            key = kind, autocast_dtype(self._model)
            prefix = next((one for one in self._list(key) if one.ids == prefix.ids), prefix)
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
            key = kind, autocast_dtype(self._model)
            spared = {prefix: _spare(prefix.ids, ids) for prefix in self._list(key)}
            best = max(spared, key=lambda prefix: spared[prefix], default=None)
            if best is None or (spared[best] < (_WORTH if kind is None else len(ids)) and best.ids != ids):
                return None, 0
            self._use(best, key)
            return best, spared[best]

    def _list(self, key: tuple[Any, Any]) -> list[Prefix]:
        return [prefix for prefix, its in self._kept.items() if its == key]

    def _use(self, prefix: Prefix, key: tuple[Any, Any]) -> None:
        self._kept.pop(prefix, None)
        self._kept[prefix] = key

    def holds(self, prefix: Prefix) -> bool:
        """Whether `prefix` is still of use."""
        with self._lock:
            self._check()
            return prefix in self._kept

    def drop(self, prefix: Prefix | None = None) -> None:
        """Forget one, or all."""
        with self._lock:
            for one in [prefix] if prefix is not None else list(self._kept):
                self._kept.pop(one, None)

    def _check(self) -> None:
        if (now := count_changes(self._model)) != self._changes:
            self._kept.clear()
            self._changes = now


def count_changes(model: Any) -> int:
    """How often a model's parameters were written to; torch does not count what goes through `.data`."""
    return sum(0 if each.is_inference() else each._version for each in model.parameters())


def _spare(known: Ids, ids: Ids) -> int:
    """Tokens of `ids` that need no pass; the last is forwarded again for the law behind it, unless all is known."""
    return len(ids) if known == ids else min(count_common(known, ids), len(ids) - 1)
