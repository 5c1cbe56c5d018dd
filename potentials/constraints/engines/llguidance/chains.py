"""How deep definitions lead into each other: llguidance follows them on the stack of the process, which it may exhaust.

A crash is no error that anybody could catch. So chains that are longer than any that was written by hand are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

MOST = 600
"""Definitions in a chain, each within the one before. From some 2,000 on the process crashes."""
Follow: TypeAlias = Callable[[str], tuple[int, Iterable[tuple[str, int]]]]
"""Of a definition how deep it is by itself, and what it refers to, each with how deep it stands there."""
_RULE = re.compile(r"^[ \t]*[?!]*([A-Za-z_]\w*)(?:\.-?\d+|\[[^\]\n]*\]|\{[^}\n]*\}|::\w+)*[ \t]*:", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_]\w*")


def find_longest(starts: Iterable[str], follow: Follow) -> int:
    """How deep the longest chain from any of `starts` is; what leads back is not followed. MOST + 1 for all beyond."""
    known: dict[str, int] = {}
    return max((_find_depth(start, follow, known) for start in starts), default=0)


def _find_depth(start: str, follow: Follow, known: dict[str, int]) -> int:
    if start in known:
        return known[start]
    path: dict[str, tuple[list[tuple[str, int]], list[int]]] = {}
    todo = start
    while True:
        own, inner = follow(todo)
        path[todo] = ([*inner], [own])
        while True:
            name, (left, deepest) = next(reversed(path.items()))
            if left and (left[-1][0] in known or left[-1][0] in path):
                other, at = left.pop()
                deepest.append(at + known.get(other, 0))
            elif left:
                todo = left[-1][0]
                break
            else:
                known[name] = max(deepest)
                del path[name]
                if not path:
                    return min(known[start], MOST + 1)
        if len(path) > MOST:
            return MOST + 1


def find_rule_chain(bare: str) -> int:
    """How deep the rules of a grammar in Lark's notation lead into each other; strings in it are blanked out."""
    found = list(_RULE.finditer(bare))
    ends = [*(each.start() for each in found), len(bare)][1:]
    bodies = {each[1]: bare[each.end() : end] for each, end in zip(found, ends, strict=True)}
    return find_longest(bodies, lambda rule: _list_names(rule, bodies))


def _list_names(rule: str, bodies: dict[str, str]) -> tuple[int, list[tuple[str, int]]]:
    return 1, [(name, 1) for name in dict.fromkeys(_NAME.findall(bodies[rule])) if name in bodies]
