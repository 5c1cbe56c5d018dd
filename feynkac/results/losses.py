"""Where the mass of a run was lost: at which step, behind which prefix, and to whom.

A step takes the weights c_i that its particles carry to w_i. What is lost at a prefix u is L(u) = sum over the
particles behind u of exp(c_i) - exp(w_i), of S = sum_i exp(c_i) in all. Both are unbiased for the masses of the target
before and after the step, since weights are proper at every step. The step as a whole costs -log(1 - sum_u L(u) / S)
nats, of which each prefix has the part that it has in sum_u L(u).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.smc.weights import log_sum_exp, normalise

if TYPE_CHECKING:
    from feynkac.results.history import History


class Prefixes:
    """The texts from which particles went on, each a piece behind another."""

    def __init__(self) -> None:
        self._parents, self._pieces, self._numbers = [-1], [""], dict[tuple[int, str], int]()

    def add(self, before: int, piece: str) -> int:
        """The number of the text with `piece` behind the text number `before`; 0 is the empty one."""
        number = self._numbers.setdefault((before, piece), len(self._parents))
        if number == len(self._parents):
            self._parents.append(before)
            self._pieces.append(piece)
        return number

    def write(self, number: int) -> str:
        """The whole text."""
        pieces = list[str]()
        while number > 0:
            pieces.append(self._pieces[number])
            number = self._parents[number]
        return "".join(reversed(pieces))


@dataclass(frozen=True)
class Loss:
    """What one step took from the particles behind one prefix. Nats are those lost: negative ones were gained."""

    step: int
    nats: float
    """Its part in minus the log evidence."""
    along: float
    """What a text of the posterior lost here on the mean, those that never came by included; these add up to the mean
    of what the texts lost in all."""
    masked: float
    """What a particle lost here to masks and proposals, or to the scores of a program."""
    weighed: float
    """What it lost here to potentials; inf where they rejected all."""
    share: float
    """The part of all weight that stood here before the step."""
    posterior: float
    """The part of the final weight that came by."""
    particles: int
    died: int
    killers: tuple[str, ...]
    """The potentials that rejected those that died, and "the model" where no token was left, or a program gave up; the
    first one most."""
    _prefixes: Prefixes = field(repr=False, compare=False)
    _number: int = field(repr=False, compare=False)

    @property
    def prefix(self) -> str:
        """The text that stood before the step, as far as the model tells."""
        return self._prefixes.write(self._number)


def pass_back(history: History) -> list[NDArray[np.float64]]:
    """For each step (N,) the part of the final weight that descends from each particle."""
    passing = [normalise(np.array(history.log_weights[-1]))]
    for t in range(len(history.rows) - 1, 0, -1):
        passing.append(np.bincount(history.rows[t], passing[-1], len(history.rows[t - 1])).astype(np.float64))
    return passing[::-1]


def write_prefix(history: History, t: int, row: int) -> str:
    """The text behind which a particle stood when step `t` began."""
    pieces = list[str]()
    for s in range(t, 0, -1):
        row = history.rows[s][row]
        pieces.append(history.pieces[s - 1][row])
    return "".join(reversed(pieces))


def find_running(history: History, t: int) -> NDArray[np.bool_]:
    """(N,) which particles a step has extended, as far as it shows; of those that it does not, nothing was lost."""
    carried, weight = np.array(history.carried[t]), np.array(history.log_weights[t])
    moved = (np.array(history.increments[t]) != 0.0) | (weight != carried)
    if history.pieces:
        added = np.array([bool(piece) for piece in history.pieces[t]], np.bool_)
        moved |= added | (np.array(history.log_probs[t]) != 0.0)
    return moved & (carried > -np.inf)


def list_losses(
    history: History, t: int, numbers: NDArray[np.int64], passing: NDArray[np.float64], prefixes: Prefixes
) -> list[Loss]:
    """Those of one step, `numbers` (N,) the prefix of each particle and `passing` (N,) its part of the final weight."""
    carried, weight = np.array(history.carried[t]), np.array(history.log_weights[t])
    increment = np.array(history.increments[t])
    total = log_sum_exp(carried)
    share, left = np.exp(carried - total), np.exp(weight - total)
    allowed = share * np.exp(increment)
    # -log(1 - x) / x, by which the parts of a step add up to its whole.
    x = float(1.0 - left.sum())
    scale = 1.0 if abs(x) < 1e-12 else math.inf if left.sum() == 0.0 else -math.log(left.sum()) / x
    ran = np.flatnonzero(find_running(history, t))
    if not len(ran):
        return []
    order = ran[np.argsort(numbers[ran], kind="stable")]
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    dead, own = weight[order] == -np.inf, order[passing[order] > 0.0]
    along = np.zeros(len(weight))
    along[own] = passing[own] * (carried[own] - weight[own])
    columns = *(each[order] for each in (share, allowed, left, along, passing)), np.ones(len(order)), dead * 1
    sums = [np.add.reduceat(column, starts).tolist() for column in columns]
    ends, found = [*starts[1:].tolist(), len(order)], list[Loss]()
    for start, end, here, kept, after, lost_along, posterior, n, n_dead in zip(
        starts.tolist(), ends, *sums, strict=True
    ):
        lost = here - after
        found.append(
            Loss(
                t,
                lost * scale if lost else 0.0,
                lost_along,
                _compare(here, kept),
                _compare(kept, after),
                here,
                posterior,
                int(n),
                int(n_dead),
                _name_killers(history, t, order[start:end][dead[start:end]]) if n_dead else (),
                prefixes,
                int(numbers[order[start]]),
            )
        )
    return found


def _compare(before: float, after: float) -> float:
    """Nats from one mass to another; 0 from none."""
    return 0.0 if before <= 0.0 else math.inf if after <= 0.0 else math.log(before / after)


def _name_killers(history: History, t: int, dead: NDArray[np.int64]) -> tuple[str, ...]:
    names = history.killers[t] if history.killers else [""] * len(history.rows[t])
    given_up = [increment == -math.inf for increment in history.increments[t]]
    found = Counter(names[i] or ("the model" if given_up[i] else "a potential") for i in dead.tolist())
    return tuple(name for name, _ in found.most_common())
