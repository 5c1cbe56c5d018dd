"""Texts that there can be: a str may hold lone surrogates, which no UTF-8 and so no sequence of tokens spells."""

from __future__ import annotations

import re

from feynkac.base.errors import ArgumentError, FeynkacError, quote

_LONE = re.compile("[\ud800-\udfff]")


def check_unicode(text: str, what: str, error: type[FeynkacError] = ArgumentError) -> None:
    """Raise `error`, by the name of `what` the text is, if it holds a lone surrogate."""
    if found := _LONE.search(text):
        raise error(
            f"{what} holds {quote(found[0])} at {found.start()}, half of a character in UTF-16, which no text has; "
            "repair it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        )
