"""Who takes part: the adapter of each peer, the environment it runs in, and what its version is the version of."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OWN = Path(sys.executable)
LANGUAGE = ROOT / ".venv-peers" / "language" / "bin" / "python"
GUIDANCE = ROOT / ".venv-peers" / "guidance" / "bin" / "python"
"""Environments of `make peers`; guidance needs an older transformers than the others."""


@dataclass(frozen=True)
class Peer:
    """One column of the tables."""

    adapter: str
    """The module of this package that has its tasks."""
    title: str
    package: str
    """Whose version is told."""
    python: Path = LANGUAGE
    options: dict[str, Any] = field(default_factory=dict)
    """What its adapter is told."""

    def find(self) -> str | None:
        """Why the peer can't run here; None where it can."""
        if self.python == OWN:
            return None
        installed = f"lib/python*/site-packages/{self.package.replace('-', '_')}-*.dist-info"
        if any(self.python.parents[1].glob(installed)):
            return None
        return f"{self.package} is not in {self.python.parents[1].name}: run `make peers`"


COMPAT = "feynkac.programs.compat.llamppl"
PEERS = {
    "feynkac": Peer("ours", "feynkac", "feynkac", OWN),
    "feynkac-program": Peer("ours", "feynkac, as a program", "feynkac", OWN, {"program": True}),
    "feynkac-bfloat16": Peer("ours", "feynkac, bfloat16", "feynkac", OWN, {"dtype": "bfloat16"}),
    "feynkac-packed": Peer("ours", "feynkac, packed", "feynkac", OWN, {"packed": True}),
    "feynkac-packed-bfloat16": Peer(
        "ours", "feynkac, packed, bfloat16", "feynkac", OWN, {"packed": True, "dtype": "bfloat16"}
    ),
    "compat": Peer("llamppl_", "LLaMPPL's program on feynkac", "feynkac", OWN, {"package": COMPAT}),
    "transformers": Peer("transformers_", "transformers", "transformers", OWN),
    "llamppl": Peer("llamppl_", "llamppl", "llamppl", options={"package": "llamppl"}),
    "genlm": Peer("genlm", "genlm-control", "genlm-control"),
    "outlines": Peer("outlines_", "outlines", "outlines"),
    "guidance": Peer("guidance_", "guidance", "guidance", GUIDANCE),
}  # fmt: skip
