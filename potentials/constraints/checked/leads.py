"""First characters that may not come: what one question tells of all tokens that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

_PATIENCE = 8
"""Rejections in a state after which it is asked about first characters."""
_MOST = 1 << 11
"""States of which first characters are kept."""


@dataclass
class _State:
    rejected: int = 0
    refused: set[bytes] = field(default_factory=set)
    """Characters that may not come, nor any token that begins with one: once rejected, always rejected."""
    open: set[bytes] = field(default_factory=set)
    """Characters that may come."""
    in_vain: int = 0
    """Questions about characters that may come."""


class Leads:
    """The first characters that each state refuses.

    A check that is False of a text is False of every longer one, so that one question about `x` answers for all tokens
    that begin with x. In a state that rejects token after token that leaves a few hundred questions, where there are as
    many as the vocabulary has tokens. The questions end where most of the answers are that the character may come.
    """

    def __init__(self) -> None:
        self._states = OrderedDict[int, _State]()

    def refuses(self, state: int, token: bytes) -> bool:
        """Whether the first character of `token` is known not to come."""
        known = self._states.get(state)
        return known is not None and bool(known.refused) and find_lead(token) in known.refused

    def list_unknown(self, state: int, leads: Iterable[bytes]) -> list[bytes]:
        """Those of some characters that the state was not asked about."""
        known = self._states.get(state, _State())
        return [lead for lead in leads if lead not in known.refused and lead not in known.open]

    def note(self, answers: Iterable[tuple[int, bytes, bool]]) -> list[tuple[int, bytes]]:
        """Keep which tokens were accepted in which states; the states and characters that are worth a question."""
        asked = set[tuple[int, bytes]]()
        for state, token, accepted in answers:
            known = self._states.setdefault(state, _State())
            known.rejected += not accepted
            lead = find_lead(token)
            if lead == token:
                (known.open if accepted else known.refused).add(lead)
            elif lead and not accepted and known.rejected > _PATIENCE and known.in_vain <= 1 + len(known.refused):
                asked.update((state, new) for new in self.list_unknown(state, [lead]))
        while len(self._states) > _MOST:
            self._states.popitem(last=False)
        return sorted(asked)

    def learn(self, state: int, lead: bytes, accepted: bool) -> None:
        """Keep what the answer was."""
        known = self._states.setdefault(state, _State())
        (known.open if accepted else known.refused).add(lead)
        known.in_vain += accepted


def find_lead(token: bytes) -> bytes:
    """The first character of a token, in UTF-8; b"" where it does not begin with a whole one."""
    first = token[0] if token else 0xFF
    size = 1 if first < 0x80 else 2 if 0xC2 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4
    lead = token[:size]
    try:
        return lead if len(lead.decode("utf-8")) == 1 else b""
    except UnicodeDecodeError:
        return b""
