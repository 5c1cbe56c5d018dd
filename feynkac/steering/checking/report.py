"""What `check` found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from feynkac.base.errors import FeynkacError
from feynkac.base.escaping import escape


@dataclass
class Report:
    """What `check` found. `print(report)` tells it in words; `report.faults` is empty where nothing was wrong."""

    has: list[str] = field(default_factory=list)
    """What the objects offer beyond the contract."""
    lacks: list[str] = field(default_factory=list)
    """What they do not offer, and what happens without it."""
    passed: list[str] = field(default_factory=list)
    """What the short runs have shown to be right."""
    notes: list[str] = field(default_factory=list)
    """What is allowed, and good to know."""
    faults: list[str] = field(default_factory=list)
    """What is wrong."""

    def add_fault(self, fault: str) -> None:
        """Tell a fault, once."""
        if fault not in self.faults:
            self.faults.append(fault)

    def attempt(self, what: str, act: Callable[[], Any]) -> Any:
        """What `act()` returns, or None where it raises, which is told."""
        try:
            return act()
        except Exception as error:
            kind = "" if isinstance(error, FeynkacError) else f"{type(error).__name__}: "
            self.add_fault(f"{what} stopped: {kind}{error}")
            return None

    def __str__(self) -> str:
        titles = {"has": "has", "lacks": "lacks (none of it is required)", "passed": "right"}
        titles |= {"notes": "note", "faults": "WRONG"}
        blocks = [(title, getattr(self, name)) for name, title in titles.items()]
        lines = [line for title, found in blocks if found for line in (title, *(f"  - {each}" for each in found))]
        return escape("\n".join(lines), keep="\n")

    __repr__ = __str__


def tell_capabilities(report: Report, who: str, thing: Any, capabilities: tuple[type, ...]) -> None:
    """Tell what a thing offers beyond its contract, and what happens without the rest."""
    for capability in capabilities:
        what, _, otherwise = " ".join((capability.__doc__ or "").split("\n\n")[0].split()).partition(" Without it: ")
        if isinstance(thing, capability):
            report.has.append(f"{who}: {capability.__name__}. {what}")
        else:
            report.lacks.append(f"{who}: {capability.__name__}. Without it: {otherwise}")
