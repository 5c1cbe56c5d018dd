"""How much of its attention a text pays to a part of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_list, as_sequence
from feynkac.base.numbers import as_whole
from feynkac.models.edits.fitting.passes import Tokens, find_anatomy, list_batches, open_pass, read_texts
from feynkac.models.language.caches.attention import select_attention
from feynkac.models.language.editing import Anatomy, Span
from feynkac.models.language.editing.spans import locate

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twin
    from feynkac.models.language.lm import CausalLM
    from feynkac.models.language.prompted import Prompted


@torch.inference_mode()
def measure_attention(
    lm: CausalLM,
    prompt: str | Prompted,
    texts: Sequence[str],
    span: str | Span,
    layers: int | Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    *,
    blocks: str | None = None,
) -> Tensor:
    """The share of their attention that the tokens of `texts`, written behind `prompt`, pay to a span of the prompt.

        measure_attention(lm, prompt, result.texts, "validate their feelings").mean((1, 2))     # a number a text

    (n, layers, heads) float32, from 0 to 1: what the tokens of each text give to the span's tokens by softmax, averaged
    over the text's tokens; in the order in which `layers` and `heads` are given, all of them by default. Averaged over
    layers and heads it says how far a text goes by an instruction (strategies of emotional support; Madani et al.
    2024). The edits of `lm` count. It is one pass over the texts with attention of the kind "eager", on a twin of the
    model, which is left as it is.

    Raises ArgumentError for texts that are empty, a span that is not in the prompt once, and layers or heads that do
    not exist; ModelError for layers that do not tell what they attend to.
    """
    anatomy = find_anatomy(lm, blocks)
    listed = as_sequence(texts)
    if listed is None:
        raise ArgumentError(f"texts is {quote(texts)}; give a list of texts")
    tokens = read_texts(lm, [(prompt, text) for text in listed])
    marked = locate(span if isinstance(span, Span) else Span(span), tokens[0].ids[: tokens[0].start], lm.vocabulary)
    chosen = anatomy.read_layers(range(anatomy.n_layers) if layers is None else layers)
    names = {layer: anatomy.name_attention(layer) for layer in chosen}
    which = _read_heads(anatomy, heads)
    found: list[Any] = [None] * len(tokens)
    for numbers in list_batches(tokens):
        shares = _attend(lm, [tokens[i] for i in numbers], names, marked)
        for i, text in zip(numbers, torch.stack([shares[layer] for layer in chosen], 1), strict=True):
            found[i] = text[:, which]
    with torch.inference_mode(False):
        return torch.stack(found).clone()


def _read_heads(anatomy: Anatomy, heads: Any) -> list[int]:
    if heads is None:
        return list(range(anatomy.heads))
    listed = as_list(heads)
    if not listed:
        raise ArgumentError(f"heads is {quote(heads)}; give numbers from 0 to {anatomy.heads - 1}")
    found = [as_whole(head) for head in listed]
    for head, number in zip(listed, found, strict=True):
        if number is None or not 0 <= number < anatomy.heads:
            raise ArgumentError(f"head {quote(head)} does not exist: this model has heads 0..{anatomy.heads - 1}")
    return [number for number in found if number is not None]


def _attend(lm: CausalLM, texts: Sequence[Tokens], names: Mapping[int, str], marked: list[int]) -> dict[int, Tensor]:
    """By layer, the (B, heads) shares of texts of one length."""
    with (
        open_pass(lm, texts) as (twin, rows),
        select_attention(twin.configs, "eager"),
        _watch(twin, names, texts[0].start, rows.shape, marked) as seen,
    ):
        twin.model(input_ids=rows, use_cache=False)
    return seen


@contextmanager
def _watch(
    twin: Twin, names: Mapping[int, str], start: int, tokens: torch.Size, marked: list[int]
) -> Iterator[dict[int, Tensor]]:
    """Read the attention of the pass that is made inside."""
    seen: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, out: Any) -> None:
            given = [part for part in out[1:] if isinstance(part, Tensor)] if isinstance(out, tuple) else []
            wanted = (tokens[0], tokens[1], tokens[1])
            weights = next((part for part in given if part.ndim == 4 and (len(part), *part.shape[2:]) == wanted), None)
            if weights is None:
                raise ModelError(
                    f"{names[layer]} does not tell what it attends to, also as 'eager'; leave its layer out"
                )
            seen[layer] = weights[:, :, start:, marked].float().sum(3).mean(2).cpu()

        return hook

    with ExitStack() as stack:
        for layer, name in names.items():
            stack.callback(twin.model.get_submodule(name).register_forward_hook(read(layer)).remove)
        yield seen
