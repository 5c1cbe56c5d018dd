"""The words of a grammar's text: names, literals and signs, each with its place."""

from __future__ import annotations

import re
from typing import NamedTuple

from feynkac.base.errors import quote
from feynkac.potentials.constraints.engines.earley.notation import make_fault

_TOKEN = re.compile(
    r"""(?P<space>[ \t\f\r]+|(?://|\#)[^\n]*)
    |(?P<newline>\n)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?(?![A-Za-z]))
    |(?P<pattern>/(?:\\.|[^/\\\n])+/[imslux]*)
    |(?P<name>[!?]*_*[A-Za-z][A-Za-z0-9_]*)
    |(?P<directive>%[a-z]+)
    |(?P<number>\d+)
    |(?P<sign>->|\.\.|::|[:|()\[\]{}?*+~,.&@=])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "b": "\b", "v": "\v", "0": "\0"} | {c: c for c in "\\\"'/"}


class Token(NamedTuple):
    kind: str
    text: str
    at: int


def list_tokens(source: str) -> list[Token]:
    """All words of a text, and one of kind "end" behind them. Raises ConstraintError."""
    tokens, at = [], 0
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:
            raise make_fault(source, at, _explain(source[at]))
        if found.lastgroup != "space":
            tokens.append(Token(found.lastgroup or "", found[0], at))
        at = found.end()
    return [*tokens, Token("end", "", at)]


def _explain(opened: str) -> str:
    if opened in '"/':
        what = "text" if opened == '"' else "regular expression"
        return f"this {what} has no end in its line, or letters behind it that mean nothing there"
    return f"{quote(opened)} means nothing here"


def unescape(source: str, token: Token) -> str:
    """The characters that a word in quotes stands for. Raises ConstraintError."""

    def one(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code and int(code, 16) < 0x110000:
            return chr(int(code, 16))
        if code or found[4] not in _ESCAPED:
            raise make_fault(
                source, token.at + 1 + found.start(), f"{found[0]} is no escape; write \\\\ for a backslash"
            )
        return _ESCAPED[found[4]]

    text = _ESCAPE.sub(one, token.text.removesuffix("i")[1:-1])
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # pairs become one character
    if half := re.search("[\ud800-\udfff]", text):
        raise make_fault(source, token.at, f"it holds {quote(half[0])}, half of a character, which no text has")
    return text
