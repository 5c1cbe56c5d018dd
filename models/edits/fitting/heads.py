"""Function vectors: what some attention heads make of the examples of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict, as_list
from feynkac.base.numbers import as_whole
from feynkac.models.edits.directions import Direction
from feynkac.models.edits.fitting.captures import capture
from feynkac.models.edits.fitting.passes import find_anatomy
from feynkac.models.language.editing import Anatomy

if TYPE_CHECKING:
    from feynkac.models.edits.fitting.passes import Written
    from feynkac.models.language.lm import CausalLM


def fit_function_vector(
    lm: CausalLM,
    prompts: Sequence[Written],
    layer: int,
    heads: Sequence[tuple[int, int]] | Mapping[int, Sequence[int]] | None = None,
    *,
    blocks: str | None = None,
) -> Direction:
    """The vector that stands for the task of which `prompts` are few-shot examples (Todd et al. 2024).

        v = fit_function_vector(lm, ["hot: cold\\nbig: small\\nfast:", ...], layer=10)
        lm.edited(Add(v, scope=Steps(0, 0)))

    The sum of what `heads` add to the residual at the last token, averaged over the prompts; to be added at `layer`, at
    a prompt's last token. Heads are given as (layer, head), or by layer; by default they are all heads of the layers up
    to `layer`. The paper takes those of the largest effect, `profile_effects(...).best(10)`. Raises ArgumentError for
    heads that do not exist.
    """
    anatomy = find_anatomy(lm, blocks)
    at = anatomy.read_layer(layer)
    chosen = _read_heads(anatomy, at, heads)
    means = capture(lm, prompts, list(chosen), "last", "heads", blocks=blocks).at
    total = torch.zeros(anatomy.width, device="cpu")
    for number, some in chosen.items():
        value = means[number].mean(0).reshape(anatomy.heads, -1)
        kept = torch.zeros_like(value)
        kept[some] = value[some]
        total += _project(lm, anatomy.name_output(number), kept.flatten())
    return Direction({at: total}, method="function vector")


def _read_heads(anatomy: Anatomy, at: int, heads: Any) -> dict[int, list[int]]:
    if heads is None:
        return {layer: list(range(anatomy.heads)) for layer in range(at + 1)}
    found: dict[int, list[int]] = {}
    pairs = as_list(heads)
    if (by_layer := as_dict(heads)) is not None:
        pairs = [(number, head) for number, some in by_layer.items() for head in as_list(some) or ()]
    if pairs is None:
        raise ArgumentError(f"heads is {quote(heads)}; give (layer, head) pairs, or {{layer: heads}}")
    for pair in pairs:
        head = as_whole(pair[1]) if isinstance(pair, tuple | list) and len(pair) == 2 else None
        if head is None or not 0 <= head < anatomy.heads:
            raise ArgumentError(
                f"head {quote(pair)} does not exist; give (layer, head), with heads 0..{anatomy.heads - 1}"
            )
        found.setdefault(anatomy.read_layer(pair[0]), []).append(head)
    if not found:
        raise ArgumentError("heads is empty; give at least one (layer, head), or leave it out for all")
    return found


@torch.no_grad()
def _project(lm: CausalLM, output: str, heads: Tensor) -> Tensor:
    """(d,) what heads side by side add to the residual, by an output projection, less its bias."""
    with lm.find_twins().borrow() as twin:
        module = twin.model.get_submodule(output)
        both = torch.stack([heads, torch.zeros_like(heads)]).to(lm.device, lm.model.dtype)[None]
        value, nothing = module(both)[0].float().cpu()
    return value - nothing
