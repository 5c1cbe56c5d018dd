"""Command lines of every shape: an exit with 0, 1 or 2, and no traceback."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
from guard import fuzz, guarded
from hypothesis import given, strategies as st

from feynkac.commands.cli import main

WORDS = st.sampled_from(
    ["", "a", "0", "1", "2", "-1", "1.5", "nan", "inf", "1e400", "9" * 30, "9" * 5_000, "true", "none", "auto",
    "cpu", "cuda:7", "int8",
     "[ab]*", "(", "x.json", ".", "..", "/", "/no/such", "\x1b[31m", "\ud800", "é漢", "--", "-", "-h", "a=b", "=",
     "a:b", ":", "json:loads",
     "rewards.py:score", "rewards.py:waits", "rewards.py:text", "rewards.py:raises", "rewards.py:stops",
     "rewards.py:none", "rewards.py:coin",
     "rewards.py:missing", "rewards.py:", "schema.json", "grammar.lark", "smc", "gibbs", "beam", "exact", "optimal",
     "importance",
     "best_of_n", "ssp", "multinomial", "end", "truncate", "os:system", "numpy:nan", "feynkac:regex",
     "feynkac.programs.recipes:intersect"]
) | st.text(max_size=8)  # fmt: skip
OF_ALL = [
    "--particles",
    "-n",
    "--algorithm",
    "--resampler",
    "--ess-threshold",
    "--islands",
    "--sweeps",
    "--seed",
    "--dtype",
    "--device",
    "--out",
]
OF_GENERATE = [
    "-m", "-p", "--chat", "--regex", "--json-schema", "--grammar", "--reward", "--scale", "--max-tokens", "--stop",
    "--at-limit", "--temperature",
    "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--no-repeat-ngram-size", "--power", "--edit",
    "--emphasis", *OF_ALL,
]  # fmt: skip
OF_RUN = ["-a", "--arg", "-m", "--model", *OF_ALL]
OF_DIFFUSE = ["--reward", "--prompt", "--scale", "--potential-kind", "--every", "--pil", "--batch", "--steps",
    "--eta", "--guidance-scale",
              "--json", "--samples", "-a", *OF_ALL]  # fmt: skip
REWARDS = """
import math
import feynkac as fk

def score(text):
    return 1.0 * len(text)
async def waits(text):
    return 0.0
def text(text):
    return text
def raises(text):
    raise ValueError(f"cannot {text} \\x1b[31m\\n{{}}")
def stops(text):
    raise SystemExit(7)
def none(text):
    return None

@fk.program
def coin(p, heads=0.5):
    return p.sample(fk.Bernoulli(heads))
"""


@pytest.fixture(scope="session")
def place(tiny_lm, tmp_path_factory):
    """A folder with a model, and files that command lines may name."""
    place = tmp_path_factory.mktemp("commands")
    lm = tiny_lm()
    lm.model.generation_config.eos_token_id = 0
    lm.model.save_pretrained(place / "model")
    lm.tokenizer.save_pretrained(place / "model")
    (place / "rewards.py").write_text(REWARDS)
    (place / "schema.json").write_text('{"enum": ["a", "b"]}')
    (place / "grammar.lark").write_text('start: "a"*')
    return place


@pytest.fixture
def run(place, monkeypatch, capfd):  # by file descriptor: the streams of a process, which print anything
    def call(arguments: list[str]) -> None:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["feynkac", *arguments])
        with guarded():
            try:
                main()
            except SystemExit as left:
                assert left.code in (0, 1, 2, None), left.code
        said = capfd.readouterr()
        assert "Traceback" not in said.err and "\x1b[31m\x1b" not in said.out

    return call


def _options(names: list[str]) -> Any:
    pair = st.tuples(st.sampled_from(names), WORDS).map(list)
    return st.lists(pair | WORDS.map(lambda word: [word]), max_size=4).map(lambda parts: list(itertools.chain(*parts)))


@fuzz(share=0.05, sample=5)
@given(options=_options(OF_GENERATE))
def test_generate_ends_in_order(run, options) -> None:
    run(["generate", "-m", "model", "-p", "a", "--max-tokens", "2", "-n", "2", *options])


@fuzz(share=0.03, sample=4)
@given(name=WORDS | st.just("rewards.py:coin"), options=_options(OF_RUN))
def test_run_ends_in_order(run, name, options) -> None:
    run(["run", name, "-n", "2", *options])


@fuzz(share=0.01, sample=2)
@given(options=_options(OF_DIFFUSE))
def test_diffuse_ends_in_order(run, options) -> None:
    run(["diffuse", "model", *options])


@fuzz(share=0.02, sample=8)
@given(
    st.lists(
        WORDS | st.sampled_from(["generate", "run", "diffuse", "--help", "--version", "--install-completion"]),
        max_size=4,
    )
)
def test_any_words_end_in_order(run, words) -> None:
    if words[:1] not in (["demo"], ["doctor"]) and "--install-completion" not in words:
        run(words)
