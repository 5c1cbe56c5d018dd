"""What a function of the sample is told of the problem that it scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem of a batch, as `f(text, problem)` is told it."""

    index: int
    """Its place in the list that was given to `steer`; 0 of a single one."""
    prompt: str | None = None
    """The text that is continued: as it was given, or its tokens decoded; of a diffusion model the prompt, if it is a
    text. None of a program."""
    chat: tuple[Mapping[str, Any], ...] | None = None
    """The messages, where a chat is continued."""

    def read_messages(self, text: str) -> list[dict[str, Any]] | None:
        """The conversation that ends in `text` as the assistant's turn; None where there is no prompt.

        A prompt that is no chat is the user's turn; an assistant's turn that is continued is continued by `text`.
        """
        if self.chat is None and self.prompt is None:
            return None
        turns = [{"role": "user", "content": self.prompt}] if self.chat is None else [dict(each) for each in self.chat]
        if turns[-1]["role"] == "assistant":
            return [*turns[:-1], {**turns[-1], "content": f"{turns[-1].get('content') or ''}{text}"}]
        return [*turns, {"role": "assistant", "content": text}]


def list_problems(
    groups: Iterable[Any], places: Sequence[int] | None = None, make: Callable[[int], Problem] = Problem
) -> list[Problem]:
    """(R,) the problem of each row, from the number of its group; `make` is called once for each.

    `places`: where each problem of the run stands in the call (`Memory.problems`).
    """
    numbers = [int(group) for group in groups]
    places = range(max(numbers, default=0) + 1) if places is None else places
    known = {number: replace(make(number), index=places[number]) for number in dict.fromkeys(numbers)}
    return [known[number] for number in numbers]
