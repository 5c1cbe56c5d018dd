"""Calling a user's function of samples, and refusing by name what is no score."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Remembers, TellsProblems, has, require
from feynkac.base.contract import Rows
from feynkac.base.coroutines import Blocked
from feynkac.base.errors import PotentialError, is_out_of_memory, quote
from feynkac.base.numbers import take_only
from feynkac.base.problems import Problem
from feynkac.potentials.rewards.calling import Calls, Failed
from feynkac.potentials.rewards.parts import ask_in_parts
from feynkac.potentials.rewards.values import Convert, Place, convert_batch, convert_one, read_number
from feynkac.smc.checks import FAULTS

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = Calls()
KEPT = 4096
"""Texts whose scores are kept during a run, of functions that are known to depend on nothing else."""


class Scorer:
    """A function of samples that cannot go wrong in silence: f of one sample, or with `batch` of all at once.

    `convert` says what counts as a score: `read_number`, `read_bool` or `read_number_or_bool`. `calls` says how f is
    called, and whether it is told the problem. The scores of a `pure` function of texts are kept for the run.

    Every method raises PotentialError naming the function, the step, the row and the sample if f raises, or returns
    anything else, NaN or +inf. Where failures kill, the sample has score -inf, and the results of the run say so.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        name: str,
        convert: Convert = read_number,
        batch: bool = False,
        calls: Calls = PLAIN,
        pure: bool = False,
    ) -> None:
        self.name = name
        self.saw_bool = False
        """Whether a function of one sample has returned a bool."""
        self._f, self._convert, self._batch, self._calls, self._pure = f, convert, batch, calls, pure

    def score_texts(self, texts: Sequence[str], t: int | None, rows: Rows, state: Any = None) -> NDArray[np.float64]:
        """(R,) scores of the texts of `rows`, at step `t` or at the end; f is asked about each distinct text once.

        `state` holds the rows: it tells their problems, and remembers what was killed.
        """
        problems = self._tell(state, rows)
        keys: list[Hashable] = (
            [*texts] if problems is None else list(zip([each.index for each in problems], texts, strict=True))
        )
        known = self._recall(state)
        first: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            if key not in known:
                first.setdefault(key, i)
        asked = list(first.values())

        def place(i: int) -> str:
            return f"{self._start(t)}, row {rows[asked[i]]}, text {quote(_shorten(texts[asked[i]]))},"

        told = None if problems is None else [problems[i] for i in asked]
        whole = f"{self._start(t)}, asked about {len(asked)} texts,"
        scores, values = self._ask([texts[i] for i in asked], told, place, whole, state, rows[asked])
        failed = {key: value for key, value in zip(first, values, strict=False) if isinstance(value, Failed)}
        self._note_kills([failed.get(key) for key in keys], state, rows)
        known.update(zip(first, scores.tolist(), strict=True))
        result = np.array([known[key] for key in keys], dtype=np.float64)
        while len(known) > KEPT:
            del known[next(iter(known))]
        return result

    def score_tensors(self, x: Tensor, t: int | None, rows: Rows, state: Any = None) -> Tensor:
        """(R,) float64 scores of samples or estimates `x` (R, ...) of `rows`, with their graph if f keeps one."""
        import torch

        sample = f"{'a' if self._batch else 'given one'} sample of shape {tuple(x.shape[1:])}"
        scores, returned = self._ask(
            x,
            self._tell(state, rows),
            lambda i: f"{self._start(t)}, row {rows[i]}, {sample},",
            f"{self._start(t)}, given {len(rows)} samples as a batch of shape {tuple(x.shape)},",
            state,
            rows,
        )
        values = _join(returned) if self._batch else returned
        if not self._batch:
            self._note_kills([each if isinstance(each, Failed) else None for each in values], state, rows)
        if not torch.is_grad_enabled():
            return torch.as_tensor(scores, device=x.device)
        if isinstance(values, torch.Tensor) and values.requires_grad:
            return values.double().reshape(-1)
        if isinstance(values, list | tuple) and any(getattr(each, "requires_grad", False) for each in values):
            kept = [-np.inf if isinstance(each, Failed) else each for each in values]
            return torch.stack([torch.as_tensor(each, device=x.device).double().reshape(()) for each in kept])
        return torch.as_tensor(scores, device=x.device)

    def _ask(
        self, samples: Any, told: Sequence[Problem] | None, place: Place, whole: str, state: Any, rows: Rows
    ) -> tuple[NDArray[np.float64], list[Any]]:
        """(R,) scores of R samples, and what f returned: for each sample, or for each part of the batch."""
        if not len(samples):
            return np.zeros(0), []
        if self._batch:
            found = ask_in_parts(
                self.name, rows, state, lambda some: self._ask_batch(samples, told, place, whole, some)
            )
            return np.concatenate([scores for scores, _ in found]), [value for _, value in found]
        problems = [None] * len(samples) if told is None else told
        values = self._call(list(zip(samples, problems, strict=True)), place)
        scores = np.empty(len(samples))
        for i, value in enumerate(values):
            self.saw_bool |= isinstance(take_only(value), bool)
            scores[i] = convert_one(value, self._convert, i, place)
        return scores, values

    def _ask_batch(
        self, samples: Any, told: Sequence[Problem] | None, place: Place, whole: str, some: slice
    ) -> tuple[NDArray[np.float64], Any]:
        """The scores of some samples, asked about in one call, and what it returned."""
        part, (value,) = samples[some], self._call([(samples[some], told and told[some])], lambda i: whole)
        return convert_batch(value, self._convert, len(part), lambda i: place(some.start + i), whole), value

    def _call(self, pairs: list[tuple[Any, Any]], place: Place) -> list[Any]:
        """What f returns of each sample with its problem, or `Failed` where that kills."""
        values = self._call_plainly(pairs, place) if self._calls.plain else self._run(pairs)
        if coroutines := [value for value in values if inspect.iscoroutine(value)]:  # as of lambda text: later(text)
            for each in coroutines:
                each.close()
            self._calls = replace(self._calls, asynchronous=True)
            values = self._run(pairs)
        if self._calls.on_error != "kill":
            for i, value in enumerate(values):
                if isinstance(value, Failed):
                    raise self._blame(value, place(i)) from value.cause
        return values

    def _run(self, pairs: list[tuple[Any, Any]]) -> list[Any]:
        try:
            return self._calls.run(self._give, pairs)
        except Blocked as cause:
            raise PotentialError(f"'{self.name}' {cause}") from None

    def _call_plainly(self, pairs: list[tuple[Any, Any]], place: Place) -> list[Any]:
        values = list[Any]()
        for i, pair in enumerate(pairs):
            try:
                values.append(self._give(*pair))
            except FAULTS as cause:
                raise self._blame(Failed(cause, 1), place(i)) from cause
        return values

    def _give(self, sample: Any, problem: Any) -> Any:
        told = self._calls.told
        if told is None:
            return self._f(sample)
        return self._f(sample, **{told: problem}) if told else self._f(sample, problem)

    def _blame(self, failed: Failed, where: str) -> PotentialError:
        cause, tries = failed
        less = "; give the model a smaller batch=, and f gets fewer at a time" if is_out_of_memory(cause) else ""
        often = f" at each of {tries} tries" if tries > 1 else ""
        return PotentialError(f"{where} raised {type(cause).__name__}{often}: {cause}{less}")

    def _tell(self, state: Any, rows: Rows) -> list[Problem] | None:
        """(R,) the problems of `rows`, if f is told."""
        if self._calls.told is None:
            return None
        why = f"'{self.name}' takes the problem that it scores, which {type(state).__name__} does not tell; give the "
        remedy = "state the method tell_problems(rows) of feynkac.base.capabilities.TellsProblems"
        return list(require(state, TellsProblems, why + remedy).tell_problems(rows))

    def _note_kills(self, failed: Sequence[Failed | None], state: Any, rows: Rows) -> None:
        """Let the results say what was killed, which is another target than f has by itself."""
        for row, each in zip(rows, failed, strict=True):
            if each is not None:
                why = f"'{self.name}' says what it killed, and {type(state).__name__} has no `memory` to keep it in"
                remedy = "; give the state a feynkac.base.memory.Memory that forks with it, or use on_error='raise'"
                kind = type(each.cause).__name__
                said = f"'{self.name}' killed where it raised {kind}: such samples have no weight in the target"
                require(state, Remembers, why + remedy).memory.note(said, np.array([row]))

    def _recall(self, state: Any) -> dict[Hashable, float]:
        return state.memory.share(self, dict) if self._pure and has(state, Remembers) else {}

    def _start(self, t: int | None) -> str:
        when = "at the end" if t is None else "before the first step" if t < 0 else f"at step {t}"
        return f"'{self.name}' {when}"


def _join(returned: list[Any]) -> Any:
    """What a batch returned, in one piece where tensors with a graph came in several."""
    import torch

    if len(returned) <= 1:
        return returned[0] if returned else None
    return torch.cat([each.reshape(-1) for each in returned]) if all(map(torch.is_tensor, returned)) else None


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:38]} ... {text[-38:]}"
