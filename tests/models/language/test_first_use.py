"""The first use of a model: what its self-check finds that no cache is to blame for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models.language.caches import agreement, twin
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from tests.models.language.tiny import tiny


@fk.program
def one_token(p, lm):
    return p.sample(lm.context("ab").next_token())


USES = {
    "steer": lambda lm: fk.steer(lm.prompt("ab", max_tokens=3), particles=2, seed=0),
    "exact": lambda lm: fk.steer(lm.prompt("ab", max_tokens=3), algorithm="exact"),
    "score": lambda lm: lm.score("ab", ["a"]),
    "program": lambda lm: fk.steer(one_token(lm), particles=2, seed=0),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("use", USES)
def test_weights_that_give_no_law_are_told_as_such_and_no_cache_is_blamed(tiny_lm, use, bad) -> None:
    lm = tiny_lm("a", "b")
    with torch.no_grad():
        lm.model.lm_head.weight[1] = bad
    with pytest.raises(ModelError, match=r"logits of the next token hold (nan|inf) for token 1, .* look at"):
        USES[use](lm)


@pytest.mark.parametrize("name", ["llama", "bloom", "mamba"])
def test_a_model_of_any_cache_that_gives_no_law_is_told_as_such(name) -> None:
    model = tiny(name)
    with torch.no_grad():
        next(model.model.parameters() if hasattr(model, "model") else model.parameters())[:] = np.nan
    with pytest.raises(ModelError, match="hold nan for token 0"):
        open_contexts(Twins(model), [[1, 2, 3]], 5)


def test_a_token_that_is_impossible_in_the_model_itself_is_no_fault_of_a_cache() -> None:
    model = tiny("llama")
    model.lm_head.register_forward_hook(lambda module, args, out: out.index_fill(-1, torch.tensor([7]), -torch.inf))
    assert isinstance(open_contexts(Twins(model), [[1, 2, 3]], 5), SharedContexts)


class RunsOut:
    """A hook of a model that raises out of memory in the passes with these numbers."""

    def __init__(self, model, *passes: int) -> None:
        self.passes, self.count = passes, 0
        model.register_forward_pre_hook(self)

    def __call__(self, module, args) -> None:
        self.count += 1
        if self.count in self.passes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def __deepcopy__(self, memo):  # the twins count together
        return self


@pytest.mark.parametrize("use", USES)
def test_out_of_memory_at_the_first_use_is_told_with_advice_and_forgotten(tiny_lm, use) -> None:
    lm = tiny_lm("a", "b")
    RunsOut(lm.model, 1)
    with pytest.raises(ModelError, match=r"out of memory.*2\.00 GiB.*free memory .* smaller dtype") as caught:
        USES[use](lm)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    USES[use](lm)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_no_pass_of_the_check_that_runs_out_of_memory_decides_on_a_cache(name) -> None:
    counted = tiny(name)
    passes = RunsOut(counted)
    wanted = type(open_contexts(Twins(counted), [[1, 2, 3]], 5))
    assert wanted is (PlainContexts if name == "bloom" else SharedContexts) and passes.count > 5
    for number in range(1, passes.count + 1):
        model = tiny(name)
        full = RunsOut(model, *range(number, number + 10))  # and so does each smaller part of the pass
        twins = Twins(model)
        with pytest.raises(ModelError, match="ran out of memory on the few tokens"):
            open_contexts(twins, [[1, 2, 3]], 5)
        full.passes = ()
        assert twins.errors == {} and type(open_contexts(twins, [[1, 2, 3]], 5)) is wanted


def test_a_fault_of_the_shared_cache_alone_leaves_the_models_own(monkeypatch) -> None:
    def refuse(*args):
        raise RuntimeError("an architecture unheard of")

    monkeypatch.setattr(agreement, "SharedContexts", refuse)
    assert isinstance(open_contexts(Twins(tiny("llama")), [[1, 2, 3]], 5), PlainContexts)


def test_a_score_that_runs_out_of_memory_later_is_a_model_error_too(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    hook = RunsOut(lm.model)
    wanted = lm.score("ab", ["a"])
    hook.passes = (hook.count + 1,)
    with pytest.raises(ModelError, match=r"'CausalLM'\.score raised OutOfMemoryError: CUDA .*; use fewer") as caught:
        lm.score("ab", ["a"])
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert lm.score("ab", ["a"]) == wanted


def test_out_of_memory_while_twins_are_made_does_not_make_the_model_its_own_twin(monkeypatch) -> None:
    model = tiny("llama")

    def fail(model):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(twin, "copy_modules", fail)
        Twins(model)
    assert Twins(model).are_copies


@pytest.mark.parametrize(("shared", "plain", "believed"), [
    (0.2, 0.0, True), (0.3, 0.14, True), (0.3, 0.05, False), (0.45, 0.2, True), (0.6, 0.3, False),
])  # fmt: skip
def test_rounding_in_low_precision_is_measured_by_the_models_own_cache(
    shared: float, plain: float, believed: bool
) -> None:
    twins = Twins(tiny("llama").to(torch.bfloat16))
    twins.errors.update({("shared", None): shared, ("plain", None): plain})
    assert agreement.shares_prompts(twins) is believed
    precise = Twins(tiny("llama"))
    precise.errors.update({("shared", None): shared, ("plain", None): plain})
    assert not agreement.shares_prompts(precise)
