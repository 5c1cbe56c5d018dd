"""What a direction does to the next-token law: at which layer most, and to which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import read_real, read_whole
from feynkac.models.edits.activations import Add
from feynkac.models.edits.directions import Direction, read_direction
from feynkac.models.edits.fitting.passes import Written, borrow_weighted, find_anatomy, find_laws, read_texts
from feynkac.models.edits.vectors import read_vectors

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


def contrast_layers(
    lm: CausalLM, direction: Direction, prompts: Sequence[Written], *, strength: float = 1.0, blocks: str | None = None
) -> dict[int, float]:
    """By layer, how far the direction and its opposite drive the model apart, in nats from 0 to log 2.

    The Jensen-Shannon divergence of the next-token laws behind the prompts, edited by +strength and by -strength at
    their last tokens; mean over the prompts (Wang and Shu 2023, "Backdoor activation attack"). A layer where the edit
    breaks the model has a large one, too: look at what it writes. Raises ArgumentError as `lm.edited` does.
    """
    anatomy = find_anatomy(lm, blocks)
    direction = read_direction(direction)
    anatomy.read_layers(list(direction))
    tokens, size = read_texts(lm, prompts, "prompts"), _read_strength(strength)
    found = {}
    for layer in direction:
        edits = (Add(direction, layer=layer, of=direction.of, strength=s) for s in (size, -size))
        plus, minus = (find_laws(lm.edited(edit, blocks=blocks), tokens).double() for edit in edits)
        found[layer] = float(_diverge(plus, minus).mean())
    return found


def choose_layer(
    lm: CausalLM, direction: Direction, prompts: Sequence[Written], *, strength: float = 1.0, blocks: str | None = None
) -> int:
    """The layer at which the direction and its opposite drive the model apart most (see `contrast_layers`)."""
    found = contrast_layers(lm, direction, prompts, strength=strength, blocks=blocks)
    return max(found, key=found.__getitem__)


def _read_strength(strength: float) -> float:
    size = read_real("strength", strength, 0.0, "; both signs are tried")
    if size == 0.0:
        raise ArgumentError("strength is 0, with which nothing is edited; give a positive one")
    return size


def _diverge(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(n,) Jensen-Shannon divergences of (n, V) laws, in nats."""
    middle = torch.logaddexp(log_p, log_q) - torch.tensor(2.0, device="cpu").log()
    one, other = ((log.exp() * (log - middle).nan_to_num(0.0)).sum(1) for log in (log_p, log_q))
    return (one + other) / 2


class Description(NamedTuple):
    """What a direction stands for, by what it does to the output."""

    unembedded: list[tuple[str, float]]
    """The tokens that the output layer reads in the vector itself, and what it adds to their logits."""
    raised: list[tuple[str, float]]
    """The tokens that gain most probability, and how much, as a mean over the prompts; without prompts none."""
    lowered: list[tuple[str, float]]
    """Those that lose most, and how much."""

    def __str__(self) -> str:
        names = ("unembedded", "raised", "lowered")
        return "\n".join(f"{name}: {' '.join(repr(text) for text, _ in getattr(self, name))}" for name in names)


def describe(
    lm: CausalLM,
    direction: Direction | Tensor,
    layer: int | None = None,
    prompts: Sequence[Written] = (),
    *,
    strength: float = 1.0,
    top: int = 10,
    blocks: str | None = None,
) -> Description:
    """Tokens that tell what a direction, or the decoder row of a feature, stands for at a layer.

    By the output, which says more of an edit than the texts on which a feature fires (Gur-Arieh et al. 2025): the
    unembedding of the vector (no norm applied), and the shift of the next-token law behind the prompts when the edit is
    made at their last tokens. The edits of `lm` count. `layer` may be left out for a direction of one layer. Raises
    ArgumentError for one that does not fit the model.
    """
    chosen = _read_direction(direction, layer)
    ((at, vector),) = chosen.items()
    read_vectors(chosen, at, find_anatomy(lm, blocks), chosen.of)
    if vector.ndim != 1 or chosen.of == "heads":
        raise ArgumentError("only one vector of a residual can be described")
    count = read_whole("top", top, 1)
    inside = _unembed(lm, vector)
    if as_list(prompts) == []:
        return Description(_list_top(lm, inside, count), [], [])
    tokens = read_texts(lm, prompts, "prompts")
    edited = lm.edited(Add(chosen, of=chosen.of, strength=strength), blocks=blocks)
    shift = (find_laws(edited, tokens).exp() - find_laws(lm, tokens).exp()).mean(0)
    return Description(*(_list_top(lm, values, count) for values in (inside, shift, -shift)))


def _read_direction(direction: Direction | Tensor, layer: int | None) -> Direction:
    if isinstance(direction, Direction):
        found = direction if layer is None else direction.at(layer)
        if len(found) != 1:
            raise ArgumentError(f"{quote(direction)} has several layers; say which with layer=")
        return found
    if layer is None:
        raise ArgumentError("a tensor does not know its layer; say which with layer=")
    return Direction({layer: direction})


@torch.no_grad()
def _unembed(lm: CausalLM, vector: Tensor) -> Tensor:
    with borrow_weighted(lm) as twin:
        head = twin.model.get_output_embeddings()
        if head is None:
            raise ArgumentError("the model names no output layer, so that nothing can be unembedded")
        both = torch.stack([vector, torch.zeros_like(vector)]).to(lm.device, lm.model.dtype)[None]
        value, nothing = head(both)[0].float().cpu()
    return value - nothing


def _list_top(lm: CausalLM, values: Tensor, top: int) -> list[tuple[str, float]]:
    best = values.topk(min(top, len(values)))
    texts = [lm.vocabulary.tokens[i].decode(errors="replace") for i in best.indices.tolist()]
    return list(zip(texts, best.values.tolist(), strict=True))
