"""Classifiers and reward models of transformers as functions of texts, with log-probabilities or logits as scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, PotentialError, quote, shorten
from feynkac.base.problems import Problem
from feynkac.base.words import is_word
from feynkac.potentials.rewards.calling import Calls
from feynkac.potentials.rewards.encoders import Encoder, classifies, is_model, is_pipeline
from feynkac.potentials.rewards.scoring import Scorer

Head: TypeAlias = Literal["log_prob", "logit"]
Reads: TypeAlias = Literal["text", "pair", "chat"]
_CLASSIFIES = "ForSequenceClassification"


def is_of_transformers(f: Any, tokenizer: Any = None) -> bool:
    """Whether f is a pipeline, one of transformers' own models, or a model with a tokenizer, rather than a function."""
    return is_pipeline(f) or (is_model(f) and (_is_own(f) or tokenizer is not None))


def _is_own(model: Any) -> bool:
    return type(model).__module__.partition(".")[0] == "transformers"


def read_classifier(f: Any, tokenizer: Any, label: Any, score: Any, reads: Any) -> Scorer:
    """What scores texts by a pipeline, or by a model with its `tokenizer`.

    Raises ArgumentError for a pipeline of another task, a model without tokenizer, a label that it does not have, and
    what does not go together.
    """
    if is_pipeline(f):
        if not classifies(f):
            raise ArgumentError(
                f"reward: this is a pipeline for {quote(f.task)}, and a reward takes one for 'text-classification'; of "
                "another one write a function that makes a number of what it returns"
            )
        if tokenizer is not None:
            raise ArgumentError("reward: a pipeline has its tokenizer; leave tokenizer= out")
        encoder = Encoder.of_pipeline(f)
    elif _is_own(f) and not type(f).__name__.endswith(_CLASSIFIES):
        raise ArgumentError(
            f"reward: {type(f).__name__} gives no scores of texts, as a model ...{_CLASSIFIES} does; a language model "
            "judges by fk.judge(fk.CausalLM(...), question), an encoder compares by fk.similarity"
        )
    elif tokenizer is None:
        raise ArgumentError(f"reward({type(f).__name__}): give its tokenizer, too: reward(model, tokenizer=tokenizer)")
    else:
        encoder = Encoder(f, tokenizer, {}, None)
    classifier = Classifier(encoder, label, score, reads)
    told = None if classifier.reads == "text" else ""
    return Scorer(classifier, f"reward({classifier.name})", batch=True, calls=Calls(told=told), pure=True)


class Classifier:
    """r(text) of each of several texts: what a model's head says of a label. Raises ArgumentError as `reward` does."""

    def __init__(self, encoder: Encoder, label: str | int | None, score: Head | None, reads: Reads | None) -> None:
        config = encoder.model.config
        self._encoder, self._outputs = encoder, config.num_labels or 1
        self._label = _find_label(config.id2label or {}, self._outputs, label)
        self._head = _find_head(config.problem_type, self._outputs, score)
        self.name = type(encoder.model).__name__ + ("" if label is None else f", {label}")
        templated = bool(getattr(encoder.tokenizer, "chat_template", None))
        self.reads = reads or ("chat" if self._outputs == 1 and templated else "text")
        if not is_word(self.reads, get_args(Reads)):
            raise ArgumentError(f"reward: reads is {quote(reads)}; choose 'text', 'pair' or 'chat'")
        if self.reads == "chat" and not templated:
            raise ArgumentError("reward: reads='chat' needs a tokenizer with a chat template; use 'pair' or 'text'")

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem] | None = None) -> NDArray[np.float64]:
        """(R,) the scores, each text once through the model."""
        scores = np.empty(len(texts))
        for part, output, _ in self._encoder.run(self._encode(texts, problems)):
            scores[part] = _read_head(output.logits.float().cpu().double(), self._head, self._label).numpy()
        return scores

    def _encode(self, texts: Sequence[str], problems: Sequence[Problem] | None) -> list[dict[str, Any]]:
        if problems is None:
            return self._encoder.encode(texts)
        if any(problem.prompt is None and problem.chat is None for problem in problems):
            raise PotentialError("it reads the prompt with the text, and this problem has none; use reads='text'")
        if self.reads == "pair":
            return self._encoder.encode([_write_prompt(problem) for problem in problems], texts)
        chats = [problem.read_messages(text) for text, problem in zip(texts, problems, strict=True)]
        written = [self._encoder.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        return self._encoder.encode(written, add_special_tokens=False)  # the template has them


def _write_prompt(problem: Problem) -> str:
    """What the text answers: of a chat the last turn."""
    return str(problem.chat[-1].get("content") or "") if problem.chat else problem.prompt or ""


def _read_head(logits: Any, head: str, label: int) -> Any:
    """(B,) scores of (B, L) logits."""
    import torch

    if head == "softmax":
        return torch.log_softmax(logits, -1)[:, label]
    return torch.nn.functional.logsigmoid(logits[:, label]) if head == "sigmoid" else logits[:, label]


def _find_label(names: Mapping[Any, str], outputs: int, label: Any) -> int:
    """The place of a label among the outputs."""
    known = ", ".join(repr(names.get(i, str(i))) for i in range(outputs))
    if label is None:
        if outputs > 1:
            raise ArgumentError(f"reward: say which label is wanted, label=...; this model has {shorten(known, 300)}")
        return 0
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < outputs:
        return label
    found = [i for i in range(outputs) if names.get(i) == label]
    if len(found) > 1:
        raise ArgumentError(
            f"reward: label={quote(label)} names the outputs {found} of this model; give one of the numbers"
        )
    if not found:
        raise ArgumentError(f"reward: label={quote(label)} is none that this model has: {shorten(known, 300)}")
    return found[0]


def _find_head(problem_type: str | None, outputs: int, score: Head | None) -> str:
    """How logits become scores: "softmax", "sigmoid" or "logit". A single one is a number by default."""
    if score is not None and not is_word(score, get_args(Head)):
        raise ArgumentError(f"reward: score is {quote(score)}; choose 'log_prob' or 'logit'")
    if problem_type == "regression" and score == "log_prob":
        raise ArgumentError("reward: this model's outputs are no probabilities (regression); use score='logit'")
    if score == "logit" or problem_type == "regression" or (outputs == 1 and score is None):
        return "logit"
    return "sigmoid" if outputs == 1 or problem_type == "multi_label_classification" else "softmax"
