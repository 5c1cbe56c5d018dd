"""The constraint on what a text contains: phrases that must not come in it, and phrases that must."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote, shorten
from feynkac.base.lists import as_list
from feynkac.base.unicode import check_unicode
from feynkac.potentials.constraints.automata.matching import build_phrases
from feynkac.potentials.constraints.texts import TextConstraint


@suggest_names()
def phrases(
    ban: str | Iterable[str] = (), require: str | Iterable[str] = (), *, ignore_case: bool = False
) -> TextConstraint:
    """The texts that contain none of the phrases in `ban`, and each of those in `require`.

        fk.phrases(ban=["As an AI", "I cannot"], require=["rain"], ignore_case=True)

    A phrase is contained as `phrase in text` has it, anywhere, inside of words and however it is cut into tokens; with
    `ignore_case` as `re.search(re.escape(phrase), text, re.IGNORECASE)`. Bytes that are no UTF-8 are not accepted.
    Masks are exact for every vocabulary. Thousands of banned phrases cost no more per token than one; required ones
    double the automaton each, for any of them may come first. Only what is generated counts, not the prompt.

    The automaton is that of Aho and Corasick (1975), over the bytes of UTF-8.

    Raises ArgumentError for what is no text, for an empty phrase, and if there are none; ConstraintError for half of a
    character (a lone surrogate), if no text can meet all, and for an automaton of more than 20 million entries.
    """
    banned, required = _list_phrases("ban", ban), _list_phrases("require", require)
    if not isinstance(ignore_case, bool):
        raise ArgumentError(f"phrases(ignore_case={quote(ignore_case)}): give True or False")
    if not banned and not required:
        raise ArgumentError("phrases(): name the phrases to ban=[...], or those to require=[...]")
    shown = [f"{what}={quote(list(listed))}" for what, listed in (("ban", banned), ("require", required)) if listed]
    name = shorten(f"phrases({', '.join([*shown, *(['ignore_case=True'] if ignore_case else [])])})")
    found = TextConstraint(name, partial(build_phrases, banned, required, ignore_case, name))
    return found.define(banned, required, ignore_case).prepare()


def _list_phrases(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """The phrases, none twice. A single one need not stand in a list."""
    listed = [given] if isinstance(given, str) else as_list(given)
    if listed is None:
        raise ArgumentError(f"phrases({what}={quote(given)}): give a list of strings")
    for each in listed:
        if not isinstance(each, str):
            raise ArgumentError(f"phrases({what}=[...]): {quote(each)} is no string; give a list of strings")
        if not each:
            raise ArgumentError(f"phrases({what}=['']): every text contains the empty phrase; leave it out")
        check_unicode(each, f"phrases({what}=...): {quote(each)}")
    return tuple(dict.fromkeys(listed))
