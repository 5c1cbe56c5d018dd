"""Sets of characters: what is put together from ranges is what Python's engine finds when it is asked of everything."""

from __future__ import annotations

import re
import string
from functools import cache

import numpy as np
import pytest

from feynkac.potentials.constraints.automata.characters import N_CHARS, Ranges, _list_cased, match_characters


@cache
def list_characters() -> str:
    return np.arange(N_CHARS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def ask_python(one_char: str, flags: int) -> Ranges:
    return tuple(match.span() for match in re.finditer(f"(?:{one_char})+", list_characters(), flags))


CASE = [0, re.IGNORECASE, re.ASCII, re.IGNORECASE | re.ASCII]
CLASSES = [
    "a", "[^a]", ".", r"\n", r"\.", r"\d", r"\D", r"\s", r"\S", r"\w", r"\W", r"[^\w]", r"[\W\d]", r"[\S\s]",
    "[k]", "[^k]", "ß", "[A-z]", "[^Ā-ž]", "[ſ-ǆ]", r"[\wι]", r"[^\W_ı]", "[İi]", "[µ-ÿ]", r"[^\d\u212a]",
    r"[ \t\n\r]", r'[^"\\\x00-\x1f]', "[\U00010400-\U00010420]", "[\u1f80-\u1fff]", "[\ud800-\udfff]",
    "[^\U0010ffff]", "[\0-a]", "[aab-da]",
]  # fmt: skip


@pytest.mark.parametrize("flags", CASE)
def test_a_class_is_what_pythons_engine_finds(flags: int) -> None:
    for one_char in CLASSES:
        assert match_characters(one_char, flags) == ask_python(one_char, flags), one_char


def test_a_line_break_is_any_character_where_the_dot_takes_all() -> None:
    assert match_characters(".", re.DOTALL) == ((0, N_CHARS),)


def test_random_classes_are_what_pythons_engine_finds() -> None:
    rng = np.random.default_rng(0)
    cased = [char for char in _list_cased() if char < "\U00010000"]  # of others Python's engine misses some in a class
    for _ in range(60):
        chosen = [cased[i] for i in rng.integers(len(cased), size=4)] + list(rng.choice(list(string.printable), 2))
        low = int(rng.integers(0x2000))
        span = f"\\U{low:08x}-\\U{low + int(rng.integers(300)):08x}"
        one_char = f"[{rng.choice(['', '^'])}{''.join(map(re.escape, chosen))}{span}]"
        flags = CASE[rng.integers(4)]
        assert match_characters(one_char, flags) == ask_python(one_char, flags), one_char


def test_a_character_beyond_the_first_plane_has_its_other_case_in_a_class() -> None:
    """Python's engine misses it: re.match("[\U00010424\u1234]", "\U00010424", re.I) is None."""
    assert match_characters("[\U00010424\u1234]", re.IGNORECASE) == tuple(
        (c, c + 1) for c in (0x1234, 0x10424, 0x1044C)
    )


def test_only_characters_with_case_are_matched_by_others() -> None:
    """A class of all that have case matches no other, and a class of all that have none matches none that has."""
    import _sre  # pyright: ignore
    from re import _casefix  # pyright: ignore  # what Python's engine adds to its lower case

    cased = set(map(ord, _list_cased()))
    assert all(_sre.unicode_tolower(c) == c for c in range(N_CHARS) if c not in cased)
    assert {_sre.unicode_tolower(c) for c in cased} <= cased
    assert cased.issuperset(c for low, more in _casefix._EXTRA_CASES.items() for c in (low, *more))
