"""Constraints that need a stack, enforced by llguidance: `json_schema` and `grammar`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, ConstraintError, shorten
from feynkac.base.masks import TokenAutomaton
from feynkac.potentials.constraints.tokenwise import TokenFactor

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary


class GrammarConstraint(TokenFactor):
    """See `grammar`."""

    def __init__(self, lark: str, name: str) -> None:
        super().__init__(name)
        self._lark = lark

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.engines.llguidance.matchers import make_matcher  # brings llguidance
        from feynkac.potentials.constraints.engines.llguidance.table import GuideAutomaton

        return GuideAutomaton(make_matcher(vocabulary, self._lark, self.name), vocabulary, self.name)


class SchemaConstraint(GrammarConstraint):
    """See `json_schema`."""

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        super().__init__(f"start: %json {json.dumps(schema)}", shorten(f"json_schema({json.dumps(schema)})"))
        self._schema = schema

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        try:
            return super().compile(vocabulary)
        except ConstraintError as error:
            raise ConstraintError(_explain(str(error), self._schema)) from None


def json_schema(schema: dict[str, Any] | str) -> SchemaConstraint:
    """The JSON texts that are valid under `schema`: a dict, or the schema as a JSON text.

    Properties come in the order of the schema; white space is free between the parts, but not around the whole.
    What cannot be enforced is refused, never ignored: llguidance has no `not`, `if`, `uniqueItems`, `contains`,
    `patternProperties` with look-around, remote `$ref` and some more
    (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md).

    Raises ArgumentError for no schema; ConstraintError, when it is compiled, naming the keyword that is unsupported or
    contradicts another, and where it stands.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise ConstraintError(f"json_schema: the text is no JSON: {error}") from None
    if not isinstance(schema, (dict, bool)):
        raise ArgumentError(f"json_schema({schema!r}): give the schema as a dict, or as a JSON text")
    try:
        return SchemaConstraint(schema)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"json_schema: the schema is no JSON: {error}") from None


def grammar(lark: str) -> GrammarConstraint:
    """The texts of a grammar, in llguidance's dialect of Lark
    (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).

    Rules are lower case, terminals upper case; the text derives from `start`, and no white space is skipped unless
    `%ignore` says so. `%json {...}` embeds a schema.

    One limit to know: it reads *terminals greedily*, left to right, before rules come into play. With
    `STEM: "list" | "listen"` and `SUFFIX: "ed"` the text "listed" is not found to be STEM SUFFIX, since "liste" has
    been read as the beginning of "listen". Put what overlaps into one terminal, or use regex. The constraint means
    what llguidance accepts; such overlaps may also lead into a dead end, where a particle dies.

    Raises ArgumentError for no text; ConstraintError, when it is compiled, with the line and column of a mistake, or
    if no text can be derived.
    """
    if not isinstance(lark, str):
        raise ArgumentError(f"grammar({lark!r}): give the grammar as text")
    return GrammarConstraint(lark, shorten(f"grammar({' '.join(lark.split())!r})"))


def _explain(message: str, schema: Any) -> str:
    """The message of llguidance without the grammar around the schema, with the places of the keywords it names."""
    message = message.split("\n   1 |")[0].rstrip()
    message = re.sub(r"line \d+, column \d+: (failed to compile JSON schema: )?", "", message)
    unsupported = re.search(r"Unimplemented keys: (\[.*\])", message)
    names = json.loads(unsupported[1]) if unsupported else []
    places = [place for name in names for place in _find_places(schema, name)]
    if unsupported:
        advice = "it cannot be enforced token by token; leave it out, or check whole texts with constraint(f)"
        message = message.replace(unsupported[0], f"unsupported keyword {', '.join(places or names)}: {advice}")
    if "oneOf constraints are not supported" in message:
        message = re.sub(r"oneOf constraints.*", "oneOf with overlapping branches is unsupported; use anyOf", message)
    return message


def _find_places(schema: Any, name: str, path: str = "#") -> Iterator[str]:
    """The places where a keyword stands in a schema, as JSON pointers."""
    if isinstance(schema, dict):
        for key, inner in schema.items():
            if key == name:
                yield f"{path}/{key}"
            yield from _find_places(inner, name, f"{path}/{key}")
    elif isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from _find_places(inner, name, f"{path}/{i}")
