"""The answers of a denoiser, remembered for as long as they hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import IgnoresTime, Ranks, has
from feynkac.base.contract import Mask, Rows
from feynkac.base.errors import ModelError
from feynkac.models.discrete.composition import Composition
from feynkac.models.discrete.denoiser import LogitsDenoiser, Tokens
from feynkac.models.discrete.ranked import Ranking


@dataclass(frozen=True)
class Outputs:
    """The denoiser's answers for the canvases of a population, each distinct canvas once.

    Nothing here is ever written in place, so that children may share it.
    """

    denoiser: LogitsDenoiser | Composition
    slot: Rows
    """(N,) the answer that belongs to each row; -1 where there is none yet."""
    table: NDArray[np.float64]
    """(U, E, L, K), what each of the E experts of a composition says; else E is 1. Of a denoiser that `Ranks`, what
    `Ranking.pack` makes of its answers stands in the place of the K tokens."""
    known: dict[bytes, int] = field(default_factory=dict)
    """The answer that belongs to each canvas."""

    @classmethod
    def empty(cls, denoiser: LogitsDenoiser | Composition, n: int, length: int, width: int) -> Outputs:
        """No answers yet, for `n` rows; `width`: see `find_width`."""
        return cls(denoiser, np.full(n, -1), np.empty((0, len(list_experts(denoiser)), length, width)))

    def fork(self, rows: Rows) -> Outputs:
        """The answers of the population whose row `i` continues from `rows[i]`."""
        return Outputs(self.denoiser, self.slot[rows], self.table, self.known)

    def drop_stale(self, changed: Mask) -> Outputs:
        """The answers that hold after a step that changed the (N,) rows `changed`: none, if the denoiser uses time."""
        if not (isinstance(self.denoiser, IgnoresTime) and self.denoiser.time_independent):
            return Outputs.empty(self.denoiser, len(self.slot), *self.table.shape[2:])
        return Outputs(self.denoiser, np.where(changed, -1, self.slot), self.table, self.known)

    def evaluate(self, rows: Rows, tokens: Tokens, t: float) -> tuple[Outputs, list[int]]:
        """These answers and those for `rows`, and the rows whose canvases were evaluated. Raises ModelError."""
        stale = rows[self.slot[rows] < 0]
        if not len(stale):
            return self, []
        used = self._drop_unused()
        slot, known, table = used.slot, used.known, used.table
        asked: list[int] = []
        for row in stale:
            key = tokens[row].tobytes()
            if key not in known:
                known[key] = len(table) + len(asked)
                asked.append(int(row))
            slot[row] = known[key]
        if asked:
            answers = [self._ask(expert, tokens[asked], t) for expert in list_experts(self.denoiser)]
            table = np.concatenate([table, np.stack(answers, axis=1)])
        return Outputs(self.denoiser, slot, table, known), asked

    def _drop_unused(self) -> Outputs:
        """A copy without the answers that belong to no row; the others keep their order."""
        used, slot = np.unique(self.slot, return_inverse=True)
        kept = used[used >= 0]
        slot = slot.reshape(-1) - (len(used) - len(kept))
        number = np.full(len(self.table), -1)
        number[kept] = np.arange(len(kept))
        known = {key: int(number[old]) for key, old in self.known.items() if number[old] >= 0}
        return Outputs(self.denoiser, slot, self.table[kept], known)

    def _ask(self, denoiser: LogitsDenoiser, tokens: Tokens, t: float) -> NDArray[np.float64]:
        name = type(denoiser).__name__
        if has(denoiser, Ranks):
            ranking = Ranking(*denoiser.rank(tokens, t))
            answer, asked, log_p = (
                ranking.pack(),
                "rank",
                np.concatenate([ranking.log_p, ranking.log_rest[..., None]], -1),
            )
        else:
            asked, answer = "log_probs", np.asarray(denoiser.log_probs(tokens, t), dtype=np.float64)
            log_p = answer
        shape = (*tokens.shape, self.table.shape[3])
        if answer.shape != shape:
            raise ModelError(f"{name}.{asked} returned shape {answer.shape} for {len(tokens)} canvases, not {shape}")
        total = np.exp(log_p).sum(axis=-1)
        if not (np.abs(total - 1.0) < 1e-3).all():
            worst = total.flat[np.nanargmax(np.abs(total - 1.0))] if not np.isnan(total).any() else np.nan
            raise ModelError(f"{name}.{asked} has probabilities that sum to {worst}; return log_softmax(logits)")
        return answer


def list_experts(denoiser: LogitsDenoiser | Composition) -> tuple[LogitsDenoiser, ...]:
    """The experts of a composition; of any other denoiser itself."""
    return denoiser.experts if isinstance(denoiser, Composition) else (denoiser,)


def find_width(denoiser: LogitsDenoiser | Composition, k: int) -> int:
    """The numbers that are kept for each position: one for each of `k` tokens, or those of a `Ranking`."""
    return 2 * denoiser.n_ranked + 1 if has(denoiser, Ranks) else k
