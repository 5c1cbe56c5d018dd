"""Chats: every form of a message, what goes to the template, and turns that are continued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers_of_kinds import byte_level, model_of, wrap

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError

PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMS = PLAIN.replace("m['content']", "m['content'] | trim")
FULL = (
    "{% if tools %}[{% for t in tools %}{{ t.function.name }}:{{ t.function.parameters.properties | list | join }}"
    "{% endfor %}]{% endif %}{% for d in documents or [] %}({{ d.text }}){% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}call {{ c.function.name }}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETS = (  # as some templates do with thoughts
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + PLAIN


def make(template: str) -> Any:
    tokenizer = wrap(byte_level(), template="<s> $A </s>")
    tokenizer.chat_template = template
    return model_of(tokenizer)


def written(lm: Any, chat: Any, **kwargs: Any) -> str:
    return lm.tokenizer.decode(lm.prompt(chat=chat, **kwargs).prompts[0].tokens)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.fixture(scope="module")
def plain() -> Any:
    return make(PLAIN)


@pytest.fixture(scope="module")
def full() -> Any:
    return make(FULL)


@pytest.mark.parametrize(
    "chat",
    [
        "Hi",
        [user("Hi")],
        (user("Hi"),),
        [user([{"type": "text", "text": "Hi"}])],
        [user([{"type": "text", "text": "H"}, {"type": "input_text", "text": "i"}])],
        [user(["H", "i"])],
        [user([{"text": "Hi"}])],
    ],
)
def test_every_form_of_a_users_message(plain, chat) -> None:
    assert written(plain, chat) == "<user>Hi</s><assistant>"


def test_the_messages_given_stay_as_they_were(plain) -> None:
    parts = [{"type": "text", "text": "Hi"}]
    chat = [user(parts), assistant("Sure")]
    written(plain, chat)
    assert chat == [user(parts), assistant("Sure")] and chat[0]["content"] is parts


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (
            {"role": "user", "content": "Hi"},
            r"chat is one message, .*'Hi'.*; give a list of messages: chat=\[message\]",
        ),
        ([{"role": "user"}], r"chat\[0\], \{'role': 'user'\}, has no \"content\"; write \[\{\"role\""),
        ([user(None)], r'chat\[0\].*has no "content"'),
        ([user("a"), {"content": "Hi"}], r'chat\[1\], \{\'content\': \'Hi\'\}, has no "role"'),
        ([{"role": 1, "content": "Hi"}], 'has no "role" that is a string'),
        ([], "chat is empty; give at least one message"),
        (["Hi"], r"chat\[0\] is 'Hi'; give messages as dicts"),
        ([user(5)], r"the content of chat\[0\] is 5; give a string"),
        ([user(b"Hi")], r"the content of chat\[0\] is b'Hi'; give a string"),
        ([user({"text": "Hi"})], r"the content of chat\[0\] is .*; give a string"),
        ([user([{"type": "image", "url": "x"}])], "holds {'type': 'image', 'url': 'x'}; this model reads text only"),
        ([user([{"type": "text"}])], "this model reads text only"),
        ([user([{"type": "text", "text": 5}])], "this model reads text only"),
        ([user("a\ud83d")], r"the content of chat\[0\] holds '.ud83d' at 1, half of a character"),
        ("\ud83d", r"the content of chat\[0\] holds"),
        (5, "chat is 5; give a user's message, or a list of messages"),
        (b"Hi", "chat is b'Hi'; give a user's message, or a list"),
        ([[user("Hi")]], r"chat\[0\] is \[.*; give messages as dicts"),
    ],
)
def test_what_is_no_chat_is_refused(plain, chat, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        plain.prompt(chat=chat)


def test_an_object_of_a_client_is_told_how_to_become_a_message(plain) -> None:
    class Message:
        def model_dump(self):
            return user("Hi")

    with pytest.raises(ArgumentError, match=r"or message\.model_dump\(\) of an object"):
        plain.prompt(chat=[Message()])
    assert written(plain, [Message().model_dump()]) == "<user>Hi</s><assistant>"


@pytest.mark.parametrize("template", [PLAIN, TRIMS, FULL, FORGETS])
@pytest.mark.parametrize("said", ["Sure, the answer is", "Sure, ", " Sure\n", "ab\n\nab", " "])
def test_a_chat_that_ends_in_the_assistants_turn_is_continued(template, said) -> None:
    lm = make(template)
    chat = [user("Hi"), assistant(said)]
    assert written(lm, chat) == f"<user>Hi</s><assistant>{said}"

    @fk.program
    def goes_on(p):
        return lm.tokenizer.decode(lm.context(chat=chat).node.prompt)

    assert fk.steer(goes_on(), particles=1, seed=0).samples == [f"<user>Hi</s><assistant>{said}"]


def test_a_turn_that_the_template_rewrites_stands_as_it_was_given() -> None:
    said = "<think>so</think>Sure"
    assert written(make(FORGETS), [user("Hi"), assistant(said)]) == f"<user>Hi</s><assistant>{said}"


def test_a_turn_in_the_middle_is_the_templates_affair() -> None:
    chat = [user("Hi"), assistant("<think>so</think>Sure"), user("No")]
    assert written(make(FORGETS), chat) == "<user>Hi</s><assistant>Sure</s><user>No</s><assistant>"


@pytest.mark.parametrize("last", [
    assistant(""), {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
])  # fmt: skip
def test_a_turn_with_nothing_to_continue_is_refused(full, last) -> None:
    with pytest.raises(ArgumentError, match=r"ends in an assistant's turn without text to continue.*add what"):
        full.prompt(chat=[user("Hi"), last])


def look_up(city: str) -> str:
    """The weather.

    Args:
        city: Where.
    """
    return city


SCHEMA = {"type": "function", "function": {"name": "look_up", "parameters": {"properties": {"city": {}}}}}


@pytest.mark.parametrize("tool", [look_up, SCHEMA])
def test_tools_documents_and_variables_go_to_the_template(full, tool) -> None:
    assert written(full, "Hi", tools=[tool]) == "[look_up:city]<user>Hi</s><assistant>"
    assert written(full, "Hi", documents=[{"title": "t", "text": "d"}]) == "(d)<user>Hi</s><assistant>"
    assert written(full, "Hi", template={"enable_thinking": False}) == "!<user>Hi</s><assistant>"
    assert written(full, "Hi", template={"enable_thinking": True}) == "<user>Hi</s><assistant>"
    assert written(full, "Hi", tools=[], documents=[], template={}) == "<user>Hi</s><assistant>"

    @fk.program
    def opens(p):
        kwargs: Any = {"tools": [tool], "documents": [{"text": "d"}], "template": {"enable_thinking": False}}
        return full.tokenizer.decode(full.context(chat="Hi", **kwargs).node.prompt)

    assert fk.steer(opens(), particles=2, seed=0).samples[0] == "[look_up:city](d)!<user>Hi</s><assistant>"


def test_system_and_tool_messages_are_as_the_template_has_them(full) -> None:
    chat = [
        {"role": "system", "content": "Be"},
        user("Hi"),
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": "x", "name": "f"},
    ]
    assert written(full, chat) == "<system>Be</s><user>Hi</s><assistant>call f</s><tool>x</s><assistant>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": "look_up"}, "tools is 'look_up'; give a list of functions"),
        ({"tools": look_up}, "tools is <function look_up.*; give a list of functions"),
        ({"tools": SCHEMA}, "tools is .*; give a list of functions"),
        ({"tools": ["look_up"]}, r"tools\[0\] is 'look_up'; give a function, or its JSON schema as a dict"),
        ({"tools": [lambda city: city]}, r"tools\[0\]: no schema can be made of '<lambda>'"),
        ({"documents": "d"}, "documents is 'd'; give a list"),
        ({"documents": {"text": "d"}}, "documents is .*; give a list"),
        ({"documents": ["d"]}, "documents is .*; give a list"),
        ({"template": "no"}, "template is 'no'; give the template's variables as a dict"),
        ({"template": {1: 2}}, "template is {1: 2}; give the template's variables as a dict"),
        ({"template": {"enable_thinkin": True}}, "has no 'enable_thinkin', so that it would be dropped"),
        ({"template": {"tokenize": True}}, "template sets 'tokenize', which is no variable of the template's own"),
        ({"template": {"add_generation_prompt": False}}, "template sets 'add_generation_prompt'"),
    ],
)
def test_what_no_template_is_given_is_refused(full, arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        full.prompt(chat="Hi", **arguments)


@pytest.mark.parametrize("arguments", [{"tools": [SCHEMA]}, {"documents": [{"text": "d"}]}])
def test_what_the_template_has_no_place_for_is_not_dropped(plain, arguments) -> None:
    with pytest.raises(ArgumentError, match=f"the chat template of this tokenizer has no '{next(iter(arguments))}'"):
        plain.prompt(chat="Hi", **arguments)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
NAMED = FULL.replace("<{{ m.role }}>", "<{{ m.role }}{{ m.name and '/' + m.name }}>")
WHOLE = "{% for m in messages %}{{ m | tojson }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message", "key"),
    [
        (PLAIN, CALL, "tool_calls"),
        (PLAIN, {**CALL, "content": "Let me see"}, "tool_calls"),
        (PLAIN, {**user("Hi"), "name": "Alice"}, "name"),
        (FULL, {**user("Hi"), "name": "Alice"}, "name"),  # it names the names of tools
        (PLAIN, {**user("Hi"), "contents": "Ho"}, "contents"),
        (FULL, {**assistant("Hi"), "reasoning_content": "hm"}, "reasoning_content"),
    ],
)
def test_what_the_template_does_not_read_of_a_message_is_not_dropped(template, message, key) -> None:
    told = rf"does not read '{key}' of chat\[1\], whose role is '{message['role']}', so that it would be dropped"
    with pytest.raises(ArgumentError, match=told):
        make(template).prompt(chat=[user("a"), message, user("b")])


def test_a_role_that_the_template_passes_over_is_refused() -> None:
    knows = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}{% endif %}"
    lm = make(f"{knows}{{% endfor %}}")
    with pytest.raises(ArgumentError, match=r"does not read messages whose role is 'sytem', such as chat\[0\]"):
        lm.prompt(chat=[{"role": "sytem", "content": "Be"}, user("Hi")])
    assert written(make(PLAIN), [{"role": "sytem", "content": "Be"}]) == "<sytem>Be</s><assistant>"


@pytest.mark.parametrize(
    ("template", "message", "text"),
    [
        (PLAIN, {**assistant("Hi"), "tool_calls": None, "refusal": None, "annotations": []}, "<assistant>Hi</s>"),
        (PLAIN, {"role": "tool", "content": "5", "name": "f", "tool_call_id": "1"}, "<tool>5</s>"),
        (FULL, CALL, "<assistant>call f</s>"),
        (NAMED, {**user("Hi"), "name": "Alice"}, "<user/Alice>Hi</s>"),
        (WHOLE, {**user("Hi"), "name": "Alice"}, '"name": "Alice"'),
    ],
)
def test_what_says_nothing_and_what_the_template_reads_may_be_in_a_message(template, message, text) -> None:
    assert text in written(make(template), [user("a"), message, user("b")])


ASKED = {"place": "Zürich", "days": [1, 2]}
JSON = '{"place": "Zürich", "days": [1, 2]}'
ADDS = FULL.replace("{{ c.function.name }}", "{{ c.function.name + ' ' + c.function.arguments }}")


@pytest.mark.parametrize("given", [ASKED, JSON, json.dumps(ASKED)], ids=["dict", "JSON", "ASCII"])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        (FULL.replace("c.function.name", "c.function.arguments | tojson"), f"call {JSON}<"),
        (FULL.replace("c.function.name", "c | tojson"), f'"arguments": {JSON}'),
        (FULL.replace("c.function.name", "c.function.arguments.place"), "call Zürich<"),
        (FULL.replace("c.function.name", "c.function.arguments"), "call {"),  # as it was given, if that was JSON
        (ADDS, "call f {"),  # raises where it gets a dict
    ],
)
def test_arguments_of_calls_are_given_as_the_template_reads_them(template, text, given) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": given}}]}
    found = written(make(template), [user("a"), call, user("b")])
    assert text in found and "'" not in found and r"\"" not in found
    assert call["tool_calls"][0]["function"]["arguments"] is given


@pytest.mark.parametrize("given", ["no JSON", "[1]", "{}", {}, None, 3])
def test_arguments_that_are_no_json_of_an_object_are_given_as_they_are(given) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": given}}]}
    lm = make(FULL.replace("c.function.name", "c.function.arguments"))
    assert f"call {given}<" in written(lm, [user("a"), call, user("b")])


def test_a_message_without_content_that_the_template_wants_is_named() -> None:
    lm = make(PLAIN.replace("m['content']", "'' + m['content'] + (m.tool_calls or '') | string"))
    with pytest.raises(ArgumentError, match=r'UndefinedError.*; chat\[1\] has no "content": give it one, such as ""'):
        lm.prompt(chat=[user("a"), CALL, user("b")])


def test_a_template_that_raises_is_named_with_its_cause() -> None:
    lm = make(STRICT)
    with pytest.raises(ArgumentError, match="does not take this chat: TemplateError: begin with the user") as error:
        lm.prompt(chat=[{"role": "system", "content": "Be"}])
    assert error.value.__cause__ is not None
    with pytest.raises(ArgumentError, match="TemplateError: begin with the user"):
        lm.prompt(chat=[assistant("Sure")])
    with pytest.raises(ArgumentError, match="does not take this chat: TemplateSyntaxError"):
        make("{% for m in messages %}").prompt(chat="Hi")


def test_a_tokenizer_with_several_templates_and_no_default_is_refused() -> None:
    lm = make(PLAIN)
    lm.tokenizer.chat_template = {"tool_use": FULL, "rag": PLAIN}
    with pytest.raises(ModelError, match="the chat templates of"):
        lm.prompt(chat="Hi")
    lm.tokenizer.chat_template = {"tool_use": FULL, "default": PLAIN}
    assert written(lm, "Hi") == "<user>Hi</s><assistant>"
    assert written(lm, "Hi", tools=[SCHEMA]) == "[look_up:city]<user>Hi</s><assistant>"


def test_the_demos_template_continues(smollm2) -> None:
    lm = fk.CausalLM.from_pretrained(str(smollm2))
    assert written(lm, [user("Hi"), assistant("Sure, the answer is")]).endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSure, the answer is"
    )
