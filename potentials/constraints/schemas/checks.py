"""What masks leave open, asked of whole texts: by `jsonschema`, or by the class that the schema comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.schemas.patterns import translate_patterns
from feynkac.potentials.constraints.schemas.walking import rewrite, settle_references

Check = Callable[[str], bool]
"""Whether a whole text is valid."""


class SchemaCheck:
    """Whether a text is JSON that is valid under `schema`, formats that jsonschema knows included.

    Raises ConstraintError for what is no schema.
    """

    def __init__(self, schema: Any) -> None:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for

        self._made_of = schema
        kind: Any = validator_for(schema, default=Draft202012Validator)
        whole = rewrite(
            translate_patterns(settle_references(schema)),
            lambda path, inner: _split_dependencies(inner, kind.VALIDATORS),
        )
        try:
            kind.check_schema(whole)
        except SchemaError as error:
            raise ConstraintError(tell_place(error)) from None
        self._validator = kind(whole, format_checker=_check_formats(kind))
        self("null")  # a reference that leads nowhere, or round and round, is told here

    def __call__(self, text: str) -> bool:
        try:
            value = json.loads(text)
        except ValueError:
            return False
        from referencing.exceptions import Unresolvable

        try:
            return self._validator.is_valid(value)
        except BaseException as error:
            # Within the compiled parts of jsonschema the recursion ends in a panic, which is no Exception.
            if isinstance(error, Unresolvable | RecursionError) or type(error).__name__ == "PanicException":
                raise ConstraintError(f"a reference in the schema leads nowhere: {error}") from None
            raise

    def __reduce__(self) -> tuple[type[SchemaCheck], tuple[Any]]:
        return SchemaCheck, (self._made_of,)


CALENDAR = ("date", "date-time")
"""Formats of which masks know the figures only, and not how long a month is."""


def _check_formats(kind: Any) -> Any:
    """What checks the formats of a draft, as far as it can be checked here."""
    from jsonschema import FormatChecker

    checker: Any = FormatChecker(())
    checker.checkers = dict(kind.FORMAT_CHECKER.checkers)
    for name in CALENDAR:
        checker.checkers[name] = _is_day, ValueError
    return checker


def _is_day(value: Any) -> bool:
    """Whether a date, or what stands before a time, is a day of the calendar."""
    return not isinstance(value, str) or date.fromisoformat(value[:10]) is not None


def find_error(schema: Any) -> str | None:
    """What the specification says is wrong with a schema, and where; None where it says nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    kind: Any = validator_for(schema, default=Draft202012Validator)
    error = best_match(kind(kind.META_SCHEMA).iter_errors(schema))
    return None if error is None else tell_place(error)


def tell_place(error: Any) -> str:
    """An error of jsonschema in a line: the place as a JSON pointer, and what is wrong there."""
    place = "/".join(["#", *map(str, error.absolute_path)])
    message = error.message if len(error.message) < 200 else f"{error.message[:200]}..."
    return f"{place}: {message}"


_FORMATS = (
    "date-time", "duration", "hostname", "idn-hostname", "iri", "iri-reference", "json-pointer",
    "relative-json-pointer", "time", "uri", "uri-reference", "uri-template",
)  # fmt: skip


def explain_format(name: str) -> str:
    """Why a format that is not checked is not, and what can be done."""
    if name in _FORMATS:
        return "is not enforced: install what checks it, pip install 'jsonschema[format-nongpl]'"
    return "is unknown, and so an annotation that nothing enforces"


def is_checked_format(name: str) -> bool:
    """Whether jsonschema can tell what has a format, as it is installed here."""
    from jsonschema import Draft202012Validator

    return name in Draft202012Validator.FORMAT_CHECKER.checkers


def _split_dependencies(schema: dict[str, Any], known: Any) -> dict[str, Any]:
    """`dependencies` of the older drafts, as the two keywords that it has become."""
    if "dependencies" in known or not isinstance(schema.get("dependencies"), dict):
        return schema
    rest = {key: value for key, value in schema.items() if key != "dependencies"}
    names = {key: value for key, value in schema["dependencies"].items() if isinstance(value, list)}
    schemas = {key: value for key, value in schema["dependencies"].items() if not isinstance(value, list)}
    rest["dependentRequired"] = {**names, **rest.get("dependentRequired", {})}
    rest["dependentSchemas"] = {**schemas, **rest.get("dependentSchemas", {})}
    return rest
