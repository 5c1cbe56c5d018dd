"""Messages of errors quote what a user gave by `errors.quote`: `repr` and `!r` may raise, hang, or fill pages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("feynkac", "smc", "models", "potentials", "programs")


def find_faults(source: str) -> Iterator[int]:
    """Lines with `!r` outside of a `__repr__`, whose callers quote what it gives, and with `repr(...)` in a `raise`."""
    waiting: list[tuple[ast.AST, bool, bool]] = [(ast.parse(source), False, False)]
    while waiting:
        node, written, raised = waiting.pop()
        written |= isinstance(node, ast.FunctionDef) and node.name == "__repr__"
        raised |= isinstance(node, ast.Raise)
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r") and not written:
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "repr" and raised:
            yield node.lineno
        waiting += [(child, written, raised) for child in ast.iter_child_nodes(node)]


def test_messages_quote_what_a_user_gave() -> None:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in find_faults(file.read_text("utf-8"))]
    assert not found, f"write quote(value), of feynkac.base.errors, for {{value!r}} and repr(value): {found}"


def test_a_message_that_does_not_is_found() -> None:
    assert list(find_faults('raise E(f"{x!r}")')) == list(find_faults("raise E(repr(x))")) == [1]
    assert list(find_faults('told = f"{x!r}"')) == [1]
    assert not list(find_faults('def __repr__(self):\n    return f"{self.x!r}"'))
