"""A real server on the loopback address: `transformers serve` with SmolLM2, started and stopped here."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

import feynkac as fk

pytestmark = [
    pytest.mark.served,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("uvicorn", "fastapi", "openai")),
        reason="needs transformers[serving]: `make test-served` installs it",
    ),
]
START = 300.0
"""Seconds in which the server must be there."""
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def folder(smollm2, tmp_path_factory) -> Path:
    """SmolLM2 with a generation config that samples from all tokens: requests have no words for these two."""
    made = tmp_path_factory.mktemp("model")
    for file in smollm2.iterdir():
        if file.name != "generation_config.json":
            os.symlink(file, made / file.name)
    known = smollm2 / "generation_config.json"
    config = json.loads(known.read_text()) if known.exists() else {}
    (made / "generation_config.json").write_text(json.dumps({**config, "do_sample": True, "top_k": 0}))
    return made


@pytest.fixture
def start(folder) -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    """Starts servers, each with its address and its process; all are stopped in the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start_one() -> tuple[str, subprocess.Popen[bytes]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        code = "from transformers.cli.transformers import main; main()"
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--default-seed", "0"]
        command = [sys.executable, "-P", "-c", code, "serve", str(folder), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        deadline = time.monotonic() + START
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5.0).status_code == 200:
                    return f"http://127.0.0.1:{port}/v1", process
            except httpx2.TransportError:
                time.sleep(0.2)
        raise AssertionError(f"no server after {START:g} seconds, exit status {process.poll()}")

    yield start_one
    for process in running:
        process.kill()
        process.wait(30)


@fk.program
def continue_text(p, lm, pieces, **gen):
    text = lm.context(PROMPT)
    for _ in range(pieces):
        if text.ended:
            break
        p.sample(text.gen(**gen))
    return str(text)


def test_programs_run_on_transformers_serve(start, folder) -> None:
    url, process = start()
    lm = fk.ServedLM(url, str(folder), listed=False, retries=1, pause=0.1, concurrency=4)

    # Its law is the model's: how often " Paris" is drawn, against its probability here; one false alarm in 10,000.
    drawn = fk.steer(continue_text(lm, 1, max_tokens=1), particles=80, seed=0).samples
    local = fk.CausalLM.from_pretrained(str(folder), dtype="float32")
    p = math.exp(local.score(PROMPT, [" Paris"], end=False)[0])
    assert abs(drawn.count(" Paris") - 80 * p) < 3.9 * math.sqrt(80 * p * (1 - p))

    # Units, forks and rewards; the server knows no `n`.
    before = lm.usage.requests
    reward = fk.reward(lambda text: 2.0 * text.count("a"), every=1)
    result = fk.steer(continue_text(lm, 3, unit="word"), reward, particles=4, seed=1)
    assert result.complete and all(len(text.split()) <= 3 for text in result.samples)
    assert lm.usage.requests - before >= 12 and lm.usage.completion_tokens > 0

    # What this server cannot do, and what it refuses.
    @fk.program
    def observe(p, lm):
        text = lm.context(PROMPT)
        text.observe_text(" Paris")
        return str(text)

    with pytest.raises(fk.ModelError, match="does not echo a prompt"):
        fk.steer(observe(lm), particles=1, seed=0)
    with pytest.raises(fk.ModelError, match=r"refuses the request with 400: Server is pinned to"):
        fk.steer(continue_text(fk.ServedLM(url, "other", listed=False), 1, max_tokens=1), particles=1, seed=0)
    unlisted = r"not 'other'; ask for what it serves|answers 500"  # the latter where there is no cache folder
    with pytest.raises(fk.ModelError, match=unlisted):
        fk.steer(continue_text(fk.ServedLM(url, "other"), 1, max_tokens=1), particles=1, seed=0)

    # It dies on the way.
    def stop(text):
        process.kill()
        process.wait(30)
        return 0.0

    dead = fk.steer(continue_text(lm, 3, max_tokens=2), fk.reward(stop, every=1), particles=2, seed=0)
    assert not dead.complete and len(dead.samples) == 2 and "cannot be reached" in dead.warnings[0]
    lm.close()
