"""Constraints to the syntax of a language: `sql` and `python`, by the grammars in the files beside this one."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.words import is_word
from feynkac.potentials.constraints.grammars import ContextFree

if TYPE_CHECKING:
    from feynkac.potentials.constraints.engines.earley.network import Network

_STATEMENTS = ("select", "insert", "update", "delete", "create")
_PARTS = ("lines", "expression")


@suggest_names()
def sql(*kinds: Literal["select", "insert", "update", "delete", "create"]) -> ContextFree:
    """One statement of SQL in SQLite's dialect, of any of the `kinds`; of all five where none is named.

    Covered: SELECT with joins, subqueries, WITH, compounds, GROUP BY, ORDER BY, LIMIT, CASE, CAST, functions and
    windows; INSERT with ON CONFLICT, UPDATE, DELETE; CREATE TABLE with its constraints. SQLite's parser takes every
    text that is accepted; that tables, columns and functions exist is not looked at. Left out, though SQLite knows
    them: comments, row values, JSON operators, blobs, names in [brackets] or that are keywords, RETURNING, and all
    other statements.

    Raises ArgumentError for another kind.
    """
    if unknown := [kind for kind in kinds if not is_word(kind, _STATEMENTS)]:
        raise ArgumentError(f"sql({quote(unknown[0])}): the kinds of statements are {', '.join(_STATEMENTS)}")
    chosen = [kind for kind in _STATEMENTS if kind in kinds or not kinds]
    return _make("sql", f'start: _O ({" | ".join(chosen)}) [_O ";"] _O', f"sql({', '.join(map(repr, kinds))})")


@suggest_names()
def python(part: Literal["lines", "expression"] = "lines") -> ContextFree:
    """Lines of Python, or one expression: `ast.parse` takes every text that is accepted.

    Covered: expressions with calls, subscripts, comprehensions, lambdas and simple f-strings; all simple statements;
    if, while, for, try, with, def, class and decorators. Python's indentation is not context-free: blocks are
    indented by four spaces, and nest four deep. That a name is defined, or `return` stands in a function, is not
    looked at. Left out: match, async and await, star targets, raw and adjoining strings, backslashes at line ends,
    comments in brackets.

    Raises ArgumentError for another part.
    """
    if not is_word(part, _PARTS):
        raise ArgumentError(f'python({quote(part)}): give "lines" or "expression"')
    return _make("python", f"start: {part}", f"python({quote(part)})")


def _make(language: str, start: str, name: str) -> ContextFree:
    lark = f"{start}\n{_read(language)}"
    return ContextFree(lark, name, _build(lark))


@lru_cache
def _read(language: str) -> str:
    return (
        resources.files("feynkac.potentials.constraints.languages")
        .joinpath(f"{language}.lark")
        .read_text(encoding="utf-8")
    )


@lru_cache(maxsize=8)
def _build(lark: str) -> Network:
    return ContextFree(lark, "").prepare()
