"""Calls within programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import feynkac as fk
from calls.world import Call, World, look

COIN = fk.Bernoulli(0.5)


def list_programs(world: World) -> dict[str, Call]:
    """Each as the only line of a program."""
    inside = world.in_program
    found = {
        "sample": lambda p, text, dist=COIN, proposal=None: p.sample(dist, proposal),
        "observe": lambda p, text, dist=COIN, value=True: p.observe(dist, value),
        "observe a token": lambda p, text, value="a": p.observe(text.next_token(), value),
        "condition": lambda p, text, holds=True: p.condition(holds),
        "factor": lambda p, text, log_weight=0.0: p.factor(log_weight),
        "twist of a program": lambda p, text, log_weight=0.0: p.twist(log_weight),
        "call": lambda p, text, program=lambda p: 1: p.call(program),
        "once": lambda p, text, f=len, value="a": p.once(f, value),
        "Bernoulli": lambda p, text, probability=0.5: p.sample(fk.Bernoulli(probability)),
        "Categorical": lambda p, text, probabilities=(1, 2): p.sample(fk.Categorical(probabilities)),
        "logits of Categorical": lambda p, text, logits=(1, 2): p.sample(fk.Categorical(logits=logits)),
        "Geometric": lambda p, text, probability=0.5: p.sample(fk.Geometric(probability)),
        "Normal": lambda p, text, mean=0.0, sd=1.0: p.sample(fk.Normal(mean, sd)),
        "Uniform": lambda p, text, low=0.0, high=1.0: p.sample(fk.Uniform(low, high)),
        "observed numbers": lambda p, text, value=1: [
            p.observe(each, value) for each in (fk.Normal(), fk.Uniform(), fk.Geometric(0.5), fk.Categorical([1, 2]))
        ],
        "mask": lambda p, text, tokens=("a",), or_end=False: p.sample(text.mask(tokens, or_end=or_end)),
        "observe_text": lambda p, text, given="ab": text.observe_text(given),
        "log_prob": lambda p, text, given="ab": text.log_prob(given),
        "append": lambda p, text, given="ab": text.append(given),
        "draft": lambda p, text, ahead=None, tokens=2: p.sample(text.draft(ahead or text.fork(), tokens)),
        "text from": lambda p, text, start=0: text.text(start),
    }
    spans = {"constraint": world.one, "regex": "a*", "json_schema": {"type": "string"}, "choices": ["a", "b"]}
    spans |= {"until": "b", "unit": "word"}
    calls = {name: Call(inside(act), {}, look) for name, act in found.items()}
    calls["what a program returns"] = Call(inside(lambda p, text, value=1: value), {}, world.write)
    for name, right in spans.items():
        calls[f"gen({name}=)"] = Call(inside(_span(name, right)), {}, look)

    def make(function: Any, max_steps: Any, max_tokens: Any) -> Any:
        return fk.program(max_steps=max_steps, max_tokens=max_tokens)(function)

    whole = {"function": lambda p: 1, "max_steps": 5, "max_tokens": 5}
    calls["program"] = Call(make, whole, lambda made: look(fk.steer(made(), particles=2, seed=0)))
    return calls


def _span(name: str, right: Any) -> Callable[..., Any]:
    return lambda p, text, given=right, max_tokens=3: p.sample(text.gen(**{name: given}, max_tokens=max_tokens))
