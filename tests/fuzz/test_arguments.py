"""The arguments of everything public: one or two of them hostile, the others right."""

from __future__ import annotations

import os

import pytest
from calls import World, list_calls
from guard import fuzz, guarded
from hypothesis import given, note, strategies as st
from values import ARRAYS, BROKEN, HOSTILE


@pytest.fixture(scope="session")
def calls(tiny_lm):
    return Calls(list_calls(World(tiny_lm)))


class Calls(dict):
    """All calls; shown in one word, as each failure would show them."""

    def __repr__(self) -> str:
        return "calls"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Names of files that an argument may happen to be are written here."""
    monkeypatch.chdir(tmp_path)


REPEATED = ("blocks", "repeats", "rounds", "runs", "steps", "vectors")
"""How often something is done, one time after the other: a large number is no mistake, and takes its time."""
REFUSED = (
    "canonical", "chat", "context", "from_pretrained", "Diffusion", "from_json", "save_images", "RayExecutor",
    "what a batch returns", "what a level returns", "Adapter", "recipe inpaint", "recipe of_class", "recipe drug_like",
    "photo",
)  # fmt: skip
"""Calls that are right and refused all the same: of this tokenizer, outside of a program, of a file that is missing."""


def test_each_call_works_with_what_is_right(calls) -> None:
    for name, call in calls.items():
        if name not in REFUSED:
            call.make({})


@fuzz(share=0.4, sample=120)
@given(st.data())
def test_hostile_arguments_give_a_result_or_an_error_of_ours(calls, data) -> None:
    name = data.draw(st.sampled_from(sorted(calls)), label="call")
    call = calls[name]
    if not call.names:
        return
    names = data.draw(st.lists(st.sampled_from(call.names), min_size=1, max_size=2, unique=True), label="arguments")
    hostile = {each: data.draw(HOSTILE, label=each).value for each in names}
    often = {each: value for each, value in hostile.items() if each in REPEATED or each.endswith("_tokens")}
    if any(isinstance(value, int) and value > 1000 for value in often.values()):
        return  # so often it is done
    note(f"in {os.getpid()}")
    with guarded():
        call.make(hostile)


@fuzz(share=0.02, sample=15)
@given(st.data())
def test_hostile_potentials_and_moves_give_a_result_or_an_error_of_ours(calls, data) -> None:
    several = [name for name, call in sorted(calls.items()) if call.many]
    call = calls[data.draw(st.sampled_from(several), label="call")]
    with guarded():
        call.make({call.many: [data.draw(HOSTILE, label="given").value]})


# Of each kind of reading: words, flags, numbers, lists in their order, lists of any order, dicts, paths and addresses,
# settings that are compared, and what user's functions return.
READS = [
    ("CausalLM", "packed"), ("RayExecutor", "runtime_env"), ("ServedLM", "base_url"), ("bound_evidence", "model"),
    ("chat", "chat"), ("chat", "documents"), ("chat", "template"), ("chat", "tools"), ("from_pretrained", "name"),
    ("json_schema", "schema"), ("judge", "answers"), ("mixture", "weights"), ("preferences", "prompt"),
    ("prompt", "logits_processor"), ("prompt", "text"), ("resume", "seed"), ("ruler", "laws"), ("ruler", "progress"),
    ("similarity", "to"), ("steer", "model"), ("steer", "moves"), ("stream", "algorithm"), ("stream", "executor"),
    ("to_html", "kind"), ("to_pandas", "of"), ("tokens of a prompt", "tokens"), ("wfsa", "start"),
    ("what a level returns", "value"), ("what a program returns", "value"), ("ddpm", "alphas_bar"), ("flow", "steps"),
    ("DiffusionSampler", "shape"), ("GaussianMixture", "covariances"), ("observed", "y"), ("inpainting", "mask"),
    ("CanvasAutomaton", "delta"), ("DiscreteDiffusion", "given"), ("tempered", "potential"), ("fill", "text"),
    ("LogCategorical", "logits"), ("mask_dist", "mask"), ("TokenChain", "law"), ("smc", "n"), ("photo", "path"),
    ("find_nearest", "examples"), ("recipe intersect", "prompts"), ("best of a ruler", "kl"),
    ("from_json of a ruler", "path"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), READS)
def test_values_that_raise_or_lie_are_refused_or_used(calls, name: str, argument: str) -> None:
    for value in (*BROKEN, *ARRAYS[-15:]):
        with guarded():
            calls[name].make({argument: value})
