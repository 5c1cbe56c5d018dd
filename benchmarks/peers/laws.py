"""What each task asks for: its law, and what a text of it must be. Every environment reads this."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

PROMPT = (
    "The weather today is one of the few things that strangers will talk about while they wait for a train, and so it "
    "has to carry more than it was made for: boredom, kindness, the wish to be left alone, a first attempt at love. "
)
"""Prompts of a given length are the first tokens of this, repeated."""
NO_E = r"[ -DF-df-~]*"
"""Printable ASCII without the letter e."""
LONGEST = 5
SHORT_WORDS = rf"([A-Za-z]{{0,{LONGEST}}}[ -@\[-`{{-~])*[A-Za-z]{{0,{LONGEST}}}"
"""Printable ASCII in which no word has more than `LONGEST` letters."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 16},
        "people": {"type": "integer", "minimum": 0},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "people", "capital"],
    "additionalProperties": False,
}
JSON_PROMPT = """<|im_start|>user
Lyon: {"city": "Lyon", "people": 520000, "capital": false}
Oslo: {"city": "Oslo", "people": 720000, "capital": true}
Now for Rome, one line of JSON.<|im_end|>
<|im_start|>assistant
"""
"""A turn of a chat ends behind the JSON. Elsewhere a line end is likelier, where genlm-control is at a dead end."""
DESERT = "A weather report from the desert. The weather today is"
COAST = "A weather report from the coast. The weather today is"
NIGHT = "It was a dark and windy night, and"
PEOPLE = """Records of people, one on each line.
 {"name": "Ada Lovelace", "age": 36, "tags": ["maths", "poetry"]}
 {"name": "Alan Turing", "age": 41, "tags": ["logic"]}
"""
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
CHECKS = {
    "words": r"( [a-z]{2,9})+[.!?]",
    "date": rf" ({MONTHS}) \d\d?, \d{{4}}\.",
    "schema": r' \{"name": "[A-Za-z ]{1,20}", "age": (0|[1-9]\d{0,2}), "tags": \[("[a-z]+"(, "[a-z]+"){0,3})?\]\}',
}
"""Patterns that a task asks about one text at a time; a text that is none yet may still become one."""
LAWS = {
    "plain": "the model's own; the end of sequence is a token that may not come",
    "no_e": "p(text) of texts of T tokens in printable ASCII without the letter e",
    "words": f"p(text) of texts of T tokens in printable ASCII, no word of more than {LONGEST} letters",
    "json": "p(text) of JSON under a schema; which spaces may stand between is each library's own choice",
    "product": "p(text | one prompt) p(text | another prompt), of texts of T tokens",
    "critic": "p(text) exp(0.3 times the letters s), of texts of T tokens",
    "costly": "as critic, by a function that takes 500 microseconds a call",
    "power": "p(text)^alpha, of texts of T tokens",
    "lazy": "p(text) of texts that a function accepts, asked about one text at a time, which end within T tokens",
}


def reward(text: str) -> float:
    """The critic's opinion in nats."""
    return 0.3 * text.count("s")


def reward_slowly(text: str) -> float:
    """The same opinion, after 500 microseconds of work."""
    until = time.perf_counter() + 500e-6
    while time.perf_counter() < until:
        pass
    return reward(text)


class Count:
    """A function that counts its calls."""

    def __init__(self, f: Callable[[str], Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, text: str) -> Any:
        self.calls += 1
        return self.f(text)


def make_critic(task: str) -> Count:
    """The critic of a task, which counts its calls."""
    return Count(reward_slowly if task == "costly" else reward)


def find_prompt(option: str) -> str:
    """The prompt of texts that a check is asked about."""
    return PEOPLE if option == "schema" else NIGHT


class Check:
    """A check of texts so far and of whole ones, by a name in `CHECKS`; `calls` counts both."""

    def __init__(self, name: str) -> None:
        import regex

        self._pattern, self.calls = regex.compile(CHECKS[name]), 0

    def prefix(self, text: str) -> bool:
        self.calls += 1
        return self._pattern.fullmatch(text, partial=True) is not None

    def complete(self, text: str) -> bool:
        self.calls += 1
        return self._pattern.fullmatch(text) is not None


def is_valid(task: str, text: str, option: str = "") -> bool:
    """Whether a whole text is one that the task allows."""
    if task == "json":
        return _meets_schema(text)
    patterns = {"no_e": NO_E, "words": SHORT_WORDS, "lazy": CHECKS.get(option, "")}
    return task not in patterns or re.fullmatch(patterns[task], text) is not None


def _meets_schema(text: str) -> bool:
    from jsonschema import Draft202012Validator

    try:
        return Draft202012Validator(SCHEMA).is_valid(json.loads(text))
    except ValueError:
        return False
