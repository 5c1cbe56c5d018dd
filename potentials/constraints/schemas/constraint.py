"""JSON schemas as constraints: masked by llguidance, and the rest checked on whole texts."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, ConstraintError, quote, shorten, shorten_report
from feynkac.base.escaping import escape
from feynkac.base.lists import as_dict
from feynkac.base.masks import TokenAutomaton
from feynkac.base.words import is_word
from feynkac.potentials.constraints.automata import expressions
from feynkac.potentials.constraints.automata.products import share_text
from feynkac.potentials.constraints.engines.llguidance.chains import MOST
from feynkac.potentials.constraints.grammars import GrammarConstraint, find_fault
from feynkac.potentials.constraints.schemas.checks import (
    CALENDAR,
    Check,
    SchemaCheck,
    explain_format,
    find_error,
    is_checked_format,
)
from feynkac.potentials.constraints.schemas.endless import is_endless
from feynkac.potentials.constraints.schemas.mistakes import find_mistake
from feynkac.potentials.constraints.schemas.outline import build_outline
from feynkac.potentials.constraints.schemas.relaxing import Relaxed, find_cause, relax, simplify
from feynkac.potentials.constraints.schemas.types import TypeReader, is_type
from feynkac.potentials.constraints.schemas.walking import MAX_DEPTH, find_depth, find_reach, walk
from feynkac.potentials.constraints.texts import TextConstraint

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary

WHITESPACE = r" ?|\n( {0,16}|\t{0,4})"
"""Between the parts of a JSON text: at most one blank, or a line break and an indentation."""


class SchemaConstraint(GrammarConstraint):
    """See `json_schema`."""

    def __init__(self, name: str, lark: str, masked: Any, checks: tuple[Check, ...], reader: TypeReader | None) -> None:
        super().__init__(lark, name)
        self._masked, self._checks, self._reader = masked, checks, reader

    def compile(self, vocabulary: Vocabulary) -> TokenAutomaton:
        from feynkac.potentials.constraints.automata.dfa import compile_dfa  # imports numba, which takes a while

        dfa = build_outline(self._masked)
        try:
            outline = None if dfa is None else compile_dfa(dfa, vocabulary, self.name)
        except ConstraintError:  # these tokens spell no text: the engine says so, too
            outline = None
        return self._make(vocabulary, outline)

    @property
    def outline(self) -> TextConstraint | None:
        """The brackets, required properties and literals of the schema; None where even they are too many states."""
        dfa = build_outline(self._masked)
        return None if dfa is None else TextConstraint(f"the outline of {self.name}", lambda: dfa)

    def approves(self, vocabulary: Vocabulary, tokens: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether a text that the automaton accepts is valid by what it leaves open."""
        return not self._checks or all(check(vocabulary.text(tokens)) for check in self._checks)

    def list_texts(self, most: int) -> list[str] | None:
        """All texts that meet it, None if there are more than `most`, or very long ones."""
        listed = super().list_texts(most)
        return None if listed is None else [text for text in listed if all(check(text) for check in self._checks)]

    def read(self, text: str) -> Any:
        """The value that a text stands for, an instance where the schema is a class. Raises ValueError for no value."""
        return json.loads(text) if self._reader is None else self._reader.read(text)


@suggest_names()
def json_schema(
    schema: Any,
    *,
    whitespace: str = WHITESPACE,
    unsupported: Literal["check", "refuse", "ignore"] = "check",
) -> SchemaConstraint:
    """The JSON texts that are valid under `schema`: a dict, a JSON text, or a Python type.

    A type is a pydantic model, a dataclass, a TypedDict or anything else that pydantic's TypeAdapter takes. Its texts
    are those that the type reads without an error, its own validators included; `result.parsed()` gives the instances.
    Properties that neither names are allowed, as ever in JSON Schema, and models invent them: forbid them by
    `"additionalProperties": False`, or by `ConfigDict(extra="forbid")` in a pydantic model.

    Properties come in the order of the schema. White space is a part of the text, and so of the target: between the
    parts there may be what the regular expression `whitespace` matches, by default at most one blank, or a line break
    and up to 16 blanks or 4 tabs. "compact" allows none, "flexible" any amount, with which a model may fill its limit.
    There is none around the whole.

    Not all of a schema can be masked token by token: llguidance has no `not`, `if`, `uniqueItems`, `contains`,
    `dependentRequired`, overlapping `oneOf`, whole numbers beyond 2^53, days of the calendar and some more
    (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md). `unsupported` says what becomes of it:
    "check" masks by the rest of the schema, and weighs whole texts by `jsonschema`, so that the target is exact, and
    particles may die at their end; "refuse" raises; "ignore" leaves it out of the target. A `format` that is unknown,
    or whose optional checker is not installed, is an annotation, as the specification has it: a warning says so.

    Raises ArgumentError for no schema; ConstraintError for one that is wrong, that no value meets, that is nested more
    than 120 deep, or that looks like something else (a tool description, a misspelt keyword), with the place.
    """
    if not is_word(unsupported, ("check", "refuse", "ignore")):
        raise ArgumentError(f"json_schema(unsupported={quote(unsupported)}): choose one of 'check', 'refuse', 'ignore'")
    reader = TypeReader(schema) if is_type(schema) else None
    given = _read(schema) if reader is None else reader.make_schema()
    written = _write(given)
    if find_reach(given) > MOST:
        raise ConstraintError(_TOO_FAR)
    name = shorten(f"json_schema({schema.__name__ if isinstance(schema, type) else written})")
    options = _make_options(_check_whitespace(whitespace))
    if reader is None and (mistake := find_mistake(given)):
        raise ConstraintError(f"{name}: {mistake}")
    simple = simplify(given)
    if is_endless(simple):
        raise ConstraintError(f"{name}: {_ENDLESS}")
    relaxed = relax(simple, lambda each: find_fault(_make_lark(each, options), ("", "{", "[", '"')))
    if unsupported == "refuse" or relaxed.error is not None:
        _refuse(name, given, relaxed, options)
    checks = [] if reader is None or unsupported == "ignore" else [reader.check]
    if unsupported == "check":
        checks = [*_make_checks(name, given, relaxed, reader is None), *checks]
    found = SchemaConstraint(name, _make_lark(relaxed.schema, options), relaxed.schema, tuple(checks), reader)
    return found.define(written, whitespace, unsupported)


def _read(schema: Any) -> Any:
    """A schema from what was given for one."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise ConstraintError(f"json_schema: the text is no JSON: {error}") from None
        except RecursionError:
            raise ConstraintError(_TOO_DEEP) from None
    if isinstance(schema, dict):
        schema = as_dict(schema)
    if not isinstance(schema, (dict, bool)):
        raise ArgumentError(
            f"json_schema({quote(schema)}): give the schema as a dict, or as a JSON text, or as a class"
        )
    if find_depth(schema) > MAX_DEPTH:
        raise ConstraintError(_TOO_DEEP)
    return schema


_TOO_DEEP = f"json_schema: the schema is nested more than {MAX_DEPTH} deep; let a $ref stand for what repeats"

_ENDLESS = (
    "no value meets it, since each would have to hold another one, without end; let what repeats be optional, or one "
    'of several: {"anyOf": [{"$ref": ...}, {"type": "null"}]}'
)
_TOO_FAR = (
    f"json_schema: references lead more than {MOST} schemas deep, each through the one before; let fewer stand between "
    "a schema and what it means"
)


def _write(schema: Any) -> str:
    try:
        json.dumps(schema, ensure_ascii=False).encode()
        return json.dumps(schema, allow_nan=False)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ConstraintError(f"json_schema: it holds {quote(half)}, half of a character, which no text has") from None
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"json_schema: the schema is no JSON: {error}") from None


def _check_whitespace(whitespace: Any) -> str:
    if not isinstance(whitespace, str):
        raise ArgumentError(
            f"json_schema(whitespace={quote(whitespace)}): give 'compact', 'flexible', or a regular expression"
        )
    return whitespace


@lru_cache(maxsize=64)
def _make_options(whitespace: str) -> dict[str, Any]:
    """What llguidance is told of white space."""
    if whitespace in ("compact", "flexible"):
        return {"whitespace_flexible": whitespace == "flexible"}
    if whitespace == WHITESPACE:
        return {"whitespace_pattern": whitespace}
    blank = expressions.build_dfa(*expressions.check(whitespace))
    if share_text([blank, expressions.build_dfa(*expressions.check(r"(?s).*[^ \t\n\r].*"))]) is not False:
        raise ConstraintError(
            f"json_schema(whitespace={quote(whitespace)}): JSON allows only blanks, tabs and line breaks "
            "between its parts; give 'compact', 'flexible', or a regular expression of these"
        )
    return {"whitespace_pattern": whitespace}


_SILENT = ("coerce_one_of", "lenient")


def _make_lark(schema: Any, options: dict[str, Any]) -> str:
    if isinstance(schema, dict):
        own = schema.get("x-guidance")
        # Whatever would make llguidance silent about what it leaves out must not reach it.
        kept = {key: value for key, value in own.items() if key not in _SILENT} if isinstance(own, dict) else {}
        spaced = any(key.startswith("whitespace") for key in kept)
        schema = {**schema, "x-guidance": kept if spaced else {**options, **kept}}
    elif schema is True:
        schema = {"x-guidance": options}
    return f"start: %json {_write(schema)}"


def _make_checks(name: str, given: Any, relaxed: Relaxed, warn: bool) -> list[Check]:
    """What is to be asked of whole texts, where masks are not enough."""
    formats = [format for _, format in relaxed.formats if is_checked_format(format)]
    for place, format in relaxed.formats if warn else ():
        if format not in formats:
            warnings.warn(
                escape(f"{name}: the format {quote(format)} at {place} {explain_format(format)}"),
                stacklevel=4,  # of the call of json_schema, behind suggest_names
            )
    dated = warn and any(is_word(inner.get("format"), CALENDAR) for _, inner in walk(given))
    if not relaxed.dropped and not formats and not dated:
        return []
    try:
        return [SchemaCheck(given)]
    except ConstraintError as error:
        raise ConstraintError(f"{name}: {error}") from None


def _refuse(name: str, given: Any, relaxed: Relaxed, options: dict[str, Any]) -> None:
    """Raise ConstraintError for what is wrong, or for what is unsupported."""
    if relaxed.error is None:
        places = [*relaxed.dropped, *(f"{place} ({quote(format)})" for place, format in relaxed.formats)]
        if places:
            named = ", ".join(places[:10]) + (f" and {len(places) - 10} more" if len(places) > 10 else "")
            raise ConstraintError(
                f"{name}: unsupported keyword {named}: it cannot be enforced token by token; leave it out, or "
                "have whole texts checked: json_schema(..., unsupported='check')"
            )
        return
    message = re.sub(r"line \d+, column \d+: (failed to compile JSON schema: )?", "", relaxed.error)
    message = shorten_report(message.split("\n   1 |")[0].rstrip())
    if "Unsatisfiable" in message:
        place = find_cause(relaxed.schema, lambda each: find_fault(_make_lark(each, options)))
        message = f"{message}, at {place}: no value meets it"
    elif said := find_error(given):
        message = f"{message}; {said}"
    raise ConstraintError(f"{name}: {message}")
