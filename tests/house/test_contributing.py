"""The examples of CONTRIBUTING.md: written from the docs alone, complete, and right where there is an exact answer."""

from __future__ import annotations

import ast
import re
from math import comb, exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base import capabilities, sampling
from feynkac.smc.rng import Streams

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
BLOCKS = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def names(tiny_lm) -> dict[str, Any]:
    """All that the examples define, run one after the other."""
    found: dict[str, Any] = {"lm": tiny_lm("a", "b"), "__name__": "examples"}
    for block in BLOCKS:
        exec(compile(block, str(CONTRIBUTING), "exec"), found)
    return found


def test_the_model_runs_to_its_end_and_is_shown(names) -> None:
    result = names["result"]
    assert result.complete and len(result.samples) == 64
    assert all(sample.steps.shape == (1, 10) for sample in result.samples)
    result.show()


def test_the_evidence_is_right(names) -> None:
    truth = log(sum(comb(10, k) * 0.3**k * 0.7 ** (10 - k) * exp(2 * k - 10) for k in range(11)))
    for resampler in ("ssp", names["by_lot"]):
        runs = [
            fk.steer(names["Walk"](), names["EndsHigh"](), particles=64, resampler=resampler, seed=seed).log_evidence
            for seed in range(200)
        ]
        weights = np.exp(np.array(runs) - truth)
        # 3.9 standard errors: one false alarm in 10,000.
        assert abs(weights.mean() - 1.0) < 3.9 * weights.std() / np.sqrt(len(weights))


def test_nothing_is_wrong_with_the_examples(names) -> None:
    assert fk.check(names["Walk"](), names["EndsHigh"]()).faults == []
    task = names["lm"].prompt(tokens=[1], max_tokens=4)
    assert fk.check(task, names["EvenLength"]("even length")).faults == []


def test_the_resampler_keeps_its_contract(names) -> None:
    log_weight = np.log(np.array([0.1, 0.5, 0.15, 0.25]))
    total = np.zeros(4)
    for t in range(4000):
        rows, new = names["by_lot"](log_weight, Streams(0).at("resample", t))
        np.add.at(total, rows, np.exp(new) / 4000)
    # Each mean is of 4,000 draws of 4: its standard error is below 0.004, and 4.4 of those are one alarm in 100,000.
    assert np.abs(total - np.exp(log_weight)).max() < 4.4 * 0.004


def test_the_constraint_engine_is_exact(names) -> None:
    task = names["lm"].prompt(tokens=[1], max_tokens=4)
    even, law = names["EvenLength"]("even length"), lambda text: len(text) % 2 == 0
    masked = [fk.steer(task, even, particles=64, seed=seed).log_evidence for seed in range(60)]
    weighed = [fk.steer(task, law, particles=64, seed=seed, on_death="return").log_evidence for seed in range(60)]
    means = [(np.exp(z).mean(), np.exp(z).std() / np.sqrt(len(z))) for z in (np.array(masked), np.array(weighed))]
    gap, error = means[0][0] - means[1][0], np.hypot(means[0][1], means[1][1])
    assert abs(gap) < 3.9 * error  # one false alarm in 10,000


def test_examples_are_about_ten_lines(names) -> None:
    """A class or function of an example has at most ten statements."""
    for block in BLOCKS:
        for node in ast.parse(block).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                statements = [each for each in ast.walk(node) if isinstance(each, ast.stmt)]
                assert len(statements) <= 11, node.name


def test_every_capability_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", CONTRIBUTING.read_text(encoding="utf-8").partition("## Capabilities")[2]))
    groups = [getattr(capabilities, name) for name in dir(capabilities) if name.startswith("OF_")]
    assert listed == {capability.__name__ for group in groups for capability in group}
    classes = [each for module in (capabilities, sampling) for each in vars(module).values() if isinstance(each, type)]
    protocols = {each.__name__ for each in classes if vars(each).get("_is_runtime_protocol")}
    assert protocols - {"Model", "Potential"} == listed  # those two are required
