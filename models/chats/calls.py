"""The arguments of tool calls in the two forms that there are: dicts, and the JSON of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feynkac.base.lists import as_dict, as_sequence

Messages = Sequence[Mapping[str, Any]]


def parse_calls(messages: Messages) -> list[dict[str, Any]]:
    """The messages with all arguments as dicts; what is no JSON of an object stays."""
    return [_change(message, _parse) for message in messages]


def encode_calls(messages: Messages) -> list[dict[str, Any]]:
    """The messages with all arguments as JSON; what JSON cannot tell stays."""
    return [_change(message, _encode) for message in messages]


def is_misread(messages: Messages, written: str) -> bool:
    """Whether a template has put JSON in quotes, or shown a dict as Python does."""
    found: list[Any] = []
    for message in messages:
        _change(message, found.append)
    return any(wrong in written for arguments in found for wrong in _misread(arguments))


def _misread(arguments: Any) -> tuple[str, ...]:
    if isinstance(arguments, str):
        return tuple(json.dumps(arguments, ensure_ascii=ascii) for ascii in (True, False))
    shown = str(arguments)
    return () if shown == _encode(arguments) else (shown,)  # an empty dict looks alike in both


def _change(message: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    if (calls := as_sequence(message.get("tool_calls"))) is None:
        return dict(message)
    return {**message, "tool_calls": [_change_call(call, change) for call in calls]}


def _change_call(call: Any, change: Callable[[Any], Any]) -> Any:
    if (read := as_dict(call)) is None:
        return call
    if "arguments" in read:
        read["arguments"] = change(read["arguments"])
    if "function" in read:
        read["function"] = _change_call(read["function"], change)
    return read


def _parse(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def _encode(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError):
        return arguments
