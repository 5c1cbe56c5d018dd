"""Other processes: forked ones, and those to which prompts, potentials and programs travel; and autocast."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch

import feynkac as fk
import feynkac.potentials
from feynkac.potentials.tempering import tempered
from feynkac.programs.recipes.letters import avoid
from tests.models.language.tiny import tiny

FORKED = """
import multiprocessing
import torch
import feynkac as fk
import feynkac.potentials
from tests.conftest import _tiny_lm

lm = _tiny_lm("a", "b")
torch.randn(300, 300) @ torch.randn(300, 300)
def child(queue):
    try:
        queue.put(fk.steer(lm.prompt("a", max_tokens=4), fk.regex("[ab]*"), particles=4, seed=0).log_evidence)
    except fk.ModelError as error:
        queue.put(str(error))
if __name__ == "__main__":
    mine = fk.steer(lm.prompt("a", max_tokens=4), fk.regex("[ab]*"), particles=4, seed=0).log_evidence
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,), daemon=True)
    process.start()
    found = queue.get(timeout=50)
    print("same" if found == mine else found)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("threads", "told"), [(1, "same"), (2, "forked off one that has run a model")])
def test_a_forked_process_runs_or_says_why_not(threads: int, told: str) -> None:
    environment = {**os.environ, **dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))}
    environment.pop("PYTHONSAFEPATH", None)  # the script imports from the tests
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100,
                          env=environment, check=False)  # fmt: skip
    assert told in done.stdout, done.stderr


def score(text: str) -> float:
    return float(text.count("a"))


def is_short(text: str) -> bool:
    return len(text) < 3


def half(t: int) -> float:
    return 0.5


POTENTIALS = {
    "regex": lambda: fk.regex("[ab]*"),
    "choices": lambda: fk.choices(["a", "ab", ""]),
    "tokens": lambda: fk.tokens(ban=["b"]),
    "length": lambda: fk.length(max=3),
    "length in characters": lambda: fk.length(max=3, unit="char"),
    "length in words": lambda: fk.length(max=3, unit="word"),
    "grammar": lambda: fk.grammar('start: ("a" | "b")*'),
    "json_schema": lambda: fk.json_schema({"type": "integer"}),
    "after": lambda: fk.potentials.after("b", fk.regex("a*")),
    "reward": lambda: fk.reward(score),
    "reward at words": lambda: fk.reward(score, every="word", kind="max", scale=0.5),
    "constraint": lambda: fk.constraint(is_short),
    "product": lambda: fk.product(fk.regex("[ab]*"), score) * fk.reward(score) ** 0.5,
    "power": lambda: fk.reward(score) ** 2,
    "tempered": lambda: tempered(fk.reward(score), half),
    "tempered by ess": lambda: tempered(fk.reward(score), ess=0.5),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials_travel_and_are_copied(tiny_lm, name) -> None:
    lm = tiny_lm("a", "b", *"0123456789-")
    task, potential = lm.prompt("a", max_tokens=4), POTENTIALS[name]()
    options = {"particles": 8, "seed": 0, "on_death": "return"}
    if name == "tempered by ess":
        options["observers"] = [lambda step: True]
    try:
        first = fk.steer(task, potential, **options)  # used, so that it holds what it has compiled
    except fk.PotentialError:  # a text keeps no weights for it to look at
        first = None
    for twin in (pickle.loads(pickle.dumps(potential)), copy.deepcopy(potential)):
        assert repr(twin) == repr(potential)
        if first is not None:
            assert fk.steer(task, twin, **options).samples == first.samples


@fk.program
def walk(p, lm, steps):
    text = lm.context("a")
    while not text.ended and len(text) < steps:
        p.sample(text.next_token())
    return str(text)


def test_models_prompts_and_programs_travel(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    fk.steer(lm.prompt("a", max_tokens=3), fk.regex("[ab]*"), seed=0)
    for task in (lm.prompt("a", max_tokens=3), walk(lm, 3), walk(lm, 3).limited(max_tokens=9), avoid(lm, "a", "b", 3)):
        wanted = fk.steer(task, fk.reward(score), particles=4, seed=0, on_death="return")
        for twin in (pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
            found = fk.steer(twin, fk.reward(score), particles=4, seed=0, on_death="return")
            assert found.samples == wanted.samples and found.log_evidence == wanted.log_evidence


def test_errors_travel_with_their_results(tiny_lm) -> None:
    with pytest.raises(fk.AllParticlesDied) as caught:
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=3), lambda text: False, particles=4, seed=0)
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value) and back.partial.samples == caught.value.partial.samples


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("cast", ["bfloat16", "float16"])
def test_a_run_inside_of_autocast_runs_or_is_a_model_error(name, weights, cast, tiny_lm) -> None:
    lm = fk.CausalLM(tiny(name).to(getattr(torch, weights)), tiny_lm("a", "b").tokenizer, eos=[2])
    task = lm.prompt(tokens=[5, 6, 7, 8, 9], max_tokens=6)
    for _ in range(2):  # the second one finds what the first has learnt of the model
        with torch.autocast("cpu", dtype=getattr(torch, cast)):
            if (name, weights, cast) == ("gpt2", "bfloat16", "float16"):  # which torch's layer norm refuses
                with pytest.raises(fk.ModelError, match="mixed dtype"):
                    fk.steer(task, particles=8)
                continue
            result = fk.steer(task, fk.tokens(ban=[3]), particles=8, seed=0)
        assert math.isfinite(result.log_evidence) and len(result.samples) == 8
