"""Progress bars: one line on a terminal or in a notebook, and nothing for runs that are over at once."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Literal, TextIO

import numpy as np
from tqdm.std import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from feynkac.smc.budgets import TokenCount
from feynkac.smc.engine import Step
from feynkac.smc.weights import effective_sample_size

DELAY = 0.5
"""Seconds before a bar that nobody asked for is shown, so that short runs flicker nothing."""
EVERY = 0.1
"""Seconds between two looks at the particles."""
WIDTH = 110
"""Characters in a notebook, which does not tell its width."""


def make_bar(
    total: int | None = None,
    *,
    shown: bool | None = None,
    file: TextIO | None = None,
    delay: float = DELAY,
    **options: Any,
) -> tqdm[Any]:
    """A bar of tqdm of one line. `shown`: None is on a terminal or in a notebook, in the main thread, after `delay`."""
    notebook = file is None and type(sys.stdout).__module__.startswith("ipykernel")
    target = file or (sys.stdout if notebook else sys.stderr)
    watched = notebook or bool(getattr(target, "isatty", lambda: False)())
    if shown is None and not (watched and threading.current_thread() is threading.main_thread()):
        shown = False
    return tqdm(
        total=total,
        file=target,
        disable=shown is False,
        delay=0.0 if shown else delay,
        ncols=WIDTH if notebook else None,
        dynamic_ncols=not notebook,
        mininterval=EVERY,
        **options,
    )


class Progress:
    """An observer that shows a bar with ESS, particles that live and have finished, log evidence and tokens a second.

    `total` steps or sweeps, if known; with `unit="sweep"` a run that ends counts one. `shown`: see `make_bar`.
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        shown: bool | None = None,
        file: TextIO | None = None,
        unit: Literal["step", "sweep", "history"] = "step",
    ) -> None:
        self._bar = make_bar(total, shown=shown, file=file, unit=unit)
        self._count, self._began, self._due = TokenCount(), time.monotonic(), 0.0
        self._last: tuple[Step, int | None, float] | None = None
        """The step seen last, the tokens up to it, and when it was seen."""

    def __call__(self, step: Step) -> None:
        if self._bar.disable:
            return
        now = time.monotonic()
        self._last = step, self._count(step), now
        if now >= self._due:
            self._due = now + EVERY
            self._tell(*self._last)
        self.add(1 if self._bar.unit != "sweep" or step.ended else 0)

    def add(self, n: int = 1) -> None:
        """So many units more."""
        self._bar.update(n)

    def close(self) -> None:
        """Leave the bar as it is: full where the run came to its end, be it in fewer steps than it might have taken."""
        if self._last is not None:
            if self._last[0].ended and self._bar.unit == "step":
                self._bar.total = self._bar.n
            self._tell(*self._last)
        self._last = None
        self._bar.close()

    def _tell(self, step: Step, tokens: int | None, now: float) -> None:
        speed = "" if tokens is None else f", {tokens / max(now - self._began, 1e-9):.0f} tokens/s"
        self._bar.set_postfix_str(describe(step) + speed, refresh=False)


def describe(step: Step) -> str:
    """A population in a few words; of several problems the smallest ESS."""
    alive = step.log_weight > -np.inf
    rows = f"alive {alive.sum()}, done {(step.done & alive).sum()}"
    if len(step.groups) == 1:
        return f"ESS {step.ess:.1f}/{len(alive)}, {rows}, log Z {step.log_z:.2f}"
    ess, size = min((effective_sample_size(step.log_weight[part]), part.stop - part.start) for part in step.groups)
    return f"{len(step.groups)} problems, least ESS {ess:.1f}/{size}, {rows}"
