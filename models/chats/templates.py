"""The text that a tokenizer's template makes of a chat, and what the template would drop of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sized
from dataclasses import replace
from typing import Any

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.unicode import check_unicode
from feynkac.models.chats.calls import encode_calls, is_misread, parse_calls
from feynkac.models.chats.messages import Chat

_POINTERS = ("name", "tool_call_id")  # of a tool's answer: they point back at the call, which the template shows


def write_chat(chat: Chat, tokenizer: Any) -> str:
    """The text that the model continues: the next turn's beginning, or the last turn if that is the assistant's.

    What the assistant has said stands at the end as it was given, its white space included.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("this tokenizer has no chat template; pass the prompt as text")
    source = _check_variables(chat, tokenizer)
    chat = _fit_calls(chat, tokenizer)
    _check_messages(chat, tokenizer, source)
    last = len(chat.messages) - 1
    if (ends := chat.messages[last])["role"] != "assistant":
        written = _render(chat, tokenizer, add_generation_prompt=True)
    elif ends.get("tool_calls") or not ends.get("content"):
        raise ArgumentError(
            f"chat ends in an assistant's turn without text to continue, {quote(ends)}; leave it out, or add what "
            'comes next, such as {"role": "tool", "content": "..."}'
        )
    else:
        written = _write_up_to(chat, tokenizer, ends["content"])
    check_unicode(written, "chat")
    return written


def _fit_calls(chat: Chat, tokenizer: Any) -> Chat:
    """The chat with the arguments of tool calls in the form that the template reads: dicts, or the JSON of them."""
    parsed, encoded = (replace(chat, messages=change(chat.messages)) for change in (parse_calls, encode_calls))
    for form in (parsed, encoded) if parsed != encoded else ():
        try:
            if not is_misread(form.messages, _render(form, tokenizer, add_generation_prompt=True)):
                return form
        except ArgumentError:  # told below, if no form is taken
            continue
    return chat


def _write_up_to(chat: Chat, tokenizer: Any, said: str) -> str:
    """The chat with its last turn open behind `said`."""
    try:
        written = _render(chat, tokenizer, continue_final_message=True) if said.strip() else ""
    except ArgumentError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        written = ""
    for kept in (said, said.rstrip(), said.strip()):  # templates trim
        if kept and written.endswith(kept):
            return written.removesuffix(kept) + said
    # The template rewrites what was said, as some do with thoughts: so it stands where the model would have said it.
    return _render(replace(chat, messages=chat.messages[:-1]), tokenizer, add_generation_prompt=True) + said


def _render(chat: Chat, tokenizer: Any, **how: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            chat.messages, tools=chat.tools, documents=chat.documents, tokenize=False, **how, **chat.template
        )
    except Exception as cause:
        bare = [f"chat[{i}]" for i, message in enumerate(chat.messages) if "content" not in message]
        hint = f'; {bare[0]} has no "content": give it one, such as ""' if bare else ""
        raise ArgumentError(
            f"the chat template of {type(tokenizer).__name__} does not take this chat: {type(cause).__name__}: "
            f"{cause}{hint}"
        ) from cause


def _check_messages(chat: Chat, tokenizer: Any, source: str) -> None:
    """Raise ArgumentError for what the template does not read of the messages: it would be dropped.

    What is None or empty says nothing. Which earlier thoughts and calls of the assistant are shown is the affair of a
    template that knows the word.
    """
    roles = dict[str, int]()
    for i, message in enumerate(chat.messages):
        role = message["role"]
        if roles.setdefault(role, i) == i and not _reads(chat, tokenizer, i, None, _names(source, role)):
            raise ArgumentError(
                f"the chat template of this tokenizer does not read messages whose role is {quote(role)}, such as "
                f"chat[{i}], so that they would be dropped; give them another role"
            )
        for key in (key for key in message if key not in ("role", "content") and _says_something(message[key])):
            named = _names(source, key)
            pointer = role == "tool" and key in _POINTERS
            if pointer or (named and role == "assistant") or _reads(chat, tokenizer, i, key, named):
                continue
            raise ArgumentError(
                f"the chat template of this tokenizer does not read {quote(key)} of chat[{i}], whose role is "
                f"{quote(role)}, so that it would be dropped; leave it out, or say it in the content"
            )


def _says_something(value: Any) -> bool:
    return not (value is None or value is False or (isinstance(value, Sized) and not len(value)))


def _reads(chat: Chat, tokenizer: Any, i: int, key: str | None, named: bool) -> bool:
    """Whether the text that the template writes depends on message `i`, or on a key of it.

    Of a message with a role that the template has by name it is believed.
    """
    if key is None and named:
        return True
    less = [] if key is None else [{name: value for name, value in chat.messages[i].items() if name != key}]
    messages = [*chat.messages[:i], *less, *chat.messages[i + 1 :]]
    try:
        whole = _render(chat, tokenizer, add_generation_prompt=True)
        return whole != _render(replace(chat, messages=messages), tokenizer, add_generation_prompt=True)
    except ArgumentError:
        return named or key is None  # a template that raises tells by itself what it misses


def _names(source: str, word: Any) -> bool:
    return re.search(rf"\b{re.escape(str(word))}\b", source) is not None


def _check_variables(chat: Chat, tokenizer: Any) -> str:
    """The template's source. Raises ArgumentError for what the template has no place for: it would be dropped."""
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    try:
        source = tokenizer.get_chat_template(None, chat.tools)
    except ValueError as cause:  # several templates, and none of them the default one
        raise ModelError(f"the chat templates of {type(tokenizer).__name__}: {cause}") from cause
    if taken := sorted(own.keys() & chat.template.keys()):
        raise ArgumentError(
            f"template sets {quote(taken[0])}, which is no variable of the template's own; leave it out"
        )
    given = {"tools": chat.tools, "documents": chat.documents, **chat.template}
    for name in (name for name, value in given.items() if value is not None):
        if not _names(source, name):
            raise ArgumentError(
                f"the chat template of this tokenizer has no {quote(name)}, so that it would be dropped"
            )
    return source
