"""Python classes as schemas, by pydantic: models, dataclasses, typed dictionaries, and whatever TypeAdapter takes."""

from __future__ import annotations

import typing
from typing import Any

from feynkac.base.errors import ArgumentError, ConstraintError, MissingExtra, quote
from feynkac.base.extras import needing


def is_type(schema: Any) -> bool:
    """Whether a class or a type such as `list[int]` was given rather than a schema."""
    return isinstance(schema, type) or typing.get_origin(schema) is not None


class TypeReader:
    """What reads the JSON text of a value of a Python type."""

    def __init__(self, kind: Any) -> None:
        with needing("types", f"json_schema({quote(kind)}) needs pydantic"):
            import pydantic
        self.kind = kind
        try:
            self._adapter = pydantic.TypeAdapter(kind)
        except ImportError as error:
            raise _make_missing(kind, error) from None
        except pydantic.PydanticUserError as error:
            raise ArgumentError(f"json_schema({quote(kind)}): pydantic has no schema for it: {error}") from None

    def make_schema(self) -> dict[str, Any]:
        """The JSON schema of what can be read. Raises ConstraintError where there is none."""
        import pydantic

        try:
            return self._adapter.json_schema(mode="validation")
        except ImportError as error:
            raise _make_missing(self.kind, error) from None
        except pydantic.PydanticUserError as error:
            raise ConstraintError(f"json_schema({quote(self.kind)}): pydantic has no schema for it: {error}") from None

    def read(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError where it is none."""
        return self._adapter.validate_json(text)

    def check(self, text: str) -> bool:
        """Whether a text stands for a value, by all that the type asks of it."""
        try:
            self._adapter.validate_json(text)
        except ValueError:
            return False
        return True

    def __reduce__(self) -> tuple[type[TypeReader], tuple[Any]]:
        return TypeReader, (self.kind,)


def _make_missing(kind: Any, error: ImportError) -> MissingExtra:
    """What to say where pydantic needs another package for a type."""
    return MissingExtra(f"json_schema({quote(kind)}) needs a package that is not installed: {error}")
