"""The outline of a schema: a finite automaton that accepts more than the schema, and knows how much is still to come.

A schema needs a stack, and its engine cannot tell how long the shortest completion is. The outline can: it has the
brackets, the required properties in their order, the literals and the shortest strings, down to some depth; below
that, and wherever a schema says more than is told here, anything goes. So it accepts every text
that the schema accepts, and its distances are bounds from below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.automata.characters import ANY_CHAR, Ranges, match_characters
from feynkac.potentials.constraints.automata.nfa import CharDfa, Nfa, TooLarge, determinise
from feynkac.potentials.constraints.schemas.amounts import name_type

_TRIES = ((6, False), (3, False), (6, True), (2, True))
"""How many nested brackets are told apart, and whether all behind deeper ones is given up; the first that is small
enough is taken."""
_WORK = 200_000  # moves looked at, in making it deterministic: a tenth of a second
_STATES = 10_000
_UNROLLED = 64  # characters of a string, items of a list, that are counted
_MAX_LITERALS = 2000  # characters
_MIN_LENGTH = {"date": 10, "date-time": 20, "time": 8, "uuid": 36, "ipv4": 7}
_TYPES = ("object", "array", "string", "number", "boolean", "null")
_PLAIN = re.compile(r"[ !#-.0-\[\]-~]*")
"""What has one spelling in JSON."""


def build_outline(schema: Any) -> CharDfa | None:
    """The outline, as deep as it can be built soon; None where even a shallow one is too large."""
    for depth, gives_up in _TRIES:
        nfa = Nfa()
        try:
            start, outline = nfa.add_state(), _Outline(nfa, schema, gives_up)
            end = outline.add(schema, start, depth)
            nfa.free[outline.lost].append(end)
            return determinise(nfa, start, end, "outline", _WORK)
        except (TooLarge, RecursionError):
            continue
        except ConstraintError:
            return None
    return None


class _Outline:
    """Each method adds what may be written for a piece of the schema behind `state`, and returns the last state."""

    def __init__(self, nfa: Nfa, root: Any, gives_up: bool) -> None:
        self._nfa, self._root, self._gives_up = nfa, root, gives_up
        self.lost = self._add_loop(ANY_CHAR, nfa.add_state())
        """From here anything is accepted."""
        self._space = match_characters(r"[ \t\n\r]", 0)

    def add(self, schema: Any, state: int, depth: int) -> int:
        """A value."""
        schema = self._resolve(schema)
        if "const" in schema or "enum" in schema:
            return self._add_enum([schema["const"]] if "const" in schema else schema["enum"], state)
        if "type" not in schema:
            for key in ("anyOf", "oneOf"):
                if schema.get(key):
                    return self._add_any([lambda s, b=branch: self.add(b, s, depth) for branch in schema[key]], state)
            if schema.get("allOf"):
                return self.add(schema["allOf"][0], state, depth)
            return self._add_types(_TYPES, {}, state, 0)
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return self._add_types(kinds, schema, state, depth)

    def _resolve(self, schema: Any) -> dict[str, Any]:
        """What a `$ref` within this schema stands for; no word of what stands beside it, which only asks for more."""
        for _ in range(16):
            if not isinstance(schema, dict):
                return {}
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            schema = self._root if reference.startswith("#") else {}
            for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
                name = part.replace("~1", "/").replace("~0", "~")
                schema = schema.get(name, {}) if isinstance(schema, dict) else {}
        return {}

    def _add_types(self, kinds: Any, schema: dict[str, Any], state: int, depth: int) -> int:
        adders: dict[str, Callable[[int], int]] = {
            "object": lambda s: self._add_object(schema, s, depth - 1) if depth else self._add_wild("{", "}", s),
            "array": lambda s: self._add_array(schema, s, depth - 1) if depth else self._add_wild("[", "]", s),
            "string": lambda s: self._add_string(_find_length(schema), s),
            "number": self._add_number,
            "integer": self._add_number,
            "boolean": lambda s: self._add_any([partial(self._add_text, word) for word in ("true", "false")], s),
            "null": partial(self._add_text, "null"),
        }
        return self._add_any([adders[kind] for kind in kinds if kind in adders], state)

    def _add_object(self, schema: dict[str, Any], state: int, depth: int) -> int:
        """Properties in their order. There are two states between any two: nothing was written before, or something."""
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        first = self._add_spaced("{", state)
        later = self._nfa.add_state()
        for name, inner in properties.items():
            done = self._add_member(name, inner, first, later, depth)
            if name not in required:
                first, later = self._join(first), self._join(later, done)
            else:
                first, later = self._nfa.add_state(), done
        others = schema.get("additionalProperties", True)
        if others is not False or schema.get("patternProperties"):
            inner = others if isinstance(others, dict) and not schema.get("patternProperties") else {}
            self._nfa.free[self._add_member(None, inner, first, later, depth)].append(later)
        return self._add_text("}", self._join(first, later))

    def _add_member(self, name: str | None, inner: Any, first: int, later: int, depth: int) -> int:
        """A property behind nothing, or behind others and a comma."""
        start = self._join(first, self._add_spaced(",", later))
        named = self._add_string(1 if name else 0, start)
        if name is not None and _PLAIN.fullmatch(name):
            named = self._add_text(f'"{name}"', start)
        return self._add_space(self.add(inner, self._add_spaced(":", self._add_space(named)), depth))

    def _add_array(self, schema: dict[str, Any], state: int, depth: int) -> int:
        given = schema.get("prefixItems", [])
        rest = schema.get("items", {})
        least = min(schema.get("minItems", 0), _UNROLLED)
        here = self._add_spaced("[", state)
        may_end = [here] if least <= 0 else []
        for i in range(max(least, len(given))):
            here = here if i == 0 else self._add_spaced(",", here)
            here = self._add_space(self.add(given[i] if i < len(given) else rest, here, depth))
            may_end += [here] if i + 1 >= least else []
        if rest is not False:
            start = self._nfa.add_state()
            begun = least > 0 or bool(given)
            self._nfa.free[self._add_spaced(",", here) if begun else here].append(start)
            after = self._add_space(self.add(rest, start, depth))
            self._nfa.free[self._add_spaced(",", after)].append(start)
            may_end.append(after)
        return self._add_text("]", self._join(*may_end))

    def _add_wild(self, opening: str, closing: str, state: int) -> int:
        inside = self._add_text(opening, state)
        if self._gives_up:
            self._nfa.free[inside].append(self.lost)
            return self._nfa.add_state()
        return self._add_text(closing, self._add_loop(ANY_CHAR, inside))

    def _add_string(self, least: int, state: int) -> int:
        plain, backslash = match_characters(r'[^"\\\x00-\x1f]', 0), match_characters(r"\\", 0)
        here = self._add_text('"', state)
        for i in range(min(least, _UNROLLED) + 1):
            # A character beyond the sixteen-bit ones is one character and two escapes: never fewer bytes.
            after = self._nfa.add_state() if i < min(least, _UNROLLED) else here
            self._nfa.free[self._nfa.add_move(here, plain)].append(after)
            self._nfa.free[self._nfa.add_move(self._nfa.add_move(here, backslash), ANY_CHAR)].append(after)
            here = after
        return self._add_text('"', here)

    def _add_number(self, state: int) -> int:
        first = self._nfa.add_move(state, match_characters("[-0-9]", 0))
        return self._add_loop(match_characters("[0-9.eE+-]", 0), first)

    def _add_enum(self, values: list[Any], state: int) -> int:
        texts = [value for value in values if isinstance(value, str)]
        if all(map(_PLAIN.fullmatch, texts)) and sum(map(len, texts)) <= _MAX_LITERALS:
            written = [partial(self._add_text, json.dumps(text)) for text in texts]
        else:
            written = [partial(self._add_string, min(map(len, texts), default=0))]
        kinds = {name_type(value) for value in values} - {"string"}
        others = [lambda s: self._add_types(sorted(kinds), {}, s, 0)] if kinds else []
        return self._add_any([*(written if texts else ()), *others], state)

    def _add_any(self, branches: list[Callable[[int], int]], state: int) -> int:
        return self._join(*[branch(self._join(state)) for branch in branches])

    def _add_text(self, text: str, state: int) -> int:
        for char in text:
            state = self._nfa.add_move(state, ((ord(char), ord(char) + 1),))
        return state

    def _add_spaced(self, text: str, state: int) -> int:
        """A text with white space behind it."""
        return self._add_space(self._add_text(text, state))

    def _add_space(self, state: int) -> int:
        return self._add_loop(self._space, self._join(state))

    def _add_loop(self, chars: Ranges, state: int) -> int:
        self._nfa.free[self._nfa.add_move(state, chars)].append(state)
        return state

    def _join(self, *states: int) -> int:
        """A new state that follows freely on each of `states`."""
        after = self._nfa.add_state()
        if after > _STATES:
            raise TooLarge
        for state in states:
            self._nfa.free[state].append(after)
        return after


def _find_length(schema: dict[str, Any]) -> int:
    """How many characters a string has at least."""
    least = schema.get("minLength", 0)
    return max(least if isinstance(least, int) else 0, _MIN_LENGTH.get(schema.get("format", ""), 0))
