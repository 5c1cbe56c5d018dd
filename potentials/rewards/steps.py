"""Rewards of the steps of a text, such as a process reward model gives, and what they come to for the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Remembers, has
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.words import is_word
from feynkac.potentials.base import Factor
from feynkac.potentials.rewards.boundaries import STEPS, Every, boundaries, read_every, tell_every
from feynkac.potentials.rewards.calling import OnError
from feynkac.potentials.rewards.samples import check_scale, make_scorer
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.potentials.rewards.texts import read_texts, require_memory, scale_scores

Total: TypeAlias = Literal["last", "min", "sum", "product", "mean"]
_MEMORY = np.array(
    (0, 0, 0, 0.0), dtype=[("end", np.int64), ("steps", np.int64), ("places", np.int64), ("value", np.float64)]
)
"""Of each particle: where its last step ended, how many there were, a hash of where, and what they come to."""


@suggest_names()
def process_reward(
    f: Callable[..., Any],
    every: Every = "\n\n",
    total: Total = "min",
    scale: float = 1.0,
    batch: bool = False,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    on_error: OnError = "raise",
    retries: int | None = None,
) -> StepFactor:
    """Weight texts by exp(scale * R), R being what the rewards r_1, ..., r_K of their steps come to.

    The steps end at the boundaries of the whole text that `every` names: a separator ("\\n\\n"), a compiled pattern, a
    function of the text, "word" or "sentence" (see `reward`). What follows the last boundary is a step, too, unless it
    is blank and there are others. r_k is f of the text up to the end of step k, and R is the last of them, the least,
    their sum, their product or their mean (`total`); Lightman et al. 2023, "Let's verify step by step", compare the
    least and the product. That is the target, whatever was asked on the way.

    On the way, the level is scale times what the finished steps come to; 0 before the first. Each prefix is scored once
    for a particle. f may take the problem, be async, slow or remote, and be asked in batches as in `reward`; -inf from
    it kills.

        fk.steer(task, fk.process_reward(lambda text: prm(text), every="\\n\\n", total="min", scale=2.0))

    Raises ArgumentError and PotentialError as `reward` does, and ArgumentError for an unknown `total`.
    """
    check_scale(scale, "process_reward")
    every = read_every(every, "process_reward")
    if isinstance(every, (int, *STEPS)) or every in ("token", "end"):
        raise ArgumentError(
            f"process_reward(every={quote(every)}): a step ends at a place in the text; give a separator such as "
            "'\\n\\n', a compiled pattern, 'word' or 'sentence'"
        )
    if not is_word(total, get_args(Total)):
        raise ArgumentError(
            f"process_reward(total={quote(total)}): choose one of {', '.join(map(repr, get_args(Total)))}"
        )
    slow = {"workers": workers, "timeout": timeout, "on_error": on_error, "retries": retries}
    return StepFactor(make_scorer(f, "process_reward", batch=batch, **slow), every, total, float(scale))


class StepFactor(Factor):
    """Rewards of steps as a potential of texts (see `process_reward`)."""

    def __init__(self, scorer: Scorer, every: Every, total: Total, scale: float) -> None:
        self.name, self.scale, self.every = scorer.name, scale, every
        self.total: Total = total
        self._scorer = scorer
        self.define(*tell_every(every))

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats: the scale times what the steps so far come to; 0 before the first."""
        memory = require_memory(state, self.name).array(self, _MEMORY)
        mine = memory[rows]
        texts = read_texts(state, self.name, rows)
        new = [boundaries(text, int(end), self.every) for text, end in zip(texts, mine["end"], strict=True)]
        self._add(mine, texts, new, t, rows, state)
        memory[rows] = mine
        return scale_scores(self._come_to(mine), self.scale)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats: the scale times what all steps of the whole text come to."""
        texts = read_texts(state, self.name, rows)
        ends = [list_steps(text, self.every) for text in texts]
        mine = np.array([_MEMORY] * len(rows), dtype=_MEMORY.dtype)
        if has(state, Remembers):
            seen = state.memory.array(self, _MEMORY)[rows]
            for i, some in enumerate(ends):
                # What is known of the beginning of a text holds if its steps ended where they end in the whole one.
                n = int(seen[i]["steps"])
                if n <= len(some) and _hash(some[:n]) == seen[i]["places"]:
                    mine[i] = seen[i]
        self._add(mine, texts, [some[int(n) :] for some, n in zip(ends, mine["steps"], strict=True)], None, rows, state)
        return scale_scores(self._come_to(mine), self.scale)

    def _add(
        self, mine: NDArray[Any], texts: Sequence[str], new: list[list[int]], t: int | None, rows: Rows, state: Any
    ) -> None:
        """Score the steps that end at `new` places and fold them into `mine` (R,), in the order of the text."""
        asked = [(i, end) for i, ends in enumerate(new) for end in ends]
        at = rows[[i for i, _ in asked]]
        scores = self._scorer.score_texts([texts[i][:end] for i, end in asked], t, at, state)
        for (i, end), score in zip(asked, scores.tolist(), strict=True):
            row = mine[i]
            row["value"] = score if row["steps"] == 0 else self._fold(float(row["value"]), score)
            row["places"] = _hash([end], int(row["places"]))
            row["end"], row["steps"] = end, row["steps"] + 1

    def _fold(self, past: float, new: float) -> float:
        if past == -np.inf or new == -np.inf:
            return -np.inf  # kills, whatever it is multiplied by
        if self.total in ("sum", "mean"):
            return past + new
        return {"last": new, "min": min(past, new), "product": past * new}[self.total]

    def _come_to(self, mine: NDArray[Any]) -> NDArray[np.float64]:
        """(R,) R of the steps so far; 0 of none."""
        steps = np.maximum(mine["steps"], 1) if self.total == "mean" else 1
        return np.where(mine["steps"] > 0, mine["value"] / steps, 0.0)


def list_steps(text: str, every: Every) -> list[int]:
    """Where the steps of a whole text end: its boundaries, and its end if more than blanks follow them, or no other."""
    ends = boundaries(text, 0, every)
    return ends if ends and not text[ends[-1] :].strip() else [*ends, len(text)]


def _hash(ends: Sequence[int], start: int = 0) -> int:
    """A number that tells lists of places apart, for all that matters: 63 bits, added to from the left."""
    for end in ends:
        start = (start * 6364136223846793005 + 2 * end + 1) & (2**63 - 1)
    return start
