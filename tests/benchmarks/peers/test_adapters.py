"""The adapters of the referee: each compiles, and says which tasks of the cases it has; what is measured is counted."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peers import laws
from peers.cases import Case, make_cases
from peers.child import Passes, measure
from peers.outcomes import Outcome
from peers.registry import PEERS, ROOT

FOLDER = ROOT / "benchmarks" / "peers"
ADAPTERS = sorted({peer.adapter for peer in PEERS.values()})
TASKS = {case.task for case in make_cases()}


def list_tasks(adapter):
    """The names that an adapter's `tasks` have, read from its source: its packages may not be here."""
    tree = ast.parse((FOLDER / f"{adapter}.py").read_text(encoding="utf-8"))
    named = set()
    for node in ast.walk(tree):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Attribute) and target.attr == "tasks" and isinstance(node.value, ast.Dict):
            named |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    return named


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_compiles_and_has_tasks(adapter) -> None:
    source = (FOLDER / f"{adapter}.py").read_text(encoding="utf-8")
    compile(source, adapter, "exec")
    assert "\nload = " in source
    assert list_tasks(adapter) and list_tasks(adapter) <= set(laws.LAWS)


def test_every_case_is_for_peers_that_have_its_task() -> None:
    for case in make_cases():
        assert all(case.task in list_tasks(PEERS[peer].adapter) for peer in case.peers), case.name
    assert set(laws.LAWS) >= TASKS


def test_what_make_installs_is_pinned() -> None:
    wanted = {"language": ("llamppl==0.2.3", "genlm-control==0.4.1", "outlines=="), "guidance": ("guidance==",)}
    for name, packages in wanted.items():
        pins = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert all(any(pin.startswith(package) for pin in pins) for package in packages), name
        assert not any("/" in pin for pin in pins if not pin.startswith("#"))
    assert "particles==0.4" in (FOLDER / "particles.txt").read_text(encoding="utf-8")
    pinned = (FOLDER / "language.txt").read_text(encoding="utf-8").splitlines()
    ours = [
        pin
        for pin in (ROOT / "constraints.txt").read_text().splitlines()
        if pin.startswith(("torch=", "transformers="))
    ]
    assert len(ours) == 2 and set(ours) <= set(pinned)


@pytest.mark.parametrize(
    ("task", "text", "right"),
    [
        ("no_e", " a dog, 1 cat", True), ("no_e", " the", False), ("no_e", " naïf", False),
        ("words", " a small dog", True), ("words", "simple", False), ("words", " it's-a1b", True),
        ("json", '{"city": "Ulm", "people": 3, "capital": false}', True), ("json", '{"city": "Ulm"}', False),
        ("json", "{", False), ("plain", "anything", True),
    ],
)  # fmt: skip
def test_validity(task, text, right) -> None:
    assert laws.is_valid(task, text) is right


def test_positions_and_passes_are_counted() -> None:
    class Model(torch.nn.Module):
        def forward(self, input_ids=None, inputs_embeds=None):
            return input_ids

    model = Model()
    passes = Passes(model)

    def run(seed, tokens):
        model(input_ids=torch.zeros(4, tokens, dtype=torch.long))
        model(torch.zeros(1, 2, dtype=torch.long))
        model(inputs_embeds=torch.zeros(3, 2, 8))
        return Outcome(["a"], 4 * tokens, -1.0)

    assert measure(run, passes, 1, 5)["positions"] == 4 * 5 + 2 + 3 * 2
    found = measure(run, passes, 2, 5)
    assert found["positions"] == 28 and found["tokens"] == 20 and 0.0 < found["forward"] <= found["seconds"]


PEAKS = """
from peers.child import read_peak, reset_peak

reset_peak()
before = read_peak()
held = bytearray(b"x" * 60_000_000)
grown = read_peak()
del held
reset_peak()
print(grown - before > 50 and read_peak() < grown - 40)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_the_peak_is_that_since_the_reset() -> None:
    """In a process of its own: of a large one the system may take pages back meanwhile."""
    paths = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run([sys.executable, "-c", PEAKS], env=paths, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_our_adapter_does_its_tasks(smollm2) -> None:
    from peers.ours import load

    adapter = load(str(smollm2))
    for task in adapter.tasks:
        case = Case(task, 2, 3, option={"power": "2", "lazy": "words"}.get(task, ""))
        if task not in ("json", "lazy", "costly"):
            found = adapter.tasks[task](case, "The weather today is")(1, 3)
            assert all(laws.is_valid(task, text, case.option) for text in found.texts) and found.tokens > 0
