"""What each particle of a run did, step by step: arrays while it runs, texts when it is over."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import TellsLogProb, TellsPieces, TellsTokens, Tokenised, has
from feynkac.base.contract import LogW, Mask, Rows
from feynkac.smc.checks import call
from feynkac.smc.engine import Step

DIGITS = 6
"""Digits behind the point to which a history has its nats."""


@dataclass(frozen=True)
class Entry:
    """One step of N particles."""

    rows: Rows
    level: LogW
    log_weight: LogW
    carried: LogW | None
    increment: LogW | None
    ran: Mask | None
    pieces: NDArray[Any] | None
    """What each of the rows that `ran` added, in their order."""
    log_prob: LogW | None
    """(N,)"""
    killers: Mapping[int, str]
    moved: Sequence[int]


@dataclass
class Trail:
    """Follows one group of a run. `moves`: whether moves may change what its particles hold."""

    moves: bool = False
    entries: list[Entry] = field(default_factory=list)
    _before: tuple[Step, Sequence[NDArray[np.int64]] | None] | None = None

    def __call__(self, step: Step, state: Any, members: Rows, killers: Mapping[int, str]) -> None:
        """Note a step of a group; `state` holds the whole batch, `members` are its rows there."""
        taken, pieces, log_prob = step.extension, None, None
        if taken is not None and has(state, TellsPieces):
            pieces, nats = call(state.tell_last, members[taken.ran], of=state, what="tell_last", t=step.t)
            log_prob = np.zeros(len(members))
            log_prob[taken.ran] = nats
        self.entries.append(
            Entry(
                step.rows,
                np.where(step.log_weight > -np.inf, step.level, -np.inf),
                step.log_weight,
                None if taken is None else taken.carried,
                None if taken is None else taken.increment,
                None if taken is None else taken.ran,
                pieces,
                log_prob,
                killers,
                self._find_moved(step, state, members) if self.moves and pieces is not None else (),
            )
        )

    def _find_moved(self, step: Step, state: Any, members: Rows) -> list[int]:
        """The rows whose earlier tokens are not those of their parents; where tokens are not known, all with weight."""
        tokens = state.tokens(members) if has(state, Tokenised) else None
        before, self._before = self._before, (step, tokens)
        if before is None:
            return []
        earlier, others = before
        if tokens is None or others is None:
            return np.flatnonzero(step.log_weight > -np.inf).tolist()
        assert step.extension is not None
        ran = step.extension.ran
        waited = earlier.done[step.rows] | (earlier.log_weight[step.rows] == -np.inf)
        return [
            i
            for i, (now, parent) in enumerate(zip(tokens, step.rows.tolist(), strict=True))
            if ran[i] == waited[i]
            or len(now) > len(others[parent]) + ran[i]
            or not np.array_equal(now[: len(others[parent])], others[parent])
        ]

    def list_columns(self, state: Any) -> dict[str, list[Any]]:
        """The fields of a `History` that are known, each a list of T lists of N."""
        told = {
            "rows": [each.rows.tolist() for each in self.entries],
            "levels": _list_nats([each.level for each in self.entries]),
            "log_weights": _list_nats([each.log_weight for each in self.entries]),
            "carried": _list_nats([each.carried for each in self.entries]),
            "increments": _list_nats([each.increment for each in self.entries]),
            "log_probs": _list_nats([each.log_prob for each in self.entries]),
            "pieces": self._spell(state),
            "killers": [[each.killers.get(i, "") for i in range(len(each.rows))] for each in self.entries],
        }
        return {**told, "moved": [list(each.moved) for each in self.entries]} if self.moves else told

    def _spell(self, state: Any) -> list[list[str]]:
        """What each particle added, as text; a character whose bytes several pieces have is in the last of these."""
        if not has(state, TellsPieces) or any(each.pieces is None for each in self.entries):
            return []
        texts: dict[tuple[bytes, bytes], tuple[str, bytes]] = {}
        spelt, open_bytes = [], list[bytes]()
        for each in self.entries:
            assert each.pieces is not None and each.ran is not None
            added = iter(call(state.spell, each.pieces, of=state, what="spell"))
            begun = [open_bytes[parent] for parent in each.rows.tolist()] if open_bytes else [b""] * len(each.rows)
            pairs = [
                read_piece(texts, start, next(added)) if ran else ("", start)
                for start, ran in zip(begun, each.ran.tolist(), strict=True)
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


def _list_nats(columns: Sequence[LogW | None]) -> list[list[float]]:
    known = [column for column in columns if column is not None]
    return [column.round(DIGITS).tolist() for column in known] if len(known) == len(columns) else []


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
