"""Calls of potentials and of language models."""

from __future__ import annotations

from typing import Any

from guard import INPUTS

import feynkac as fk
from calls.world import Call, World


def list_language(world: World) -> dict[str, Call]:
    """Potentials on texts, in a run; language models, and what they are asked."""
    return {**_potentials(world), **_models(world)}


def _potentials(world: World) -> dict[str, Call]:
    run, lm, task, one = world.run, world.lm, world.task, world.one
    slow = {"workers": None, "timeout": None, "on_error": "raise", "retries": None}
    return {
        "regex": Call(fk.regex, {"pattern": "a*"}, run),
        "json_schema": Call(fk.json_schema, {"schema": {"type": "string"}}, run),
        "grammar": Call(fk.grammar, {"lark": 'start: "a"*'}, run),
        "choices": Call(fk.choices, {"options": ["a", "ab"]}, run),
        "tokens": Call(fk.tokens, {"ban": ["b"]}, run),
        "length": Call(fk.length, {"min": 1, "max": 2}, run),
        "after": Call(fk.after, {"marker": "a", "constraint": one}, run),
        "canonical": Call(fk.canonical, {}, run),
        "sql": Call(fk.sql, {"kinds": ["select"]}, many="kinds"),
        "python": Call(fk.python, {"part": "expression"}, run),
        "phrases": Call(fk.phrases, {"ban": ["ab"]}, run),
        "parser": Call(fk.parser, {"advance": lambda n, byte: n + 1, "start": 0, "accepts": lambda n: True}, run),
        "wfsa": Call(fk.wfsa, {"transitions": [(0, "a", 0, 0.5)], "start": 0, "final": 0}, run),
        "lazy": Call(fk.lazy, {"f": lambda text: len(text) < 3}, run),
        "lazy parser": Call(fk.lazy, {"f": lambda n, text: n, "start": 0, "accepts": lambda n: True}, run),
        "constraint": Call(fk.constraint, {"f": lambda text: True, **slow}, run),
        "reward": Call(fk.reward, {"f": len, **slow}, run),
        "batched reward": Call(fk.reward, {"f": lambda texts: [0.0] * len(texts), "batch": True, **slow}, run),
        "process_reward": Call(fk.process_reward, {"f": len, "every": "word"}, run),
        "twist": Call(fk.twist, {"f": len}, run),
        "similarity": Call(fk.similarity, {"to": "a", "model": _Encoder()}, run),
        "judge": Call(fk.judge, {"lm": lm, "question": lambda text: "a", "answers": ("a", "b")}, run),
        "power": Call(fk.power, {"alpha": 2.0}, run),
        "expert": Call(fk.expert, {"prompt": task}, run),
        "mixture": Call(fk.mixture, {"prompts": [task, task]}, run),
        "product": Call(fk.product, {"potentials": [one, len]}, run, many="potentials"),
        "a power of a potential": Call(lambda exponent: world.score**exponent, {"exponent": 0.5}, run),
        "a product with": Call(lambda other: world.score * other, {"other": one}, run),
        "what a reward returns": Call(lambda value: fk.reward(lambda text: value), {"value": 1.0}, run),
        "what a constraint returns": Call(lambda value: fk.constraint(lambda text: value), {"value": True}, run),
        "what a batch returns": Call(lambda value: fk.reward(lambda texts: value, batch=True), {"value": [0.0]}, run),
        "what a lazy check returns": Call(
            lambda value: fk.lazy(lambda text: True if not text else value), {"value": True}, run
        ),
        "what a parser returns": Call(lambda value: fk.parser(lambda state, byte: value, 0), {"value": 1}, run),
        "what a level returns": Call(lambda value: _Returns(value), {"value": 0.0}, run),
    }


def _models(world: World) -> dict[str, Call]:
    lm, task = world.lm, world.task
    return {
        "prompt": Call(lm.prompt, {"text": "a", "max_tokens": 2}, world.run_task),
        "chat": Call(lm.prompt, {"chat": "a", "max_tokens": 2}, world.run_task),
        "tokens of a prompt": Call(lm.prompt, {"tokens": [1, 2], "max_tokens": 2}, world.run_task),
        "context": Call(lm.context, {"text": "a"}),
        "score": Call(lm.score, {"prompt": "a", "texts": ["a", "b"]}),
        "score_answers": Call(lm.score_answers, {"questions": ["a"], "answers": ["a"]}),
        "remember": Call(lm.remember, {"prompt": "a"}),
        "edited": Call(lm.edited, {"edits": []}, many="edits"),
        "CausalLM": Call(fk.CausalLM, {"model": lm.model, "tokenizer": lm.tokenizer, "eos": [0]}),
        "from_pretrained": Call(fk.CausalLM.from_pretrained, {"name": "/no/such/folder"}),
        "bytewise": Call(fk.bytewise, {"lm": lm}, lambda made: world.run_task(made.prompt("a", max_tokens=2))),
        "ensemble": Call(fk.ensemble, {"prompts": [task, task]}, world.run_task),
        "ServedLM": Call(fk.ServedLM, {"base_url": "http://127.0.0.1:9/v1", "model": "a"}),
        **({"demo": Call(fk.CausalLM.demo)} if INPUTS else {}),  # takes a second, and half a gigabyte
        "demo of diffusion": Call(fk.Diffusion.demo, {"steps": 2}, lambda model: fk.steer(model, particles=2, seed=0)),
        "Diffusion": Call(fk.Diffusion.from_pipeline, {"pipe": None}),
    }


class _Encoder:
    def encode(self, texts: list[str]) -> Any:
        import numpy as np

        return np.array([[1.0, len(text)] for text in texts])


class _Returns:
    """A potential of one's own, whose levels are whatever it was given."""

    name = "returns"

    def __init__(self, value: Any) -> None:
        self.value = value

    def level(self, t: int, state: Any, rows: Any) -> Any:
        return self.value

    final = lambda self, state, rows: self.value  # noqa: E731
