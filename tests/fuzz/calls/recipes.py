"""Calls of recipes, of what LLaMPPL and genlm-control have, and of the rooms below `steer`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from guard import INPUTS

import feynkac as fk
from calls.world import Call, World, look
from feynkac.potentials import from_genlm
from feynkac.potentials.twists import TokenChain
from feynkac.programs import recipes
from feynkac.programs.compat import llamppl
from feynkac.programs.recipes import choosing, examples, planning, sandbox
from feynkac.programs.recipes.diffusion import drug_like, inpaint, inpainting, of_class
from feynkac.smc import engine, testing
from feynkac.smc.resample import systematic
from feynkac.smc.rng import Streams


def list_recipes(world: World) -> dict[str, Call]:
    """Ready programs, other libraries' scripts, and the rooms below `steer`."""
    return {**_texts(world), **_helpers(world), **_images(world), **_llamppl(world), **_below(world)}


def _texts(world: World) -> dict[str, Call]:
    run: Callable[[Any], None] = lambda task: look(fk.steer(task, particles=2, seed=0, on_death="return"))  # noqa: E731
    some = {"lm": world.speaker}
    example = choosing.Choice("a", ["a", "b"], "a")
    return {
        "recipe avoid": Call(recipes.avoid, {**some, "prompt": "a", "max_tokens": 2}, run),
        "recipe short_words": Call(recipes.short_words, {**some, "prompt": "a", "max_tokens": 2}, run),
        "recipe infill": Call(recipes.infill, {**some, "template": "a___b", "longest": 1}, run),
        "recipe intersect": Call(recipes.intersect, {**some, "prompts": ["a", "b"], "max_tokens": 2}, run),
        "recipe speculate": Call(
            recipes.speculate, {**some, "draft": world.speaker, "prompt": "a", "max_tokens": 2, "block": 1}, run
        ),
        **({"recipe haiku": Call(recipes.haiku, {**some, "lines": (1,)}, run)} if INPUTS else {}),  # takes a second
        "recipe converse": Call(
            recipes.converse,
            {**some, "persona": "a", "opening": "b", "actions": ["a"], "policy": [[0.0]], "reward": len,
             "turn_tokens": 1},
            run,
        ),
        "recipe evolve": Call(recipes.evolve, {**some, "instructions": ["a"], "reward": len, "block_tokens": 1}, run),
        "recipe choose": Call(
            recipes.choose, {**some, "question": "a", "options": ["a", "b"], "examples": [example]}, run
        ),
        "recipe explain": Call(recipes.explain, {**some, "example": example, "thought_tokens": 1}, run),
        "recipe justify": Call(recipes.justify, {**some, "question": "a", "answer": "a", "questions": ["b"]}, run),
        "recipe support": Call(recipes.support, {**some, "message": "a", "strategies": ["reassure", "b"]}, run),
        "recipe translate": Call(
            recipes.translate,
            {**some, "source": "a", "glossary": {"a": "b"}, "examples": [("a", "b")], "max_tokens": 2}, run,
        ),
        "recipe reason": Call(recipes.reason, {**some, "question": "a", "steps": 1, "step_tokens": 1}, run),
        "recipe extract": Call(
            recipes.extract, {**some, "passage": "a", "schema": {"const": "a"}, "max_tokens": 4}, run
        ),
        "recipe think": Call(
            recipes.think, {**some, "question": "a", "answer": world.one, "marker": "b", "max_tokens": 3}, run
        ),
        "recipe vote": Call(
            recipes.vote, {**some, "question": "a", "answer": "a", "cue": "b", "thought_tokens": 1}, run
        ),
    }  # fmt: skip


def _helpers(world: World) -> dict[str, Call]:
    def embed(texts: list[str]) -> Any:
        return np.ones((len(texts), 2))

    rated = {"lm": world.speaker, "question": "a", "options": ["a", "b"]}
    return {
        "rate_options": Call(choosing.rate_options, rated),
        "find_nearest": Call(examples.find_nearest, {"text": "a", "examples": ["a", "b"], "embed": embed, "shots": 1}),
        "fit_policy": Call(planning.fit_policy, {"make": lambda logits: _choose(), "shape": (1, 1), "rounds": 1}),
        "run_python": Call(sandbox.run_python, {"code": "print(1)"}),
    }


def _images(world: World) -> dict[str, Call]:
    image = torch.zeros(1, 2, 2)
    given = {"pipe": None, "image": image, "mask": image == 0.0}
    return {
        "recipe inpaint": Call(inpaint, given),
        "recipe of_class": Call(of_class, {"pipe": None, "classify": lambda images: images, "label": 0}),
        "recipe drug_like": Call(drug_like, {"path": world.folder / "none.safetensors"}),
        "photo": Call(inpainting.photo, {"path": world.folder / "none.png"}),
        **({"digit": Call(inpainting.digit, {"which": 2})} if INPUTS else {}),  # a second
    }


@fk.program
def _choose(p: Any) -> tuple[tuple[int, ...], str]:
    return (p.sample(fk.Categorical([1.0])),), ""


class _Script(llamppl.Model):
    """A script of LLaMPPL of one line."""

    def __init__(self, act: Callable[..., Any], given: Any) -> None:
        super().__init__()
        self.act, self.given = act, given

    async def step(self) -> None:
        await self.act(self, self.given)
        self.finish()

    def string_for_serialization(self) -> str:
        return ""


def _llamppl(world: World) -> dict[str, Call]:
    lm = llamppl.CachedCausalLM(world.lm)

    async def draw(self: Any, law: Any) -> None:
        await self.sample(law)

    def inside(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda given: asyncio.run(llamppl.smc_standard(_Script(draw, make(given)), 2, seed=0))

    def score(x: Any, given: Any) -> Any:
        return asyncio.run(llamppl.smc_standard(_Script(lambda self, law: self.observe(law, x), given), 2, seed=0))

    def word(max_tokens: Any = 1, allow_punctuation: Any = False) -> Any:
        async def act(self: Any, context: Any) -> None:
            await self.call(llamppl.sample_word(context, max_tokens, allow_punctuation))

        return asyncio.run(llamppl.smc_standard(_Script(act, llamppl.LMContext(lm, "a")), 2, seed=0))

    def standard(**given: Any) -> Any:
        return asyncio.run(llamppl.smc_standard(**given))

    def steer(**given: Any) -> Any:
        return asyncio.run(llamppl.smc_steer(**given))

    script = _Script(draw, llamppl.Bernoulli(0.5))
    run = {"model": script, "n_particles": 2, "seed": 0}
    return {
        "CachedCausalLM": Call(llamppl.CachedCausalLM, {"lm": world.lm}),
        "LMContext": Call(llamppl.LMContext, {"lm": lm, "prompt": "a"}, str),
        "TokenSequence": Call(llamppl.TokenSequence, {"lm": lm, "seq": "a"}, str),
        "Transformer": Call(llamppl.Transformer, {"lm": lm, "prompt": "a"}, inside(lambda given: given)),
        "LogCategorical": Call(llamppl.LogCategorical, {"logits": [0.0, 1.0]}, inside(lambda given: given)),
        "TokenCategorical": Call(llamppl.TokenCategorical, {"lm": lm, "logits": np.zeros(len(lm.str_vocab))}),
        "Bernoulli of LLaMPPL": Call(llamppl.Bernoulli, {"p": 0.5}, inside(lambda given: given)),
        "Geometric of LLaMPPL": Call(llamppl.Geometric, {"p": 0.5}, inside(lambda given: given)),
        "observed by LLaMPPL": Call(
            lambda x: score(x, llamppl.LMContext(lm, "a").next_token()), {"x": 1}
        ),
        "number observed by LLaMPPL": Call(lambda x: score(x, llamppl.LogCategorical([0.0, 1.0])), {"x": 1}),
        "mask_dist": Call(llamppl.LMContext(lm, "a").mask_dist, {"mask": {1}}, inside(lambda given: given)),
        "token_length_mask": Call(lm.masks.token_length_mask, {"min": 0, "max": 1}),
        "sample_word": Call(word, {"max_tokens": 1}),
        "what LLaMPPL scores": Call(
            lambda value: asyncio.run(llamppl.smc_standard(_Script(_weigh, value), 2, seed=0)), {"value": 0.0}
        ),
        "smc_standard": Call(standard, {**run, "ess_threshold": 0.5}),
        "resampling of LLaMPPL": Call(
            lambda resampling_method, json_file: standard(
                **run, resampling_method=resampling_method, json_file=json_file
            ),
            {"resampling_method": "systematic", "json_file": str(world.folder / "record.json")},
        ),
        "smc_steer": Call(steer, {**run, "n_beam": 2}),
        "softmax": Call(llamppl.softmax, {"nums": [0.0, 1.0]}),
        "from_genlm": Call(from_genlm, {"potential": _Genlm(0.0), "lm": world.lm}, world.run),
        "what genlm returns": Call(lambda value: from_genlm(_Genlm(value), world.lm), {"value": 0.0}, world.run),
    }  # fmt: skip


async def _weigh(self: Any, value: Any) -> None:
    self.score(value)


class _Genlm:
    """A potential as genlm-control has them, over single bytes."""

    vocab = (97, 98, 101, 34)

    def __init__(self, value: Any) -> None:
        self.value = value

    async def prefix(self, context: list[Any]) -> Any:
        return self.value

    async def complete(self, context: list[Any]) -> Any:
        return self.value

    async def logw_next(self, context: list[Any]) -> Any:
        return self.value


def _below(world: World) -> dict[str, Call]:
    size = world.lm.vocabulary.size
    chain = {"vocabulary": world.lm.vocabulary, "classes": np.zeros(size, int), "law": np.full((1, size), 1.0 / size)}
    path = world.folder / "ruler.json"
    ruler = fk.ruler(world.task, {"tilt": (world.task, world.score)}, len, texts=20)
    ruler.to_json(path)
    run = {"model": world.task, "potential": world.score, "n": 2, "resample": systematic, "rng": Streams(0)}

    def smc(**given: Any) -> Any:
        return [step.log_z for step in engine.smc(**given)]

    return {
        "TokenChain": Call(TokenChain, chain),
        "smc": Call(smc, {**run, "moves": (), "start": None}),
        "enumerate_runs": Call(
            lambda max_runs: [*testing.enumerate_runs(lambda rng: 0.0, max_runs=max_runs)], {"max_runs": 9}
        ),
        "best of a ruler": Call(ruler.best, {"kl": 1.0}),
        "to_json of a ruler": Call(ruler.to_json, {"path": path}),
        "from_json of a ruler": Call(fk.Ruler.from_json, {"path": path}, lambda read: read.table()),
        "interval": Call(ruler.base.reward.interval, {"confidence": 0.9}),
    }  # fmt: skip
