"""Models of transformers that read texts: batches of token ids, and what the model makes of them.

The user's model and tokenizer are read, never written to: a fast tokenizer keeps its padding inside, so that a copy
of it is asked.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, FeynkacError, PotentialError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

AT_ONCE = 32
"""Texts in one forward pass, where a pipeline names no batch size."""
_UNLIMITED = 1_000_000
"""Tokenizers that know no limit name one beyond any text."""


def is_pipeline(thing: Any) -> bool:
    """Whether `thing` is a pipeline of transformers."""
    return _is_a(thing, "transformers.pipelines.base", "Pipeline")


def classifies(pipe: Any) -> bool:
    """Whether a pipeline gives the scores of labels to texts, by whatever name its task goes."""
    return _is_a(pipe, "transformers.pipelines.text_classification", "TextClassificationPipeline")


def embeds(pipe: Any) -> bool:
    """Whether a pipeline gives the hidden states of texts."""
    return _is_a(pipe, "transformers.pipelines.feature_extraction", "FeatureExtractionPipeline")


def is_model(thing: Any) -> bool:
    """Whether `thing` is a model of transformers."""
    return _is_a(thing, "transformers.modeling_utils", "PreTrainedModel")


def _is_a(thing: Any, module: str, name: str) -> bool:
    """Whether `thing` is of a class of transformers, which is imported already where somebody has an instance."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(thing, getattr(loaded, name))


class Encoder:
    """A model with its tokenizer, in batches.

    `options` are for the tokenizer's call, as a pipeline keeps them. Raises ArgumentError for a model in training mode.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, options: Mapping[str, Any], batch: int | None) -> None:
        self.model, self.tokenizer = model, copy.deepcopy(tokenizer)
        self._options = {name: value for name, value in options.items() if name not in ("padding", "return_tensors")}
        self._batch, self._lock = batch or AT_ONCE, threading.Lock()
        self.check_mode(ArgumentError)

    @classmethod
    def of_pipeline(cls, pipe: Any) -> Encoder:
        """The model of a pipeline, as the pipeline calls it."""
        return cls(pipe.model, pipe.tokenizer, pipe._preprocess_params, pipe._batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def check_mode(self, error: type[FeynkacError] = PotentialError) -> None:
        """Raises `error` for a model in training mode, whose dropout would make scores random."""
        if self.model.training:
            raise error(f"{type(self.model).__name__} is in training mode, where scores are random; call model.eval()")

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: Any) -> list[dict[str, Any]]:
        """The inputs of each text, or pair of texts, unpadded. Raises PotentialError for texts that are too long."""
        given = [list(texts)] if pairs is None else [list(texts), list(pairs)]
        with self._lock:
            columns = self.tokenizer(*given, verbose=False, **{**self._options, **options})
        taken = [name for name in self.tokenizer.model_input_names if name in columns]
        encoded = [{name: list(columns[name][i]) for name in taken} for i in range(len(texts))]
        return [self._check(each) for each in encoded]

    def run(self, encoded: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], Any, Tensor]]:
        """Which texts, what the model returns of them, and their mask (B, T), a batch of similar lengths at a time."""
        import torch

        self.check_mode()
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
        size = self._batch if self._pads else 1
        for at in range(0, len(order), size):
            part = order[at : at + size]
            inputs = self._pad([encoded[i] for i in part])
            with torch.no_grad():
                yield part, self.model(**inputs), inputs["attention_mask"]

    @property
    def _pads(self) -> bool:
        """Whether model and tokenizer agree on what fills up a batch; else texts go one by one."""
        config = self.model.config.get_text_config()
        return self.tokenizer.pad_token_id is not None and config.pad_token_id == self.tokenizer.pad_token_id

    def _check(self, encoded: dict[str, Any]) -> dict[str, Any]:
        """What the model is given; an empty text is the token that begins texts, or ends them."""
        n = len(encoded["input_ids"])
        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", _UNLIMITED))
        if n > limit:
            raise PotentialError(
                f"a text of {n} tokens, where {type(self.model).__name__} takes {limit}; make a pipeline with "
                "truncation=True if it may be cut"
            )
        if n == 0:
            tokens = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            first = next((token for token in tokens if token is not None), None)
            if first is None:
                raise PotentialError("the text is empty, and this tokenizer has no token to stand for it")
            encoded = {"input_ids": [first]}
        return {**encoded, "attention_mask": encoded.get("attention_mask") or [1] * len(encoded["input_ids"])}

    def _pad(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        import torch

        longest = max(len(each["input_ids"]) for each in encoded)
        fill = {name: 0 for each in encoded for name in each} | {"input_ids": self.tokenizer.pad_token_id or 0}
        rows = {
            name: [each.get(name, []) + [fill[name]] * (longest - len(each.get(name, []))) for each in encoded]
            for name in fill
        }
        return {name: torch.tensor(values, device=self.model.device) for name, values in rows.items()}
