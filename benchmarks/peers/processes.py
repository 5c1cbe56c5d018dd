"""Processes that run one peer each, and take and give lines of JSON."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from peers.cases import Case
from peers.registry import PEERS

CHILD = Path(__file__).with_name("child.py")
QUIET = 1000
"""Characters of a peer's last words that are kept."""


class PeerError(Exception):
    """A peer that failed, ended or took too long."""


class Process:
    """A running peer. Leave its `with` block to end it."""

    def __init__(self, command: Sequence[str], env: dict[str, str], limit: float) -> None:
        pipe = subprocess.PIPE
        self._limit, self._errors = limit, list[str]()
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._readers = [threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._join()
        self._process.__exit__(kind, error, at)  # closes the pipes

    def _join(self) -> None:
        """Wait for what is still to be read; not for long, as a process of the peer's own may hold its pipes."""
        for reader in self._readers:
            reader.join(timeout=5.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)

    def tell(self, line: dict[str, Any]) -> None:
        """Write one line; the answer says whether it was read."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(line), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise PeerError("it has ended") from error

    def hear(self) -> dict[str, Any]:
        """The next line. Raises PeerError where none comes in time, or one that tells of an error."""
        try:
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            raise PeerError(f"it took more than {self._limit:g} seconds") from None
        if line is None:
            self._join()
            raise PeerError(f"it has ended: {''.join(self._errors)[-QUIET:]}")
        told = json.loads(line)
        if "error" in told:
            raise PeerError(told["error"])
        return told


def start(peer: str, case: Case, *, model: str, prompt: str, threads: int, limit: float) -> Process:
    """A process that has begun to load `peer` for `case`."""
    job = {"peer": peer, "case": asdict(case), "model": model, "prompt": prompt, "threads": threads}
    same = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(PEERS[peer].python), "-P", str(CHILD), json.dumps(job)]
    return Process(command, {**os.environ, **same, **quiet}, limit)
