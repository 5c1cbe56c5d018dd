"""JSON schemas and grammars: exact masks, bounded memory, and one clear error for all that cannot be enforced."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ArgumentError, ConstraintError
from feynkac.base.masks import unpack
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials import grammar, json_schema
from feynkac.potentials.constraints.engines.llguidance import table
from feynkac.potentials.constraints.engines.llguidance.table import GuideAutomaton

JSON = Vocabulary(
    (b"", b"{", b"}", b'"', b'"a"', b"a", b'":', b":", b"1", b"12", b" ", b"a", b"true", b"", b",", b"[", b"]", b"[1"),
    (0, 13),
)


guided = partial(grammar, engine="llguidance")


def valid(schema: Any, text: bytes) -> bool:
    """White space is free between the parts of a JSON text, but not around it."""
    try:
        whole = text.decode()
        value = json.loads(whole)
    except ValueError:
        return False
    return whole == whole.strip() and not list(jsonschema.Draft202012Validator(schema).iter_errors(value))


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [1, "a", True, 12]},
        {"const": {"a": 1}},
        {"type": "object", "properties": {"a": {"type": "integer", "maximum": 11}}, "additionalProperties": False},
        {"type": "array", "items": {"enum": [1, True]}, "minItems": 1, "maxItems": 2},
        {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "array"}, "maxItems": 1}]},
        {"type": "string", "pattern": "^a{0,2}1?$"},
    ],
    ids=json.dumps,
)
def test_masks_of_schemas_are_exact(explore: Any, schema: Any) -> None:
    automaton = json_schema(schema).automaton(JSON)
    explore(automaton, JSON).check(lambda text: valid(schema, text), depth=3)


def test_a_whole_object_is_accepted_with_and_without_space(explore: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    object_of = explore(json_schema(schema).automaton(JSON), JSON)
    for tokens in ([1, 4, 7, 9, 2], [1, 3, 5, 6, 8, 2], [1, 10, 3, 11, 3, 10, 7, 10, 8, 8, 10, 2]):
        state = 0
        for token in tokens:
            assert token in object_of.allowed(state)
            assert not object_of.accepts(state)
            state = object_of.after(state, token)
        assert object_of.accepts(state)
        assert object_of.allowed(state) == {0, 13}
        assert valid(schema, JSON.bytes(tokens))


def nested(text: bytes) -> bool:
    half = len(text) // 2
    return text == b"(" * half + b"x" + b")" * half


def test_masks_of_a_recursive_grammar_are_exact(explore: Any) -> None:
    vocabulary = Vocabulary((b"(", b")", b"((", b"x)", b"x", b"(x", b"))", b"", b"(", b"y"), (7,))
    automaton = grammar('start: "(" start ")" | "x"').automaton(vocabulary)
    explore(automaton, vocabulary).check(nested, depth=4)


def test_forced_texts_may_be_spelled_in_every_way(explore: Any) -> None:
    """llguidance's own default would allow the canonical token only."""
    tokens = (b"h", b"he", b"hel", b"hell", b"hello", b"e", b"l", b"o", b" ", b"w", b"world", b"o", b"")
    vocabulary = Vocabulary(tokens, (12,))
    for constraint in (grammar('start: "hello world"'), grammar('start: "hello" " " "world"')):
        automaton = explore(constraint.automaton(vocabulary), vocabulary)
        assert automaton.allowed(0) == {0, 1, 2, 3, 4}
        assert automaton.allowed(automaton.after(0, 3)) == {7, 11}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text("ab é", max_size=4), min_size=1, max_size=4))
def test_a_list_of_texts_in_a_grammar(explore: Any, texts: list[str]) -> None:
    vocabulary = Vocabulary((b"a", b"b", b"ab", b" ", b"\xc3", b"\xa9", "é".encode(), b"a", b"", b"\xa9b"), (8,))
    lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    explore(grammar(lark).automaton(vocabulary), vocabulary).check(
        lambda text: text in [each.encode() for each in texts], depth=3
    )


def test_the_lexer_is_greedy(explore: Any) -> None:
    """As documented: a limit of the engine, which would be news if it went away."""
    vocabulary = Vocabulary((*(bytes([c]) for c in b"listend"), b""), (7,))
    automaton = explore(
        grammar('start: STEM SUFFIX\nSTEM: "list"|"listen"\nSUFFIX: "ed"', engine="llguidance").automaton(vocabulary),
        vocabulary,
    )
    state = 0
    for byte in b"listed":
        state = automaton.after(state, vocabulary.tokens.index(bytes([byte])))
    assert state == -1 or not automaton.accepts(state)


def test_without_an_end_of_sequence_there_is_no_bit_for_it(explore: Any) -> None:
    vocabulary = Vocabulary((b"a", b"b"), ())
    automaton = explore(grammar('start: "a" "b"?').automaton(vocabulary), vocabulary)
    assert automaton.allowed(0) == {0}
    assert automaton.accepts(automaton.after(0, 0))
    assert automaton.allowed(automaton.after(0, 0)) == {1}


@pytest.mark.parametrize(
    ("schema", "culprit"),
    [
        ({"type": "string", "minLength": 5, "maxLength": 2}, r"minLength \(5\) is greater than maxLength \(2\)"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "pattern": "a(b"}, "unclosed group"),
        ({"$ref": "#/$defs/q"}, "'/\\$defs/q' does not exist"),
        ({"$ref": "http://nowhere/schema"}, "nowhere"),
        ("false", "schema is false"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_where_it_is_written(schema: Any, culprit: str) -> None:
    with pytest.raises(ConstraintError, match=culprit) as error:
        json_schema(schema)
    assert str(error.value).startswith("json_schema(")
    assert "llguidance {" not in str(error.value) and "start:" not in str(error.value)


def test_bad_arguments() -> None:
    with pytest.raises(ConstraintError, match="no JSON"):
        json_schema("{a")
    with pytest.raises(ArgumentError, match="a dict, or as a JSON text"):
        json_schema([1])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="is no JSON"):
        json_schema({"const": {1, 2}})
    with pytest.raises(ArgumentError, match="as text"):
        grammar(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lark", "culprit"),
    [
        ('start: "a" b', "line 1, column 12: b: there is no rule of this name"),
        ('start: "a', "line 1"),
        ('start: x\nx: "a" |\n y', "line 3"),
        ('start: start "a"', "line 1, column 1: no text derives from start"),
        ('start: "z"', "no sequence of this vocabulary's tokens"),
        ('a: "a"', "start"),
        ("start: /a(?=b)/", "look-around"),
        ("start: foo", "line 1, column 8: foo: there is no rule"),
        ('start: "a\ud800"', "half of a character"),
        ('start: "a" <|im_end|>', r"line 1: <\|im_end\|> is a special token, which has no text"),
        ('start: x\nx: "<a>" /<b>/ <[3]> // <c>', r"line 2: <\[3\]> is a special token"),
    ],
)
def test_wrong_grammars_are_refused_with_the_place(lark: str, culprit: str) -> None:
    with pytest.raises(ConstraintError, match=culprit) as error:
        grammar(lark).automaton(JSON)
    assert "no_forcing" not in str(error.value) and "backtrace" not in str(error.value)


@pytest.mark.parametrize(
    "lark",
    [
        "start: " + "(" * 3000 + '"a"' + ")" * 3000,
        "start: /" + "(" * 3000 + "a" + ")" * 3000 + "/",
        'start: "a" b' + ' "c"' * 4000,
        'start: "a"' + ' "c"' * 4000 + " b",
        f'start: "{"c" * 9000}" {"x" * 9000}',
        "start: b\n" * 4000,
        ["a" * 9000],
    ],
    ids=range(7),
)
def test_an_error_of_a_long_grammar_is_short(lark: Any) -> None:
    with pytest.raises((ConstraintError, ArgumentError)) as error:
        grammar(lark)
    assert 60 < len(str(error.value)) < 1100 and str(error.value).startswith("grammar(")


def test_what_is_wrong_in_a_long_line_is_what_is_shown() -> None:
    with pytest.raises(ConstraintError) as error:
        grammar(f'start: x\nx: "{"c" * 5000}" ("a" )) "{"d" * 5000}"')
    source, mark = str(error.value).splitlines()[-2:]
    assert mark.strip() == "^" and source[mark.index("^") - 1 :].startswith(")") and len(source) < 140


@pytest.mark.parametrize("lark", ['start: "<a>" /<b>/ // <c>', 'start: x\nx: "\\"<a>"', "start: /\\/<b>/"])
def test_angle_brackets_in_quotes_are_text(lark: str) -> None:
    grammar(lark)


@pytest.mark.parametrize("lark", ["start: foo", 'start: "a', 'a: "a"'])
def test_a_wrong_grammar_is_refused_where_it_is_written(lark: str) -> None:
    with pytest.raises(ConstraintError):
        grammar(lark)


def test_a_resource_limit_is_an_error_and_not_an_end() -> None:
    from llguidance import LLMatcher, LLParserLimits

    from feynkac.potentials.constraints.engines.llguidance.matchers import find_tokenizer

    lark = 'start: /(a|b)*a(a|b){14}/\n%llguidance {"no_forcing": true}'
    limited = LLMatcher(find_tokenizer(JSON), lark, log_level=0, limits=LLParserLimits(max_lexer_states=20))
    vocabulary = JSON
    with pytest.raises(ConstraintError, match=r"'few': llguidance gave up after \d+ tokens.*make the grammar simpler"):
        automaton = GuideAutomaton(limited, vocabulary, "'few'")
        states = np.zeros(1, dtype=np.int64)
        for _ in range(40):
            automaton.masks(states)
            states = automaton.advance(states, np.array([5]))


def test_a_dead_end_kills_one_branch_only(explore: Any) -> None:
    """With these tokens nothing spells what follows "ab"; the sibling goes on."""
    vocabulary = Vocabulary((b"a", b"b", b"c", b""), (3,))
    automaton = explore(guided('start: "a" "b" "z" | "a" "c" "c"').automaton(vocabulary), vocabulary)
    one, two = automaton.after(automaton.after(0, 0), 1), automaton.after(automaton.after(0, 0), 2)
    assert automaton.allowed(one) == set() and one > 0
    assert automaton.allowed(two) == {2}
    assert automaton.accepts(automaton.after(two, 2))
    assert automaton.after(one, 0) == -1 and not automaton.accepts(one)


def test_equal_paths_share_a_state() -> None:
    automaton = guided("start: /[ab]*/").automaton(Vocabulary((b"a", b"b", b""), (2,)))
    states = automaton.advance(np.zeros(4, dtype=np.int64), np.array([0, 1, 0, 2]))
    assert states[0] == states[2] != states[1]
    assert states[3] == -1
    again = automaton.advance(np.zeros(2, dtype=np.int64), np.array([1, 0]))
    assert again.tolist() == [states[1], states[0]]
    assert automaton.masks(np.array([-1])).sum() == 0
    assert automaton.advance(np.array([-1, 0, 0]), np.array([0, -1, 99])).tolist() == [-1, -1, -1]


def test_forgotten_matchers_and_masks_are_remade(monkeypatch: pytest.MonkeyPatch, explore: Any) -> None:
    for name in ("_ROWS", "_MATCHERS", "_CHILDREN"):
        monkeypatch.setattr(table, name, 1)
    vocabulary = Vocabulary((b"(", b")", b"((", b"x)", b"x", b"(x", b"))", b"", b"(", b"y"), (7,))
    automaton = guided('start: "(" start ")" | "x"').automaton(vocabulary)
    explore(automaton, vocabulary).check(nested, depth=3)
    assert isinstance(automaton, GuideAutomaton)
    assert max(len(automaton._rows), len(automaton._matchers), len(automaton._remade)) <= 4


def test_memory_is_bounded_and_old_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_PATHS", 2048)
    vocabulary = Vocabulary((b"a", b"b", b""), (2,))
    automaton = guided("start: /[ab]*/").automaton(vocabulary)
    rng = np.random.default_rng(0)
    states = np.zeros(16, dtype=np.int64)
    first = automaton.advance(states, np.zeros(16, dtype=np.int64))
    for _ in range(400):
        automaton.masks(np.unique(states))
        states = automaton.advance(states, rng.integers(0, 2, 16))
    assert (states > 2048).all() and automaton.accepts(states).all() and automaton.accepts(np.zeros(1, np.int64)).all()
    assert isinstance(automaton, GuideAutomaton) and len(automaton._paths._table) == 2048
    with pytest.raises(ConstraintError, match="older than 2048 others"):
        automaton.accepts(first)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["new", "née", "x\n"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_walks_over_a_real_vocabulary_end_in_valid_json(smollm2: Any) -> None:
    from tokenizers import Tokenizer

    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_file(str(smollm2 / "tokenizer.json")), eos=[0, 2])
    automaton, rng = json_schema(PERSON).automaton(vocabulary), np.random.default_rng(0)
    states, texts, finished = np.zeros(24, dtype=np.int64), [[] for _ in range(24)], 0
    for _ in range(60):
        allowed = unpack(automaton.masks(states), vocabulary.size)
        assert (automaton.accepts(states) == allowed[:, [0, 2]].T).all()
        sampled = rng.integers(0, vocabulary.size, 50)
        for i in np.flatnonzero(~allowed[:, [0]].any(axis=1))[:3]:
            after = automaton.advance(np.repeat(states[i], 50), sampled)
            np.testing.assert_array_equal(after >= 0, allowed[i][sampled])
        for i in np.flatnonzero(automaton.accepts(states)):
            jsonschema.validate(json.loads(vocabulary.text(texts[i])), PERSON)
            states[i], texts[i], finished = 0, [], finished + 1
        allowed = unpack(automaton.masks(states), vocabulary.size)
        # Structure is rare among the allowed tokens: prefer it, so that objects get done.
        tokens = [_pick(rng, np.flatnonzero(row), vocabulary) for row in allowed]
        states = automaton.advance(states, np.array(tokens))
        assert (states > 0).all()
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
    assert finished >= 5


def _pick(rng: np.random.Generator, allowed: np.ndarray, vocabulary: Vocabulary) -> int:
    structure = [v for v in allowed[:2000] if vocabulary.tokens[v] in (b'"', b"}", b'",', b'":', b'":"', b'"}')]
    return int(rng.choice(structure if structure and rng.random() < 0.6 else allowed))


@pytest.mark.parametrize("size", [255, 256])  # llguidance's own may have one token more, and one more word of 32
def test_states_that_are_asked_about_together_are_as_each_alone(size: int) -> None:
    vocabulary = Vocabulary(tuple(bytes([b]) for b in range(size)), ())
    tokens = np.array([*b"abcdefghijklmnopqrst", 200])
    together, alone = (guided('start: ("a".."m") "x" | ("n".."s") /[y-z]+/').automaton(vocabulary) for _ in range(2))
    states = together.advance(np.zeros(len(tokens), np.int64), tokens)
    own = np.array([alone.advance(np.zeros(1, np.int64), tokens[[i]])[0] for i in range(len(tokens))])
    assert ((states >= 0) == (own >= 0)).all()
    assert (states >= 0).tolist() == [True] * 19 + [False] * 2
    np.testing.assert_array_equal(together.masks(states), [alone.masks(own[[i]])[0] for i in range(len(own))])
    following = np.where(tokens < ord("n"), ord("x"), ord("y"))
    after = together.advance(states, following)
    assert together.accepts(after).tolist() == [True] * 19 + [False] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_masks_with_threads_of_its_own() -> None:
    vocabulary = Vocabulary(tuple(bytes([b]) for b in range(255)), ())
    automaton = guided('start: ("a".."z") "x"').automaton(vocabulary)
    states = automaton.advance(np.zeros(20, np.int64), np.arange(97, 117))
    expected = automaton.masks(states)
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            again = guided('start: ("a".."z") "x"').automaton(vocabulary)
            found = again.masks(again.advance(np.zeros(20, np.int64), np.arange(97, 117)))
            os.write(write, b"1" if (found == expected).all() else b"0")
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    os.close(read)
