"""What a discrete diffusion model must know how to do, and its answers remembered for as long as they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import ModelError

if TYPE_CHECKING:
    from feynkac.models.discrete.composition import Composition

Tokens = NDArray[np.int64]
"""(N, L) token ids; with K clean tokens, K itself stands for a mask."""
LogProbs = NDArray[np.float64]
"""(N, L, K) log-probabilities of the clean token at each position, in nats."""


class LogitsDenoiser(Protocol):
    """The posterior of the clean tokens, each position by itself.

    A denoiser whose answer does not depend on `t` sets `time_independent = True`: canvases that a step leaves as they
    are then cost no evaluation.
    """

    def log_probs(self, tokens: Tokens, t: float) -> LogProbs:
        """(U, L, K) nats, normalised, for U canvases at noise level `t` in [0, 1]; -inf where a token cannot be."""
        ...


@runtime_checkable
class ChainedDenoiser(LogitsDenoiser, Protocol):
    """A denoiser that also knows how a token depends on the one before it: its posterior is a Markov chain.

    Constraints are then foreseen, and met, without error. Who knows it only nearly may say so, too: it only guides.
    """

    def transitions(self, tokens: Tokens, t: float) -> NDArray[np.float64]:
        """(U, L - 1, K, K) nats: the law of each clean token (last index) given the one before it and the canvas."""
        ...


@dataclass(frozen=True)
class Outputs:
    """The denoiser's answers for the canvases of a population, each distinct canvas once.

    Nothing here is ever written in place, so that children may share it.
    """

    denoiser: LogitsDenoiser | Composition
    slot: Rows
    """(N,) the answer that belongs to each row; -1 where there is none yet."""
    table: NDArray[np.float64]
    """(U, E, L, K), what each of the E experts of a composition says; else E is 1."""
    known: dict[bytes, int] = field(default_factory=dict)
    """The answer that belongs to each canvas."""

    @classmethod
    def none(cls, denoiser: LogitsDenoiser | Composition, n: int, length: int, k: int) -> Outputs:
        """No answers yet, for `n` rows."""
        return cls(denoiser, np.full(n, -1), np.empty((0, len(_experts(denoiser)), length, k)))

    def fork(self, rows: Rows) -> Outputs:
        """The answers of the population whose row `i` continues from `rows[i]`."""
        return Outputs(self.denoiser, self.slot[rows], self.table, self.known)

    def after(self, changed: NDArray[np.bool_]) -> Outputs:
        """What still holds after a step that changed the (N,) rows `changed`: nothing, if the denoiser uses time."""
        if not getattr(self.denoiser, "time_independent", False):
            return Outputs.none(self.denoiser, len(self.slot), *self.table.shape[2:])
        return Outputs(self.denoiser, np.where(changed, -1, self.slot), self.table, self.known)

    def having(self, rows: Rows, tokens: Tokens, t: float) -> tuple[Outputs, list[int]]:
        """These answers and those for `rows`, and the rows whose canvases were evaluated. Raises ModelError."""
        stale = rows[self.slot[rows] < 0]
        if not len(stale):
            return self, []
        used, slot = np.unique(self.slot, return_inverse=True)
        kept = used[used >= 0]
        slot = slot.reshape(-1) - (len(used) - len(kept))
        number = np.full(len(self.table), -1)
        number[kept] = np.arange(len(kept))
        known = {key: int(number[old]) for key, old in self.known.items() if number[old] >= 0}
        asked: list[int] = []
        for row in stale:
            key = tokens[row].tobytes()
            if key not in known:
                known[key] = len(kept) + len(asked)
                asked.append(int(row))
            slot[row] = known[key]
        table = self.table[kept]
        if asked:
            answers = [self._evaluated(expert, tokens[asked], t) for expert in _experts(self.denoiser)]
            table = np.concatenate([table, np.stack(answers, axis=1)])
        return Outputs(self.denoiser, slot, table, known), asked

    def _evaluated(self, denoiser: LogitsDenoiser, tokens: Tokens, t: float) -> LogProbs:
        answer = np.asarray(denoiser.log_probs(tokens, t), dtype=np.float64)
        shape = (*tokens.shape, self.table.shape[3])
        name = type(denoiser).__name__
        if answer.shape != shape:
            raise ModelError(f"{name}.log_probs returned shape {answer.shape} for {len(tokens)} canvases, not {shape}")
        total = np.exp(answer).sum(axis=-1)
        if not (np.abs(total - 1.0) < 1e-3).all():
            worst = total.flat[np.nanargmax(np.abs(total - 1.0))] if not np.isnan(total).any() else np.nan
            raise ModelError(f"{name}.log_probs has probabilities that sum to {worst}; return log_softmax(logits)")
        return answer


def _experts(denoiser: LogitsDenoiser | Composition) -> tuple[LogitsDenoiser, ...]:
    from feynkac.models.discrete.composition import Composition

    return denoiser.experts if isinstance(denoiser, Composition) else (denoiser,)
