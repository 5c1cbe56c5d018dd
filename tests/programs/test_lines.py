"""The ten examples of benchmarks/lines.md run, and have as many statements as it says."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

import feynkac as fk

ROOT = Path(__file__).parents[2] / "benchmarks"
# vaderSentiment opens its lexicon so, which Python 3.14 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:codecs\.open\(\) is deprecated:DeprecationWarning")
ROWS = re.findall(
    r"\| `(\w+\.py)` \| (\d+) \|.*\| (\d+) \| ([0-9.]+) \|$", (ROOT / "lines.md").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def smol(smollm2):
    return fk.CausalLM.from_pretrained(str(smollm2), dtype="float32")


def ran(name, smol, monkeypatch, **options):
    """What an example leaves behind, run with few particles."""
    for module in ("pronouncing", "vaderSentiment"):
        if module in (ROOT / "lines" / name).read_text() and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    results, steer = [], fk.steer

    def small(*args, **kwargs):
        given = {**kwargs, "particles": min(kwargs["particles"], 4), "seed": 1, "on_death": "return", **options}
        results.append(steer(*args, **given))
        return results[-1]

    monkeypatch.setattr(fk, "steer", small)
    monkeypatch.setattr(fk.CausalLM, "from_pretrained", lambda *args, **kwargs: smol)
    runpy.run_path(str(ROOT / "lines" / name))
    return results[0]


@pytest.mark.parametrize("name", [row[0] for row in ROWS])
def test_the_first_steps(name, smol, monkeypatch) -> None:
    result = ran(name, smol, monkeypatch, observers=[lambda step: step.t >= 1])
    assert len(result.samples) in (4, 5, 8, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [row[0] for row in ROWS])
def test_to_the_end(name, smol, monkeypatch) -> None:
    assert ran(name, smol, monkeypatch).complete


def test_the_table() -> None:
    count = runpy.run_path(str(ROOT / "lines" / "count.py"))
    assert len(ROWS) == 10
    for name, ours, theirs, ratio in ROWS:
        assert count["statements"]((ROOT / "lines" / name).read_text()) == int(ours)
        assert float(ratio) == pytest.approx(int(ours) / int(theirs), abs=0.006)
    assert sum(float(row[3]) for row in ROWS) / 10 <= 0.5
    assert count["statements"]('"doc"\nprint(1)\nx = await f()\ndef g():\n    "doc"\n    return 1\n') == 3
