"""The paths of LLaMPPL's modules, and mistakes in its programs: each is one error that says where."""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ProgramError
from feynkac.programs.compat.llamppl import (
    Bernoulli,
    CachedCausalLM,
    LMContext,
    LogCategorical,
    Model,
    TokenSequence,
    Transformer,
    smc_standard,
    smc_steer,
    submodel,
)

NAMES = {
    "": ["smc_standard", "LMContext", "sample_word", "submodel", "Token", "logsumexp", "Geometric"],
    "chunks": ["sample_word", "sample_word_2"],
    "distributions": ["Bernoulli", "Distribution", "Geometric", "LMContext", "LogCategorical", "TokenCategorical",
                      "Transformer"],
    "distributions.bernoulli": ["Bernoulli"],
    "distributions.distribution": ["Distribution"],
    "distributions.geometric": ["Geometric"],
    "distributions.lmcontext": ["LMContext", "LMNextToken", "LMTokenMask", "NullMask"],
    "distributions.logcategorical": ["LogCategorical"],
    "distributions.tokencategorical": ["TokenCategorical"],
    "distributions.transformer": ["Transformer"],
    "inference": ["smc_standard", "smc_steer"],
    "inference.resampling": ["RESAMPLING_METHODS", "get_resampling_fn", "multinomial_resample", "residual_resample",
                             "stratified_resample", "systematic_resample"],
    "inference.smc_record": ["SMCRecord"],
    "inference.smc_standard": ["smc_standard"],
    "inference.smc_steer": ["smc_steer"],
    "llms": ["CachedCausalLM", "Masks", "Token", "TokenSequence"],
    "modeling": ["Model", "SubModel", "submodel"],
    "util": ["log_softmax", "logsumexp", "softmax"],
}  # fmt: skip


@pytest.mark.parametrize("root", ["feynkac.programs.compat.llamppl", "feynkac.programs.llamppl"])
@pytest.mark.parametrize("path", NAMES)
def test_every_module_of_llamppl_has_its_place(root, path) -> None:
    module = importlib.import_module(f"{root}.{path}".removesuffix("."))
    home = importlib.import_module(f"feynkac.programs.compat.llamppl.{path}".removesuffix("."))
    for name in NAMES[path]:
        exec(f"from {module.__name__} import {name}")
        assert getattr(module, name) is getattr(home, name)


@pytest.mark.parametrize("name", ["multinomial", "residual", "stratified", "systematic", "ssp"])
def test_resampling_by_name_keeps_the_weights(name) -> None:
    from feynkac.programs.compat.llamppl.inference.resampling import get_resampling_fn

    weights, count = np.array([0.5, 0.0, 0.3, 0.2]), np.zeros(4)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(2000):
        count += np.bincount(get_resampling_fn(name)(weights), minlength=4) / 8000
    assert count[1] == 0.0 and np.abs(count - weights).max() < 4.4 * 0.0056  # one false alarm in 100,000


def run(model: Model, method: Any = smc_standard, *arguments: Any) -> Any:
    return asyncio.run(method(model, *(arguments or (4,)), seed=0))


def test_a_model_tells_its_device_and_its_end(tiny_lm) -> None:
    lm = CachedCausalLM(tiny_lm("a", "b"))
    assert str(lm.device) == "cpu" and lm.eos_token_id == 0 and {0} == lm.masks.EOS


class Held(Model):
    def __init__(self, held: Any, *shared: str) -> None:
        super().__init__()
        self.fine, self.held, self.shared = [1], held, shared

    def immutable_properties(self) -> set[str]:
        return set(self.shared)

    async def step(self) -> None:
        self.condition(await self.sample(Bernoulli(0.9)))
        self.finish()


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in "ab")])
@pytest.mark.parametrize("method", [(smc_standard, 4), (smc_steer, 4, 2)])
def test_an_attribute_that_cannot_be_copied_is_named(make, method) -> None:
    held = make()
    with pytest.raises(ProgramError, match=r"Held\.held is a \w+ that cannot be copied.*immutable_properties"):
        run(Held(held), *method)
    assert len(run(Held(held, "held"), *method)) == 4


@pytest.mark.parametrize("line", ["self.sample(Bernoulli(0.5))", "self.observe(Bernoulli(0.5), True)",
                                  "self.intervene(Bernoulli(0.5), True)", "self.call(part(1))"])  # fmt: skip
def test_what_is_never_awaited_is_told_with_its_line(line) -> None:
    @submodel
    async def part(self, number):
        return number

    class Forgets(Model):
        async def step(self):
            await self.sample(Bernoulli(0.5))
            eval(line, {"self": self, "Bernoulli": Bernoulli, "part": part})
            self.finish()

    where = Forgets.step.__code__.co_firstlineno + 2
    name = line.split("(")[0]
    told = rf"{name}\(\.\.\.\) at line {where} of test_llamppl_faults\.py was never awaited.*`await {name}\(\.\.\.\)`"
    with pytest.raises(ProgramError, match=told):
        run(Forgets())


def test_what_a_sub_model_never_awaits_is_told() -> None:
    @submodel
    async def part(self):
        self.sample(Bernoulli(0.5))

    class Calls(Model):
        async def step(self):
            await self.call(part())
            self.finish()

    with pytest.raises(ProgramError, match="never awaited"):
        run(Calls())


def test_a_coroutine_is_no_condition() -> None:
    class Believes(Model):
        async def step(self):
            self.condition(self.sample(Bernoulli(0.5)))
            self.finish()

    with pytest.raises(ArgumentError, match=r"always holds: write condition\(await \.\.\.\)"):
        run(Believes())


def test_a_death_leaves_nothing_to_await() -> None:
    class Dies(Model):
        async def step(self):
            self.score(-np.inf)
            pending = self.sample(Bernoulli(0.5))
            await pending
            self.finish()

    assert run(Dies()).log_evidence == -np.inf


def test_an_error_of_a_model_keeps_its_cause(tiny_lm) -> None:
    lm = CachedCausalLM(tiny_lm("a", "b"))

    class Breaks(Model):
        async def step(self):
            context = LMContext(lm, "a")
            await self.sample(context.next_token())
            raise MemoryError("none left")

    with pytest.raises(ProgramError, match="in Breaks, particle 0, step 0: it raised MemoryError") as caught:
        run(Breaks())
    assert type(caught.value.__cause__) is MemoryError and isinstance(caught.value, fk.FeynkacError)


@pytest.mark.parametrize("logits", ["12", None, [], [0.0, np.nan], [0.0, np.inf], [[0.0, 1.0]], [-np.inf], [1j]])
def test_what_are_no_logits_is_refused(logits: Any) -> None:
    with pytest.raises(ArgumentError, match="logits"):
        LogCategorical(logits)


def test_a_value_between_two_numbers_has_no_probability() -> None:
    law = LogCategorical([0.0, 0.0])
    assert [asyncio.run(law.log_prob(x)) for x in (0.7, "a", None, 2, -1)] == [-np.inf] * 5
    assert asyncio.run(law.log_prob(np.int64(1))) == pytest.approx(np.log(0.5))


def test_contexts_and_tokens_are_read_before_anything_is_forwarded(tiny_lm) -> None:
    lm = CachedCausalLM(tiny_lm("a", "b"))
    for make, message in (
        (lambda: LMContext(tiny_lm("a"), "a"), "no CachedCausalLM"),
        (lambda: LMContext(lm, "a", temp="1"), "temp is '1'"),
        (lambda: Transformer(lm, "a", temp=0.0), "temp is 0.0"),
        (lambda: TokenSequence(lm, [0.5]), "no ids of tokens"),
        (lambda: lm.token_set([0.5]), "no ids of tokens"),
        (lambda: lm.token_set([99]), "no ids of tokens"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
