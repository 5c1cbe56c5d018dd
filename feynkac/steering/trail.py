"""What each particle of a run did, step by step: arrays while it runs, texts when it is over."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import TellsLogProb, TellsPieces, TellsTokens, Tokenised, has
from feynkac.base.contract import LogW, Mask, Rows
from feynkac.smc.checks import call
from feynkac.smc.engine import Step

_NATS = ("levels", "log_weights", "carried", "increments", "log_probs")
_OTHERS = ("rows", "ran", "pieces", "killers", "moved")


class Trail:
    """Follows one group of a run. Its fields are lists and arrays alone, which can be saved as they stand."""

    def __init__(self, moves: bool = False) -> None:
        """`moves`: whether moves may change what particles hold."""
        self.moves = moves
        self.columns: dict[str, list[Any]] = {name: [] for name in (*_NATS, *_OTHERS)}
        """One entry a step: what a `History` has, as arrays; None where it is not known."""
        self._tokens: Sequence[NDArray[np.int64]] | None = None
        """(N,) those of each particle after the last step, where they are known."""
        self._waits: Mask | None = None
        """(N,) who was not to be extended after it."""

    def __call__(self, step: Step, state: Any, members: Rows, killers: Mapping[int, str]) -> None:
        """Note a step of a group; `state` holds the whole batch, `members` are its rows there."""
        ran, pieces, log_prob = step.ran, None, None
        if ran is not None and has(state, TellsPieces):
            pieces, nats = call(state.tell_last, members[ran], of=state, what="tell_last", t=step.t)
            log_prob = np.zeros(len(members))
            log_prob[ran] = nats
        noted = {
            "levels": np.where(step.log_weight > -np.inf, step.level, -np.inf),
            "log_weights": step.log_weight,
            "carried": step.carried,
            "increments": step.increment,
            "log_probs": log_prob,
            "rows": step.rows,
            "ran": ran,
            "pieces": pieces,
            "killers": dict(killers),
            "moved": self._find_moved(step, state, members) if self.moves and pieces is not None else [],
        }
        for name, value in noted.items():
            self.columns[name].append(value)

    def _find_moved(self, step: Step, state: Any, members: Rows) -> list[int]:
        """The rows whose earlier tokens are not those of their parents; where tokens are not known, all with weight."""
        tokens = state.tokens(members) if has(state, Tokenised) else None
        before, self._tokens = self._tokens, tokens
        waited, self._waits = self._waits, step.done | (step.log_weight == -np.inf)
        if waited is None:
            return []
        if tokens is None or before is None:
            return np.flatnonzero(step.log_weight > -np.inf).tolist()
        assert step.ran is not None
        return [
            i
            for i, (now, parent) in enumerate(zip(tokens, step.rows.tolist(), strict=True))
            if step.ran[i] == waited[parent]
            or len(now) > len(before[parent]) + step.ran[i]
            or not np.array_equal(now[: len(before[parent])], before[parent])
        ]

    def copy_arrays(self) -> dict[str, list[NDArray[Any]]]:
        """The fields of a `History` that are numbers, each T arrays of N, or none where they are not known.

        They are copies: who has a Result may write to its weights.
        """
        columns = {name: self.columns[name] for name in ("rows", *_NATS)}
        known = {name: all(each is not None for each in column) for name, column in columns.items()}
        return {name: [each.copy() for each in column] if known[name] else [] for name, column in columns.items()}

    def list_columns(self, state: Any) -> dict[str, list[Any]]:
        """Its other fields that are known, each a list of T lists."""
        noted = self.columns
        sizes = [len(rows) for rows in noted["rows"]]
        told = {
            "pieces": self._spell(state),
            "killers": [_list_names(of, n) for of, n in zip(noted["killers"], sizes, strict=True)],
        }
        return {**told, "moved": [list(rows) for rows in noted["moved"]]} if self.moves else told

    def _spell(self, state: Any) -> list[list[str]]:
        """What each particle added, as text; a character whose bytes several pieces have is in the last of these."""
        noted = self.columns
        if not has(state, TellsPieces) or any(pieces is None for pieces in noted["pieces"]):
            return []
        texts: dict[tuple[bytes, bytes], tuple[str, bytes]] = {}
        spelt, open_bytes = list[list[str]](), list[bytes]()
        for rows, ran, pieces in zip(noted["rows"], noted["ran"], noted["pieces"], strict=True):
            added = iter(call(state.spell, pieces, of=state, what="spell"))
            begun = [open_bytes[parent] for parent in rows.tolist()] if open_bytes else [b""] * len(rows)
            pairs = [
                read_piece(texts, start, next(added)) if runs else ("", start)
                for start, runs in zip(begun, ran.tolist(), strict=True)
            ]
            spelt.append([text for text, _ in pairs])
            open_bytes = [rest for _, rest in pairs]
        return spelt


def read_piece(known: dict[tuple[bytes, bytes], tuple[str, bytes]], begun: bytes, piece: bytes) -> tuple[str, bytes]:
    """The text that `piece` adds behind bytes that no character is made of yet, and those that are left over."""
    if (found := known.get((begun, piece))) is None:
        data = begun + piece
        text, used = codecs.utf_8_decode(data, "replace", False)
        found = known[begun, piece] = text, data[used:]
    return found


def _list_names(killers: Mapping[int, str], n: int) -> list[str]:
    names = [""] * n
    for i, name in killers.items():
        names[i] = name
    return names


def tell_tokens(state: Any, rows: Rows) -> list[list[tuple[str, float]]] | None:
    """Each piece of each of `rows` with its nats under the model's own law; None where the state does not know them."""
    if not has(state, TellsTokens):
        return None
    texts: dict[tuple[bytes, bytes], tuple[str, bytes]] = {}
    told = []
    for pieces, nats in call(state.tell_tokens, rows, of=state, what="tell_tokens"):
        line, begun = list[tuple[str, float]](), b""
        for piece, log_prob in zip(call(state.spell, pieces, of=state, what="spell"), nats.tolist(), strict=True):
            text, begun = read_piece(texts, begun, piece)
            line.append((text, log_prob))
        told.append(line)
    return told


def tell_log_probs(state: Any, rows: Rows) -> LogW | None:
    """(R,) nats of each sample under the model's own law; None where the state does not know them."""
    return call(state.tell_log_prob, rows, of=state, what="tell_log_prob") if has(state, TellsLogProb) else None


def join_known(parts: Sequence[list[Any] | None]) -> list[Any] | None:
    """These lists as one; None where one of them is not known."""
    known = [part for part in parts if part is not None]
    return [each for part in known for each in part] if len(known) == len(parts) else None


def join_arrays(parts: Sequence[LogW | None]) -> LogW | None:
    """These arrays as one; None where one of them is not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
