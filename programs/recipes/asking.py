"""Questions with few answers, whose probabilities are asked for: nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list

if TYPE_CHECKING:
    from feynkac.programs.context import Context


def weigh_answers(text: Context, answers: Sequence[str]) -> NDArray[np.float64]:
    """(K,) log-probabilities that `text` goes on with each of K answers, given that it does with one, in nats.

    An answer is taken as the tokenizer spells it. All are -inf where the model rules all of them out.
    """
    log_p = np.array([text.log_prob(answer) for answer in answers])
    total = np.logaddexp.reduce(log_p)
    return log_p - total if total > -np.inf else log_p


def read_texts(name: str, texts: Any, least: int = 1, most: int | None = None) -> list[str]:
    """A list of texts. Raises ArgumentError by the `name` of the argument, for a text by itself as well."""
    listed = as_list(texts)
    known = [each for each in listed or () if isinstance(each, str)]
    if listed is None or len(known) < max(len(listed), least) or (most is not None and len(known) > most):
        count = f"at least {least}" if most is None else f"{least} to {most}"
        raise ArgumentError(f"{name} is {quote(texts)}; give a list of {count} texts")
    return known


def count_yes(probabilities: Sequence[float], least: int) -> float:
    """The probability that at least `least` of independent questions, each with its probability of yes, get a yes."""
    law = np.ones(1)
    for p in probabilities:
        law = np.convolve(law, [1.0 - p, p])
    return min(float(law[least:].sum()), 1.0)


def name_options(options: Sequence[str]) -> list[str]:
    """The letters that stand for up to 26 options, as they are written behind "Answer:"."""
    return [f" {letter}" for letter in ascii_uppercase[: len(options)]]


def write_options(question: str, options: Sequence[str]) -> str:
    """A question, and each option on a line of its own behind its letter."""
    lines = [f"{letter[1]}. {option}" for letter, option in zip(name_options(options), options, strict=True)]
    return "\n".join([question, *lines])
