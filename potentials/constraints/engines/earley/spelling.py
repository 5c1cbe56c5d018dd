"""Whether tokens can spell what bytes can: it is asked where not every byte is a token by itself.

The texts that a vocabulary spells are a regular language, of which the states here are places within tokens: 0 between
two tokens, and others behind the beginnings of tokens. A rule leads from one place to others (Bar-Hillel et al. 1961).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from feynkac.potentials.constraints.automata.alphabet import Alphabet
from feynkac.potentials.constraints.automata.trie import Trie

_MOST_PAIRS = 200_000
"""States of the rules times places, up to which it is worked out: seconds."""


class Spelling:
    """The places to which each state of the rules leads, as bits of integers.

    `ends[q][v]`: the places in which the rule of state q may end, if it is in place v at state q.
    """

    def __init__(
        self,
        step: NDArray[np.int32],
        places: Places,
        scans: Sequence[Sequence[tuple[int, int]]],
        calls: Sequence[Sequence[tuple[int, int, bool, int]]],
        final: Sequence[bool],
    ) -> None:
        self._step, self._places = step, places
        self._through: dict[tuple[int, int], dict[int, int]] = {}
        every = range(len(places.moves))
        self.ends = [[1 << v if end else 0 for v in every] for end in final]
        changed = True
        while changed:
            changed = False
            for q in reversed(range(len(final))):
                for v in every:
                    found = self._follow(q, v, scans[q], calls[q])
                    if found | self.ends[q][v] != self.ends[q][v]:
                        self.ends[q][v] |= found
                        changed = True

    def _follow(
        self, q: int, v: int, scans: Iterable[tuple[int, int]], calls: Iterable[tuple[int, int, bool, int]]
    ) -> int:
        found = 0
        for label, after in scans:
            for w in list_bits(self.through(0, v).get(label, 0)):
                found |= self.ends[after][w]
        for _, start, _, after in calls:
            for w in list_bits(self.ends[start][v]):
                found |= self.ends[after][w]
        return found

    def through(self, u: int, v: int) -> dict[int, int]:
        """The places behind one character, by its class: from place v, where the character has come as far as u."""
        if (u, v) not in self._through:
            found: dict[int, int] = {}
            for byte, after in self._places.moves[v].items():
                move = int(self._step[u, byte])
                if move <= -2:
                    found[-2 - move] = found.get(-2 - move, 0) | after
                elif move > 0:
                    for w in list_bits(after):
                        for label, ends in self.through(move, w).items():
                            found[label] = found.get(label, 0) | ends
            self._through[u, v] = found
        return self._through[u, v]


class Places:
    """The places within tokens, and for each the places after every byte, as bits."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        number = {b"": 0}
        self.moves: list[dict[int, int]] = [{}]
        for token in tokens:
            for k, byte in enumerate(token):
                before, last = number[token[:k]], k + 1 == len(token)
                after = 0 if last else number.setdefault(token[: k + 1], len(number))
                if after == len(self.moves):
                    self.moves.append({})
                self.moves[before][byte] = self.moves[before].get(byte, 0) | 1 << after


def find_places(tokens: Trie, alphabet: Alphabet, used: Sequence[int], n_states: int) -> Places | None:
    """The places within tokens; None where tokens of one byte spell some character of every class that is `used`.

    None, too, where there are too many places. Then a mask may let in what bytes can complete and tokens cannot.
    """
    if (alphabet.reach_through(tokens.single) == alphabet.reach)[:, used].all():
        return None
    ends = zip(tokens.offset[:-1].tolist(), tokens.offset[1:].tolist(), strict=True)
    every = {tokens.flat[start:end].tobytes() for start, end in ends if end > start}
    places = Places(_find_base(every))
    return places if len(places.moves) * n_states <= _MOST_PAIRS else None


def _find_base(tokens: set[bytes]) -> list[bytes]:
    """Tokens that spell the same texts as all of them."""
    base = {token for token in tokens if len(token) == 1}
    single = {token[0] for token in base}
    for token in sorted((token for token in tokens if not single.issuperset(token)), key=len):
        spelt = [True]
        for end in range(1, len(token) + 1):
            spelt.append(any(spelt[start] and token[start:end] in base for start in range(end)))
        if not spelt[-1]:
            base.add(token)
    return sorted(base)


def list_bits(bits: int) -> list[int]:
    """The numbers of the bits that are set."""
    found = []
    while bits:
        found.append((bits & -bits).bit_length() - 1)
        bits &= bits - 1
    return found
