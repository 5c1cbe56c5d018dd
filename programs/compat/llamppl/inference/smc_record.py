"""The record of a run, as LLaMPPL's viewer reads it."""

from __future__ import annotations

import json
import math
from typing import Any

from feynkac.base.contract import LogW
from feynkac.programs.compat.llamppl.running import Population
from feynkac.smc.engine import Step


class SMCRecord:
    """All steps of a run so far."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []

    def add(self, step: Step, population: Population, weight: LogW) -> None:
        """Add one step, whose (N,) log-weights are `weight`, in nats."""
        self.history.append(_describe(step, population, weight, self.history))

    def to_json(self) -> str:
        """What the viewer opens."""
        return json.dumps(self.history)


def _describe(step: Step, population: Population, weight: LogW, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """One step as LLaMPPL's viewer reads it."""
    last = [float(particle["logweight"]) for particle in earlier[-1]["particles"]] if earlier else [0.0] * len(weight)
    before = [last[parent] for parent in step.rows.tolist()]
    particles = []
    for row, now, was in zip(population.rows, weight.tolist(), before, strict=True):
        text = row.model.string_for_serialization()
        shown = text if "<<<" in text or ">>>" in text else f"<<<>>>{text}"
        gain = now - was if was > -math.inf else 0.0
        particles.append({"contents": shown, "logweight": _format(now), "weight_incr": str(gain)})
    resampled = any(step.resampled)
    mode = "init" if step.t == 0 else "resample" if resampled else "smc_step"
    ancestors = {"ancestors": step.rows.tolist()} if resampled else {}
    return {"step": step.t + 1, "mode": mode, **ancestors, "particles": particles}


def _format(x: float) -> str:
    return "-Infinity" if x == -math.inf else str(x)
