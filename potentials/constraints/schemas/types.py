"""Python classes as schemas, by pydantic: models, dataclasses, typed dictionaries, and whatever TypeAdapter takes."""

from __future__ import annotations

import typing
from typing import Any

from feynkac.base.errors import ArgumentError, ConstraintError, MissingExtra, quote
from feynkac.base.extras import needing


def is_type(schema: Any) -> bool:
    """Whether a class or a type such as `list[int]` was given rather than a schema, or pydantic's adapter of one."""
    if isinstance(schema, type | typing.NewType) or typing.get_origin(schema) is not None:
        return True
    return type(schema).__name__ in ("TypeAdapter", "TypeAliasType")


class TypeReader:
    """What reads the JSON text of a value of a Python type."""

    def __init__(self, kind: Any) -> None:
        with needing("types", f"json_schema({quote(kind)}) needs pydantic"):
            import pydantic
        self.kind = kind
        try:
            self._adapter = kind if isinstance(kind, pydantic.TypeAdapter) else pydantic.TypeAdapter(kind)
        except ImportError as error:
            raise _make_missing(kind, error) from None
        except Exception as error:  # whatever hooks of the type raise, too
            raise ArgumentError(_tell(kind, error)) from error

    def make_schema(self) -> dict[str, Any]:
        """The JSON schema of what can be read. Raises ConstraintError where there is none."""
        try:
            return self._adapter.json_schema(mode="validation")
        except ImportError as error:
            raise _make_missing(self.kind, error) from None
        except Exception as error:
            raise ConstraintError(_tell(self.kind, error)) from error

    def read(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError where it is none."""
        return self._adapter.validate_json(text)

    def check(self, text: str) -> bool:
        """Whether a text stands for a value, by all that the type asks of it.

        Raises ConstraintError where its own code raises what is no verdict.
        """
        try:
            self._adapter.validate_json(text)
        except ValueError:
            return False
        except Exception as error:
            raise ConstraintError(
                f"json_schema({quote(self.kind)}): its own code raised {type(error).__name__}: {error} on the text "
                f"{quote(text)}; a validator rejects a value by ValueError or AssertionError"
            ) from error
        return True

    def __reduce__(self) -> tuple[type[TypeReader], tuple[Any]]:
        return TypeReader, (self.kind,)


def _tell(kind: Any, error: Exception) -> str:
    """What to say where a type has no schema; what its own code raised is named."""
    named = str(error) if type(error).__name__.startswith("Pydantic") else f"{type(error).__name__}: {error}"
    return f"json_schema({quote(kind)}): pydantic has no schema for it: {named}"


def _make_missing(kind: Any, error: ImportError) -> MissingExtra:
    """What to say where pydantic needs another package for a type."""
    return MissingExtra(f"json_schema({quote(kind)}) needs a package that is not installed: {error}")
