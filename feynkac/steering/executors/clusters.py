"""What is known of a cluster, and of how it is to be reached, before Ray is asked."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict

ANSWER = 10.0
"""Seconds in which a machine must answer. Ray itself tries for many minutes."""


def check_text(name: str, value: Any, example: str) -> str | None:
    """An option that is a text or None. Raises ArgumentError for anything else."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ArgumentError(f"{name} is {quote(value)}; give a text such as {quote(example)}, or None")


def check_environment(value: Any) -> Mapping[str, Any] | None:
    """A runtime environment of Ray. Raises ArgumentError for what is no mapping from names."""
    if value is None:
        return None
    if (found := as_dict(value)) is not None and all(isinstance(key, str) for key in found):
        return found
    raise ArgumentError(f"runtime_env is {quote(value)}; give a dict as Ray has it, such as {{'working_dir': '.'}}")


def check_listening(address: str | None) -> None:
    """See that something answers at an address HOST:PORT; other ones are for Ray to understand.

    Raises OSError where nothing does, ValueError for a port that is none.
    """
    if address is None or "://" in address or address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("an address is HOST:PORT, such as head:6379")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()


def describe_nodes(nodes: Sequence[Mapping[str, Any]]) -> str:
    """The CPUs of each node in words, where there are several."""
    counts = [f"{node['Resources'].get('CPU', 0.0):g}" for node in nodes if node["Alive"]]
    return f" on {len(counts)} nodes, CPUs {' + '.join(counts)}" if 1 < len(counts) <= 16 else ""
