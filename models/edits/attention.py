"""Edits of attention: how much heads look at marked parts of the prompt."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_real, as_whole
from feynkac.base.words import is_word
from feynkac.models.edits.activations import write_edit
from feynkac.models.language.editing import Anatomy, Bias, Mechanism, Prepared, Span
from feynkac.models.language.editing.contract import Spans
from feynkac.tensors import read_tensor, take_tensor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attending:
    """What edits of attention share.

    `layer`: a number or several, all by default. `heads`: of all these layers, or of each as a mapping. `queries`:
    "response" leaves the reading of the prompt itself as it is.
    """

    layer: int | Sequence[int] | None = None
    heads: Any = None
    queries: Literal["all", "response"] = "all"

    def __repr__(self) -> str:
        return write_edit(self)

    def _name_heads(self) -> Hashable:
        if isinstance(self.heads, Mapping):
            return tuple((layer, None if some is None else tuple(some)) for layer, some in self.heads.items())
        return None if self.heads is None else tuple(self.heads)


@dataclass(frozen=True, eq=False, repr=False)
class Emphasise(Attending):
    """Attention drawn to parts of the prompt: what stands outside of them gets `alpha` of its weight (PASTA).

    `spans`: texts that occur once in the prompt, or `Span`s. The prompt's first token, on which heads rest that look
    at nothing, keeps its weight, and so do generated tokens. With `alpha` above 1 the parts are ignored. Which heads to
    take is found by trying (`profile_heads`; Zhang et al. 2024, section 3.2). The rest: see `Attending`. Raises
    ArgumentError for heads or layers that do not exist, ModelError for layers without attention.
    """

    spans: str | Span | Sequence[str | Span] = field(kw_only=False)
    alpha: float = field(default=0.01, kw_only=False)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        alpha = as_real(self.alpha)
        if alpha is None or alpha <= 0.0:
            raise ArgumentError(f"alpha is {quote(self.alpha)}; it must be positive, and 1 leaves everything as it is")
        given = [self.spans] if isinstance(self.spans, str | Span) else as_list(self.spans) or ()
        spans = [Span(one) if isinstance(one, str) else one for one in given]
        if not spans or any(not isinstance(span, Span) for span in spans):
            raise ArgumentError(f"spans is {quote(self.spans)}; give texts that occur in the prompt")
        if alpha == 1.0:
            return Prepared(spans=spans)

        def weigh(n_tokens: int, found: Spans, number: int) -> Tensor:
            marked = torch.zeros(n_tokens, dtype=torch.bool, device="cpu")
            for span in spans:
                row = found.find(span)[number].cpu()
                marked[: len(row)] |= row[:n_tokens]
            marked[0] = True
            return torch.where(marked, 0.0, math.log(alpha))

        return Prepared(biases=make_biases(anatomy, self.layer, self.heads, self.queries, weigh), spans=spans)

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism:
        """See `feynkac.models.language.editing.Mechanical`; in the self-check all spans are the same tokens."""
        return Mechanism(self._name_heads(), (abs(math.log(self.alpha)),))


@dataclass(frozen=True, eq=False, repr=False)
class BiasAttention(Attending):
    """A number added to the attention scores towards each token of a prompt, in nats (LLMSteer; Gu et al. 2024).

    `bias` (P,) for prompts of P tokens, or (heads, P). The rest: see `Attending`.
    """

    bias: Tensor = field(kw_only=False)

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """See `feynkac.models.language.editing.Edit`."""
        bias = read_tensor("bias", self.bias, torch.float32, "give a number for each token of the prompt")
        if bias.ndim not in (1, 2) or not bias.shape[-1]:
            raise ArgumentError(f"bias {tuple(bias.shape)} must hold a finite number for each token of the prompt")
        if bias.ndim == 2 and bias.shape[0] != anatomy.heads:
            raise ArgumentError(f"bias has rows for {bias.shape[0]} heads; this model has {anatomy.heads}")

        def weigh(n_tokens: int, found: Spans, number: int) -> Tensor:
            some = bias[..., :n_tokens]
            return torch.nn.functional.pad(some, (0, n_tokens - some.shape[-1]))

        biases = make_biases(anatomy, self.layer, self.heads, self.queries, weigh)
        return Prepared(biases=biases, length=bias.shape[-1], reach=bias.shape[-1])

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism:
        """See `feynkac.models.language.editing.Mechanical`."""
        bias = take_tensor(self.bias, dtype=torch.float32).detach().abs()
        return Mechanism((self._name_heads(), tuple(bias.shape)), tuple(bias.flatten().tolist()))


def make_biases(anatomy: Anatomy, layer: Any, heads: Any, queries: str, weigh: Any) -> list[Bias]:
    """The biases of some layers and heads. `weigh` as `Bias.make`, giving (P,) or (heads, P)."""
    if not is_word(queries, ("all", "response")):
        raise ArgumentError(f"queries is {quote(queries)}; it must be 'all' or 'response'")
    if isinstance(heads, Mapping):
        chosen = {anatomy.read_layer(number): some for number, some in heads.items()}
        layers = list(chosen) if layer is None else anatomy.read_layers(layer)
    else:
        layers = list(range(anatomy.n_layers)) if layer is None else anatomy.read_layers(layer)
        chosen = dict.fromkeys(layers, heads)
    found = []
    for number in layers:
        which = _read_heads(chosen.get(number), anatomy, number)

        def make(n_tokens: int, spans: Spans, g: int, which: Tensor = which) -> Tensor:
            return which[:, None] * weigh(n_tokens, spans, g)

        found.append(Bias(number, anatomy.name_attention(number), make, queries))  # pyright: ignore[reportArgumentType]
    return found


def _read_heads(heads: Any, anatomy: Anatomy, layer: int) -> Tensor:
    """(heads,) 1 for those that are named."""
    if heads is None:
        return torch.ones(anatomy.heads, device="cpu")
    named = as_list(heads)
    if named is None:
        raise ArgumentError(f"heads is {quote(heads)}; give numbers, or a mapping from layers to numbers")
    which = torch.zeros(anatomy.heads, device="cpu")
    for head in named:
        number = as_whole(head)
        if number is None or not 0 <= number < anatomy.heads:
            raise ArgumentError(f"layer {layer} has no head {quote(head)}: this model has heads 0..{anatomy.heads - 1}")
        which[number] = 1.0
    return which
