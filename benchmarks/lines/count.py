"""How many statements does an example have?

Counted are the statements of Python's grammar, each once, those inside of others too. Not counted are docstrings,
`print` calls, and what stands below `if __name__ == "__main__":`. Of a Markdown file only the given blocks are read.

    python benchmarks/lines/count.py benchmarks/lines/no_e.py README.md:1,2
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path


def statements(source: str) -> int:
    """The number of statements; `await` may stand outside of functions, as in a notebook."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return sum(map(_count, compile(source, "example", "exec", flags).body))  # pyright: ignore[reportAttributeAccessIssue]


def _count(node: ast.stmt) -> int:
    if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
        return 0
    return sum(isinstance(inside, ast.stmt) and not _idle(inside) for inside in ast.walk(node))


def _idle(node: ast.stmt) -> bool:
    """Whether it is a docstring or a print."""
    value = node.value if isinstance(node, ast.Expr) else None
    prints = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"
    return isinstance(value, ast.Constant) or prints


def source(argument: str) -> str:
    """The text of `file.py`, or of the Python blocks `file.md:1,3`."""
    name, _, blocks = argument.partition(":")
    text = Path(name).read_text(encoding="utf-8")
    if not blocks:
        return text
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return "\n".join(found[int(block) - 1] for block in blocks.split(","))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{statements(source(argument)):4}  {argument}")
