"""Everything public that takes arguments: a call of each that works, and what is then done with what it gives."""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard import INPUTS

import feynkac as fk

COIN = fk.Bernoulli(0.5)


@dataclass(frozen=True)
class Call:
    """A function, arguments with which it works, and what its value is then used for."""

    function: Callable[..., Any]
    valid: Mapping[str, Any] = field(default_factory=dict)
    use: Callable[[Any], Any] = lambda value: None
    many: str | None = None
    """The parameter that takes any number of arguments, if one does: its entry in `valid` is a list."""

    @property
    def names(self) -> list[str]:
        """The parameters that a hostile value may be given to."""
        known = inspect.signature(self.function).parameters.values()
        taken = [each.name for each in known if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        return [name for name in dict.fromkeys([*taken, *self.valid]) if name != self.many]

    def make(self, given: Mapping[str, Any]) -> Any:
        """Call it with `given` in the place of what works, and use the value."""
        arguments = {**self.valid, **given}
        several = arguments.pop(self.many, []) if self.many else []
        first = [arguments.pop(name) for name in list(self._positional) if name in arguments]
        value = self.function(*first, *several, **arguments)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            self.use(value)
        return value

    @property
    def _positional(self) -> list[str]:
        known = inspect.signature(self.function).parameters.values()
        first = [each for each in known if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        return [each.name for each in first] if self.many else [e.name for e in first if e.kind is e.POSITIONAL_ONLY]


class World:
    """What the calls are about: one tiny model, a task, a result."""

    def __init__(self, make_lm: Callable[..., Any]) -> None:
        self.lm = make_lm("a", "b", "e", '"')
        self.task = self.lm.prompt("a", max_tokens=3)
        self.one = fk.regex("[ab]*")
        self.score = fk.reward(len, every="end")
        self.result = fk.steer(self.task, self.one, particles=4, seed=0)
        self.folder = Path(tempfile.mkdtemp(prefix="feynkac-fuzz-"))

    def run(self, potential: Any) -> None:
        """Steer with a potential, and look at the result."""
        if isinstance(potential, fk.Result | str | float | int):
            return
        look(fk.steer(self.task, potential, particles=2, seed=0, on_death="return"))

    def run_task(self, task: Any) -> None:
        """Steer a prompt."""
        look(fk.steer(task, particles=2, seed=0, on_death="return"))

    def in_program(self, act: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """A function of what `act(p, text)` is given besides, as a program's only line."""

        @functools.wraps(act)
        def call(**given: Any) -> Any:
            @fk.program(max_steps=12, max_tokens=20)
            def fuzzed(p: Any, lm: Any) -> Any:
                text = lm.context("a")
                value = act(p, text, **given)
                return "" if value is None else value

            return fk.steer(fuzzed(self.lm), particles=2, seed=0, on_death="return")

        own = list(inspect.signature(act).parameters.values())[2:]
        call.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in own])  # type: ignore[attr-defined]
        del call.__wrapped__  # type: ignore[attr-defined]
        return call


def look(result: Any) -> None:
    """All that a reader does with a result."""
    for each in result if isinstance(result, list) else [result]:
        each.show()
        repr(each)
        each.posterior()
        each.log_evidence_interval()
        if each.log_evidence > float("-inf"):
            each.sample(2, seed=0)
            assert each.best is not Ellipsis


def list_calls(world: World) -> dict[str, Call]:
    """All calls, by name."""
    return {
        **_potentials(world),
        **_models(world),
        **_runs(world),
        **_watched(world),
        **_programs(world),
        **_results(world),
    }


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


def _runs(world: World) -> dict[str, Call]:
    task, one = world.task, world.one
    steered = {"model": task, "potentials": [one], "particles": 2, "seed": 0, "on_death": "return"}
    base = {"base": task, "laws": {"tilt": (task, world.score)}, "reward": len, "texts": 20}
    moved = lambda moves: fk.steer(task, one, particles=4, seed=0, moves=moves)  # noqa: E731
    return {
        "steer": Call(fk.steer, steered, look, many="potentials"),
        "problems": Call(lambda model: fk.steer(model, particles=2, seed=0), {"model": [(task, one), task]}, look),
        "check": Call(fk.check, {"model": task, "potentials": [one], "timeout": 2.0}, str, many="potentials"),
        "bound_evidence": Call(
            fk.bound_evidence, {"model": task, "potentials": [one], "particles": 2, "runs": 2}, str, many="potentials"
        ),
        "ruler": Call(fk.ruler, base, lambda ruler: print(ruler.table())),
        "redraw": Call(fk.redraw, {"block": 1}, moved),
        "rejuvenate": Call(fk.rejuvenate, {"moves": [_stay]}, moved, many="moves"),
        "markov_twist": Call(fk.markov_twist, {"task": task, "constraint": one, "runs": 4}, world.run),
        "LocalExecutor": Call(fk.LocalExecutor, {"jobs": 1}),
        "RayExecutor": Call(fk.RayExecutor, {"workers": 1}),
    }


def _watched(world: World) -> dict[str, Call]:
    """Runs that are watched, awaited, limited, saved and taken up."""
    task, one, path = world.task, world.one, world.folder / "run.checkpoint"
    steered = {"model": task, "potentials": [one], "particles": 2, "seed": 0, "on_death": "return"}
    asked = {**steered, "algorithm": "smc", "islands": 1, "resampler": "ssp", "ess_threshold": 0.5, "observers": ()}
    asked |= {"moves": None, "sweeps": None, "budget": None, "executor": None, "checkpoint": None, "progress": False}
    run = functools.partial(fk.steer, task, one, particles=2, seed=0)

    def save(checkpoint: Any) -> None:
        path.unlink(missing_ok=True)
        run(checkpoint=checkpoint, observers=[lambda step: step.t == 1])

    save(path)
    saved = shutil.copy(path, world.folder / "saved.checkpoint")

    @functools.wraps(fk.resume)
    def resume(*given: Any, **options: Any) -> Any:
        shutil.copy(saved, path)
        return fk.resume(*given, **options)

    return {
        "stream": Call(fk.stream, asked, lambda stream: [*stream] and look(stream.result), many="potentials"),
        "steer_async": Call(_await(fk.steer_async), asked, look, many="potentials"),
        "stream_async": Call(_go_through(fk.stream_async), asked, look, many="potentials"),
        "Budget": Call(fk.Budget, {"seconds": 9.0}, lambda budget: run(budget=budget)),
        "Checkpoint": Call(fk.Checkpoint, {"path": path, "every": 1}, save),
        "checkpoint of a run": Call(lambda checkpoint: save(checkpoint), {"checkpoint": path}),
        "resume": Call(resume, {"path": path, **steered}, look, many="potentials"),
    }


def _await(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **options: Any) -> Any:
        return asyncio.run(function(*given, **options))

    return call


def _go_through(function: Callable[..., Any]) -> Callable[..., Any]:
    async def go(*given: Any, **options: Any) -> Any:
        async with function(*given, **options) as stream:
            async for _ in stream:
                pass
        return stream.result

    return _await(functools.wraps(function)(go))


def _programs(world: World) -> dict[str, Call]:
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
        "what a program returns": lambda p, text, value=1: value,
    }
    spans = {"constraint": world.one, "regex": "a*", "json_schema": {"type": "string"}, "choices": ["a", "b"]}
    spans |= {"until": "b", "unit": "word"}
    calls = {name: Call(inside(act), {}, look) for name, act in found.items()}
    for name, right in spans.items():
        calls[f"gen({name}=)"] = Call(inside(_span(name, right)), {}, look)

    def make(function: Any, max_steps: Any, max_tokens: Any) -> Any:
        return fk.program(max_steps=max_steps, max_tokens=max_tokens)(function)

    whole = {"function": lambda p: 1, "max_steps": 5, "max_tokens": 5}
    calls["program"] = Call(make, whole, lambda made: look(fk.steer(made(), particles=2, seed=0)))
    return calls


def _results(world: World) -> dict[str, Call]:
    result, path = world.result, world.folder / "result.json"
    return {
        "sample of a result": Call(result.sample, {"k": 2, "seed": 0}),
        "expectation": Call(result.expectation, {"f": len}),
        "log_evidence_interval": Call(result.log_evidence_interval),
        "show": Call(result.show),
        "summary": Call(result.summary),
        **({"plot": Call(result.plot)} if INPUTS else {}),  # takes a second
        "preferences": Call(result.preferences, {"base": result, "prompt": "a"}),
        "to_html": Call(result.to_html, {"path": world.folder / "page.html"}),
        "write_page": Call(fk.write_page, {"results": [result], "path": world.folder / "pages.html"}),
        "to_pandas": Call(result.to_pandas),
        "to_json": Call(result.to_json, {"path": path}),
        "from_json": Call(fk.Result.from_json, {"path": world.folder / "none.json"}),
        "save_images": Call(result.save_images, {"folder": world.folder}),
    }


def _span(name: str, right: Any) -> Callable[..., Any]:
    return lambda p, text, given=right, max_tokens=3: p.sample(text.gen(**{name: given}, max_tokens=max_tokens))


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


def _stay(t: int, state: Any, level: Any, alive: Any, rng: Any) -> Any:
    return state, level
