"""A language model as a judge: how sure it is that the answer to a question about the text is yes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import ScoresAnswers, require
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.problems import Problem
from feynkac.base.words import is_word
from feynkac.potentials.rewards.boundaries import Every, read_every
from feynkac.potentials.rewards.calling import Calls
from feynkac.potentials.rewards.folds import Kind, check_kind
from feynkac.potentials.rewards.samples import check_scale
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.potentials.rewards.signatures import find_problem
from feynkac.potentials.rewards.texts import TextFactor

Ask = Callable[..., Any]
"""(text) or (text, problem) -> what the judge is asked: a text, or a list of messages."""


@suggest_names()
def judge(
    lm: ScoresAnswers,
    question: str | Ask,
    scale: float = 1.0,
    kind: Kind = "difference",
    every: Every = "sentence",
    *,
    answers: tuple[str | Sequence[str], str | Sequence[str]] = ("Yes", "No"),
    score: Literal["log_odds", "log_prob"] = "log_odds",
) -> TextFactor:
    """Weight texts by exp(scale * j), j being what the language model `lm` thinks of them.

    With y and n the probabilities that what `lm` says begins with the first and with the second of `answers`, j is
    log(y / n) by score="log_odds", and log(y / (y + n)) by "log_prob", in nats; nothing is sampled. An answer may be
    several texts, whose probabilities add up. Each is taken as the tokenizer spells it.

    `question` is put to a chat model as a user's turn with the text behind it, and to any other model as a text that
    ends in "Answer:". A function text -> prompt, or (text, problem) -> prompt, says it otherwise: a text, or a list of
    messages, behind which `answers` follow as they stand. All distinct texts of a step go through the model together.
    `kind` and `every` are as in `reward`.

        fk.steer(task, fk.judge(lm, "Is this text polite?"), particles=16)

    Raises ArgumentError for an `lm` that cannot do so, and for answers that cannot be told apart; PotentialError, when
    it is used, for what the model or the function of the question raises.
    """
    check_kind(kind, "judge")
    check_scale(scale, "judge")
    every = read_every(every, "judge")
    if not is_word(score, ("log_odds", "log_prob")):
        raise ArgumentError(f"judge: score is {quote(score)}; choose 'log_odds' or 'log_prob'")
    lm = require(
        lm, ScoresAnswers, f"judge: {type(lm).__name__} is no language model to ask; give a CausalLM", ArgumentError
    )
    told = None
    if callable(question):
        told = find_problem(question, "judge: ", False)
    elif not isinstance(question, str) or not question.strip():
        raise ArgumentError(
            f"judge: the question is {quote(question)}; give a text, or a function of the text to judge"
        )
    judging = Judge(lm, question, told, [_read_answer(each) for each in _read_pair(answers)], score)
    calls = Calls(told=None if told is None else "")
    scorer = Scorer(judging, f"judge({judging.name})", batch=True, calls=calls, pure=isinstance(question, str))
    return TextFactor(scorer, every=every, kind=kind, scale=float(scale))


class Judge:
    """j of each of several texts (see `judge`)."""

    def __init__(
        self, lm: ScoresAnswers, question: str | Ask, told: str | None, answers: list[list[str]], score: str
    ) -> None:
        self.name = question[:40] if isinstance(question, str) else getattr(question, "__name__", "question")
        self._lm, self._question, self._told, self._score = lm, question, told, score
        between = "" if lm.chats or callable(question) else " "  # behind "Answer:"
        self._answers = [[between + text for text in texts] for texts in answers]
        self._shown = " or ".join(texts[0] for texts in answers)
        _check_apart(self._answers)

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem] | None = None) -> NDArray[np.float64]:
        """(R,) nats."""
        asked = [self._ask(text, None if problems is None else problems[i]) for i, text in enumerate(texts)]
        yes, no = self._answers
        log_p = self._lm.score_answers(asked, [*yes, *no])
        log_yes, log_no = (np.logaddexp.reduce(part, axis=1) for part in np.split(log_p, [len(yes)], axis=1))
        return log_yes - (log_no if self._score == "log_odds" else np.logaddexp(log_yes, log_no))

    def _ask(self, text: str, problem: Problem | None) -> Any:
        if not isinstance(self._question, str):
            if self._told is None:
                return self._question(text)
            return self._question(text, **{self._told: problem}) if self._told else self._question(text, problem)
        written = f"{self._question}\n\nText: {text}\n\nAnswer {self._shown}."
        return [{"role": "user", "content": written}] if self._lm.chats else f"{written}\nAnswer:"


def _read_pair(answers: Any) -> tuple[Any, Any]:
    if (listed := as_sequence(answers)) is None or len(listed) != 2:
        raise ArgumentError(f"judge: answers is {quote(answers, 80)}; give what stands for yes, and what stands for no")
    return listed[0], listed[1]


def _read_answer(answer: Any) -> list[str]:
    texts = [answer] if isinstance(answer, str) else as_sequence(answer)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ArgumentError(f"judge: {quote(answer, 80)} is no answer; give a text, or a list of texts")
    return texts


def _check_apart(answers: list[list[str]]) -> None:
    """Raises ArgumentError where one answer begins with another, whose probability has that of the first in it."""
    texts = [text for side in answers for text in side]
    for i, text in enumerate(texts):
        for j, other in enumerate(texts):
            if i != j and text.startswith(other):
                raise ArgumentError(
                    f"judge: the answer {quote(text)} begins with the answer {quote(other)}, and is counted there; "
                    "give answers of which none begins with another"
                )
