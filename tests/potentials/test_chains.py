"""Definitions that lead into each other so deep that llguidance would crash the process are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

import feynkac as fk
from feynkac.base.errors import ConstraintError
from feynkac.potentials.constraints.engines.llguidance.chains import MOST, find_longest, find_rule_chain
from feynkac.potentials.constraints.schemas.walking import find_reach


def references(n: int, wrap: Any = lambda reference: reference) -> dict[str, Any]:
    """A schema that leads through n references to null."""
    chain = {f"a{i}": wrap({"$ref": f"#/$defs/a{i + 1}"}) for i in range(n)}
    return {"$ref": "#/$defs/a0", "$defs": {**chain, f"a{n}": {"type": "null"}}}


def rules(n: int, name: str = "r") -> str:
    chain = "".join(f"{name}{i}: {name}{i + 1}\n" for i in range(n))
    return f'start: {name}0\n{chain}{name}{n}: "a"\n'


@pytest.mark.parametrize("n", [3_000, 10_000])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"items": one}, lambda one: {"anyOf": [one, {}]}])
def test_a_schema_whose_references_lead_too_deep_is_refused(n, wrap) -> None:
    for schema in (references(n, wrap), json.dumps(references(n, wrap))):
        with pytest.raises(ConstraintError, match=f"more than {MOST} schemas deep"):
            fk.json_schema(schema)
    with pytest.raises(ConstraintError, match="references of a schema in it"):
        fk.grammar(f"start: %json {json.dumps(references(n, wrap))}")


@pytest.mark.parametrize("name", ["r", "R"])
def test_a_grammar_of_llguidance_whose_rules_lead_too_deep_is_refused(name) -> None:
    with pytest.raises(ConstraintError, match=f"more than {MOST} deep into each other"):
        fk.grammar(rules(3_000, name), engine="llguidance")
    assert fk.grammar(rules(200, name), engine="llguidance").list_texts(3) == ["a"]


def test_chains_of_some_hundred_and_references_that_lead_back_are_followed() -> None:
    assert find_reach(references(400)) <= MOST and fk.json_schema(references(400)).list_texts(3) == ["null"]
    tree = {
        "type": "object",
        "properties": {"next": {"$ref": "#"}},
        "$defs": {"a/b": {"$ref": "#here", "$anchor": "here"}},
    }
    assert find_reach(tree) < 10 and find_reach({"$ref": "http://elsewhere/x"}) < 10 and find_reach(True) < 10
    assert (
        find_reach({"$ref": "x#/$defs/a", "$defs": {"b": {"$id": "x", "$defs": {"a": {"items": {"items": {}}}}}}}) >= 5
    )
    assert find_rule_chain('?start: a | "x: y"\n!a.2: start b{c}\nb{x}: x\nc[capture]: D\nD: /e/') == 4


def test_the_longest_chain_is_found_whatever_comes_first() -> None:
    assert find_rule_chain("") == find_rule_chain("nothing here") == 0
    inner = {"a": [("b", 1), ("c", 2)], "b": [("c", 5)], "c": [("a", 1)], "d": [("a", 1)]}
    assert find_longest(["a"], lambda name: (1, inner[name])) == 1 + 5 + 1
    assert find_longest(["c", "d"], lambda name: (1, inner[name])) >= 7
    assert find_longest(["0"], lambda name: (1, [(str(int(name) + 1), 1)])) == MOST + 1  # without end
