"""Chains of particle Gibbs between two sweeps as trees: what each has kept, and the population its next path is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from feynkac.results.history import History
from feynkac.smc.diagnostics import Spread
from feynkac.steering.chains import Chain, Kept
from feynkac.steering.checkpoints.fields import read_fields, write_fields
from feynkac.steering.checkpoints.populations import prepare, read_step, write_step

if TYPE_CHECKING:
    from feynkac.steering.checkpoints.saving import Saver


class SweepSaver:
    """Saves all chains of a call after sweeps that each of them has made."""

    def __init__(self, saver: Saver) -> None:
        self._saver, self._models = saver, list[Any]()
        self._saved: dict[str, Any] | None = saver.take_up()
        self.begun = 0 if self._saved is None else int(self._saved["sweeps"])
        """Sweeps that were taken up."""
        if self.begun:
            saver.pace.note(self.begun - 1)

    def follow(self, model: Any) -> Any:
        """The model of the next problem as it is to be run, in place of `model`."""
        self._models.append(prepare(model))
        return self._models[-1]

    def find(self, g: int, b: int) -> Callable[[Chain], Any]:
        """What takes up chain `b` of problem `g`, as far as one was saved, and gives its last path."""
        return lambda chain: None if self._saved is None else self._read(self._saved["chains"][g][b], g, chain)

    def __call__(self, k: int, chains: Sequence[Sequence[Chain]], *, last: bool) -> None:
        """Sweep `k` is over, the `last` one or not."""
        if last or self._saver.pace.is_due(k):
            self._saver.save(k, lambda: {"sweeps": k + 1, "chains": self._write(chains)})

    def _write(self, chains: Sequence[Sequence[Chain]]) -> Any:
        return [[_write_chain(model, each) for each in of] for model, of in zip(self._models, chains, strict=True)]

    def _read(self, saved: dict[str, Any], g: int, chain: Chain) -> Any:
        chain.kept = [_read_kept(each) for each in saved["kept"]]
        model = self._models[g]
        read_step(model, saved["last"], [chain.recorder])
        return None if chain.dead else model.read_path(saved["path"])


def _write_chain(model: Any, chain: Chain) -> dict[str, Any]:
    last = chain.recorder.whole
    assert last is not None
    kept = [_write_kept(each) for each in chain.kept]
    path = None if chain.dead else model.write_path(chain.path)
    return {"kept": kept, "path": path, "last": write_step(model, last, [chain.recorder])}


def _write_kept(kept: Kept) -> dict[str, Any]:
    history = {each.name: getattr(kept.history, each.name) for each in fields(History)}
    made = {"history": history, "spread": read_fields(kept.spread), "notes": [*kept.notes.items()]}
    return {**kept._asdict(), **made}


def _read_kept(saved: dict[str, Any]) -> Kept:
    spread = Spread()
    write_fields(spread, saved["spread"])
    made = {"history": History(**saved["history"]), "spread": spread, "notes": Counter(dict(saved["notes"]))}
    return Kept(**{**saved, **made})
