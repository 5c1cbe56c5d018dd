"""The automata of `length`: so many characters, words or sentences."""

from __future__ import annotations

import numpy as np

from feynkac.potentials.constraints.automata.alphabet import build_alphabet
from feynkac.potentials.constraints.automata.characters import ANY_CHAR, match_characters
from feynkac.potentials.constraints.automata.nfa import CharDfa


def build_character_count(low: int, high: int | None) -> CharDfa:
    """The automaton of `low` to `high` characters; a state is how many, capped at `low` where there is no `high`."""
    letters, _ = build_alphabet([ANY_CHAR])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    after = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    return CharDfa(after.astype(np.int32)[:, None], count >= low, letters)


def build_word_count(low: int, high: int | None) -> CharDfa:
    """The automaton of `low` to `high` words; a state is twice their number so far, plus 1 inside a word."""
    letters, (space, other) = build_alphabet([match_characters(r"\s", 0), match_characters(r"\S", 0)])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    next_word = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    delta = np.full((2 * len(count), letters.n_classes), -1, dtype=np.int32)
    delta[0::2, space] = delta[1::2, space] = 2 * count[:, None]
    delta[0::2, other] = np.where(next_word < 0, -1, 2 * next_word + 1)[:, None]
    delta[1::2, other] = 2 * count[:, None] + 1
    return CharDfa(delta, np.repeat(count >= low, 2), letters)


# --- sentences, as the pattern of feynkac.potentials.rewards.boundaries has it

BLANK, WRITTEN, ENDING, WIDE_ENDING, SPACED = range(5)
"""What stands behind the last end of a sentence: nothing but white space; text; text that ends in `.!?…` and closing
quotes; in `。！？` and theirs; text with white space behind it, which ends there if the line does."""
_SETS = (r"\n", r"[^\S\n]", r"[.!?…]", r"[。！？]", r"[”’]", r"[\"'»)\]]", r"[」』]", r"[^\s.!?…。！？”’\"'»)\]」』]")
_PLAIN = {0: BLANK, 1: SPACED, 2: ENDING, 3: WIDE_ENDING, 4: WRITTEN, 5: WRITTEN, 6: WRITTEN, 7: WRITTEN}
"""What comes of text by a character of each set, quotes that close nothing among them."""
_AFTER = {
    BLANK: _PLAIN | {1: BLANK},
    WRITTEN: _PLAIN,
    ENDING: _PLAIN | {1: BLANK, 4: ENDING, 5: ENDING},
    WIDE_ENDING: _PLAIN | {1: BLANK, 4: WIDE_ENDING, 6: WIDE_ENDING},
    SPACED: _PLAIN,
}
_ENDS = {BLANK: (), WRITTEN: (0,), ENDING: (0, 1), WIDE_ENDING: (0, 1, 2, 5, 7), SPACED: (0,)}
"""The sets of characters that tell that a sentence has ended before them."""


def build_sentence_count(low: int, high: int | None) -> CharDfa:
    """The automaton of `low` to `high` sentences; a state is five times the sentences that have ended, and where it is.

    The number is capped at `low` where there is no `high`.
    """
    letters, classes = build_alphabet([match_characters(chars, 0) for chars in _SETS])
    count = np.arange((low if high is None else high) + 1, dtype=np.int32)
    one_more = np.minimum(count + 1, low) if high is None else np.where(count < high, count + 1, -1)
    delta = np.full((5 * len(count), letters.n_classes), -1, dtype=np.int32)
    for place, afters in _AFTER.items():
        for chars, after in afters.items():
            counted = one_more if chars in _ENDS[place] else count
            # What is written behind the last end is a sentence, too.
            fits = (counted >= 0) & ((one_more[counted] >= 0) | (after == BLANK))
            delta[place::5, classes[chars]] = np.where(fits, 5 * counted + after, -1)[:, None]
    written = np.arange(5) != BLANK
    return CharDfa(delta, ((count[:, None] + written) >= low).reshape(-1), letters)
