"""How near a text is in meaning to given ones: the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError, PotentialError, quote
from feynkac.base.lists import as_sequence
from feynkac.potentials.rewards.boundaries import Every, read_every
from feynkac.potentials.rewards.encoders import Encoder, embeds, is_model, is_pipeline
from feynkac.potentials.rewards.folds import Kind, check_kind
from feynkac.potentials.rewards.samples import check_scale
from feynkac.potentials.rewards.scoring import Scorer
from feynkac.potentials.rewards.texts import TextFactor
from feynkac.smc.checks import call

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float64]]


@runtime_checkable
class Encodes(Protocol):
    """A model that embeds texts by itself, as those of sentence-transformers do."""

    def encode(self, texts: list[str], /) -> Any:
        """(R, D) the embeddings of R texts."""
        ...


@suggest_names()
def similarity(
    to: str | Sequence[str],
    model: Any,
    scale: float = 1.0,
    kind: Kind = "difference",
    every: Every = "sentence",
    *,
    tokenizer: Any = None,
) -> TextFactor:
    """Weight texts by exp(scale * s), s being the cosine between their embedding and that of the text `to`.

    Of several texts `to` the nearest counts. `model` is a feature-extraction pipeline, an encoder of transformers with
    its `tokenizer`, or an object with encode(texts) -> (R, D), as models of sentence-transformers are. Of the first two
    the embedding is the mean over the tokens of the last hidden states (Reimers and Gurevych 2019), and no text is cut
    unless the pipeline was made with truncation=True. The texts `to` are embedded once, here; of a step each distinct
    text once. `kind` and `every` are as in `reward`.

        fk.steer(task, fk.similarity("A storm at sea.", pipeline("feature-extraction", model="..."), scale=20.0))

    Raises ArgumentError for what is no text, no such model, or a model in training mode; PotentialError, when it is
    used, for a text that is longer than the model takes, and for embeddings that are no numbers.
    """
    check_kind(kind, "similarity")
    check_scale(scale, "similarity")
    every = read_every(every, "similarity")
    given = [to] if isinstance(to, str) else as_sequence(to)
    if not given or not all(isinstance(text, str) and text for text in given):
        raise ArgumentError(f"similarity({quote(to, 80)}): give a text, or a list of texts, to be near to")
    scorer = Scorer(Nearest(given, _read_model(model, tokenizer)), _name(given), batch=True, pure=True)
    return TextFactor(scorer, every=every, kind=kind, scale=float(scale))


class Nearest:
    """The largest cosine between the embedding of a text and those of `given` ones, for each of several texts."""

    def __init__(self, given: Sequence[str], embed: Embed) -> None:
        self._embed, self._given = embed, _normalise(embed(given))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(R,) cosines."""
        return (_normalise(self._embed(texts)) @ self._given.T).max(axis=1)


class MeanPooled:
    """The mean over the tokens of a model's last hidden states."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(R, D) embeddings."""
        found: dict[int, NDArray[np.float64]] = {}
        for part, output, mask in self._encoder.run(self._encoder.encode(texts)):
            weight = mask[:, :, None].float()
            means = (output[0].float() * weight).sum(1) / weight.sum(1)
            found.update(zip(part, means.cpu().double().numpy(), strict=True))
        return np.stack([found[i] for i in range(len(texts))])


class Encoded:
    """What an object with `encode` says, checked."""

    def __init__(self, model: Encodes) -> None:
        self._model = model

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(R, D) embeddings."""
        said = call(self._model.encode, list(texts), of=self._model, what="encode", error=PotentialError)
        said = said.detach().double().cpu().numpy() if hasattr(said, "detach") else said
        try:
            found = np.asarray(said, dtype=np.float64)
        except (TypeError, ValueError):
            found = np.empty(0)
        if found.ndim != 2 or len(found) != len(texts):
            raise PotentialError(
                f"{type(self._model).__name__}.encode returned {type(said).__name__} for {len(texts)} texts; return "
                f"their embeddings, of shape ({len(texts)}, D)"
            )
        return found


def _read_model(model: Any, tokenizer: Any) -> Embed:
    if is_pipeline(model):
        if not embeds(model):
            raise ArgumentError(
                f"similarity: this is a pipeline for {quote(model.task)}; give one for 'feature-extraction'"
            )
        if tokenizer is not None:
            raise ArgumentError("similarity: a pipeline has its tokenizer; leave tokenizer= out")
        return MeanPooled(Encoder.of_pipeline(model))
    if is_model(model):
        if tokenizer is None:
            name = type(model).__name__
            raise ArgumentError(f"similarity({name}): give its tokenizer, too: similarity(to, model, tokenizer=...)")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ArgumentError(f"similarity({type(model).__name__}): give the encoder alone: model.get_encoder()")
        return MeanPooled(Encoder(model, tokenizer, {}, None))
    if isinstance(model, type) or not isinstance(model, Encodes):
        raise ArgumentError(
            f"similarity: {quote(model)} embeds no texts; give a feature-extraction pipeline, a model with its "
            "tokenizer=, or an object with encode(texts)"
        )
    return Encoded(model)


def _normalise(found: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):  # of an embedding without direction: the score says so
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def _name(given: Sequence[str]) -> str:
    return f"similarity({quote(given[0], 40)}{', ...' if len(given) > 1 else ''})"
