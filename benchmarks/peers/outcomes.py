"""What an adapter gives: runs of a task, and what came of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from peers.cases import Case


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    texts: list[str]
    """The samples that count: those of weight zero are left out."""
    tokens: int
    """Tokens that all particles wrote."""
    log_evidence: float | None = None
    """Nats; None where the peer has none."""
    calls: int | None = None
    """Calls of the critic or of the check; None where nothing is called."""


Run = Callable[[int, int], Outcome]
"""A seed and the tokens of a text."""


class Adapter(Protocol):
    """A peer with its model loaded."""

    model: Any
    """The model of transformers that it runs, whose passes are counted."""
    tasks: dict[str, Callable[[Case, str], Run]]
    """What it can do: for each task a function of the case and the prompt that prepares its runs."""
