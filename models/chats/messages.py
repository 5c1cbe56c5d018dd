"""Chats: messages as they are given, and what else a template may be given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict, as_sequence
from feynkac.base.unicode import check_unicode
from feynkac.base.words import is_word

_FORM = '[{"role": "user", "content": "..."}, ...]'
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Chat:
    """A conversation, and what else its template is given; all of it plain data, so that its repr tells it whole."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    template: dict[str, Any] = field(default_factory=dict)


def read_chat(chat: Any, tools: Any, documents: Any, template: Any) -> Chat:
    """The chat that is meant: `chat` is a user's message, or a list of messages. Raises ArgumentError for others."""
    if isinstance(chat, Mapping):
        raise ArgumentError(f"chat is one message, {quote(chat)}; give a list of messages: chat=[message]")
    if isinstance(chat, str):
        chat = [{"role": "user", "content": str(chat)}]
    if (messages := as_sequence(chat)) is None:
        raise ArgumentError(f"chat is {quote(chat)}; give a user's message, or a list of messages: {_FORM}")
    if not messages:
        raise ArgumentError(f"chat is empty; give at least one message: {_FORM}")
    variables = {} if template is None else as_dict(template)
    if variables is None or not all(isinstance(name, str) for name in variables):
        raise ArgumentError(f"template is {quote(template)}; give the template's variables as a dict")
    return Chat(
        [_read_message(message, i) for i, message in enumerate(messages)],
        None if tools is None else _read_tools(tools) or None,
        None if documents is None else _read_documents(documents) or None,
        variables,
    )


def _read_message(message: Any, i: int) -> dict[str, Any]:
    if (read := as_dict(message)) is None:
        hint = ", or message.model_dump() of an object" if hasattr(message, "model_dump") else ""
        raise ArgumentError(f"chat[{i}] is {quote(message)}; give messages as dicts{hint}: {_FORM}")
    if not isinstance(read.get("role"), str):
        raise ArgumentError(f'chat[{i}], {quote(message)}, has no "role" that is a string; write {_FORM}')
    content = read.get("content")
    if content is None:
        if not read.get("tool_calls"):
            raise ArgumentError(f'chat[{i}], {quote(message)}, has no "content"; write {_FORM}')
        return {name: value for name, value in read.items() if name != "content"}
    read["content"] = content if isinstance(content, str) else _join_parts(content, i)
    check_unicode(read["content"], f"the content of chat[{i}]")
    return read


def _join_parts(parts: Any, i: int) -> str:
    """The text of a content in parts, one behind the other."""
    if (listed := as_sequence(parts)) is None:
        raise ArgumentError(f"the content of chat[{i}] is {quote(parts)}; give a string")
    texts = list[str]()
    for part in listed:
        known = isinstance(part, Mapping) and is_word(part.get("type", "text"), _TEXT_PARTS)
        text = part["text"] if known and "text" in part else part
        if not isinstance(text, str):
            raise ArgumentError(
                f'the content of chat[{i}] holds {quote(part)}; this model reads text only: {{"type": "text", '
                '"text": "..."}'
            )
        texts.append(text)
    return "".join(texts)


def _read_tools(tools: Any) -> list[Any]:
    """The schemas of `tools`, which are functions or schemas."""
    if (listed := as_sequence(tools)) is None:
        raise ArgumentError(f"tools is {quote(tools)}; give a list of functions, or of their JSON schemas")
    return [_read_tool(tool, i) for i, tool in enumerate(listed)]


def _read_tool(tool: Any, i: int) -> dict[str, Any]:
    if (schema := as_dict(tool)) is not None:
        return schema
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise ArgumentError(f"tools[{i}] is {quote(tool)}; give a function, or its JSON schema as a dict")
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        return get_json_schema(tool)
    except Exception as cause:
        raise ArgumentError(f"tools[{i}]: no schema can be made of '{tool.__name__}': {cause}") from cause


def _read_documents(documents: Any) -> list[Any]:
    found = [as_dict(each) for each in listed] if (listed := as_sequence(documents)) is not None else [None]
    if None in found:
        raise ArgumentError(f'documents is {quote(documents)}; give a list: [{{"title": "...", "text": "..."}}, ...]')
    return found
