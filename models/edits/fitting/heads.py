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
from feynkac.models.edits.fitting.passes import Tokens, borrow_weighted, find_anatomy, read_texts
from feynkac.models.language.editing import Anatomy, Change, Where
from feynkac.models.language.editing.spans import Located

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
    to `layer`. The paper takes those of the largest effect, `profile_effects(...).best(10)`. The edits of `lm` count.
    Raises ArgumentError for heads that do not exist.
    """
    anatomy = find_anatomy(lm, blocks)
    at = anatomy.read_layer(layer)
    chosen = _read_heads(anatomy, at, heads)
    means = capture(lm, prompts, list(chosen), "last", "heads", blocks=blocks).at
    text, total = read_texts(lm, prompts)[0], torch.zeros(anatomy.width, device="cpu")
    for number, some in chosen.items():
        value = means[number].mean(0).reshape(anatomy.heads, -1)
        kept = torch.zeros_like(value)
        kept[some] = value[some]
        total += _project(lm, anatomy.name_output(number), kept.flatten(), text)
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
def _project(lm: CausalLM, output: str, heads: Tensor, text: Tokens) -> Tensor:
    """(d,) what heads side by side add to the residual, by an output projection, less its bias.

    The projection is the edited one: with the weights of `lm`, and what an adapter adds to it at the end of `text`.
    """
    with borrow_weighted(lm) as twin:
        given = torch.stack([heads, torch.zeros_like(heads)]).to(lm.device, lm.model.dtype)[:, None]
        value = twin.model.get_submodule(output)(given)
        for change in _list_changes(lm, output):
            value = change.function(value, given, _stand_behind(text, lm))
        found, nothing = value[:, 0].float().cpu()
    return found - nothing


def _list_changes(lm: CausalLM, output: str) -> list[Change]:
    """What `lm` makes of what a module gives; what it makes of the input was seen when that was captured."""
    found = () if lm.variant is None else lm.variant.changes
    return [change for change, _ in found if change.module == output and change.side == "output"]


def _stand_behind(text: Tokens, lm: CausalLM) -> Where:
    """Two rows of one token each: the last one of a text."""
    positions = torch.full((2, 1), len(text.ids) - 1, device=lm.device)
    rows = torch.zeros(2, dtype=torch.int64, device=lm.device)
    spans = Located([text.ids[: text.start]], lm.vocabulary, lm.device)
    return Where(positions, torch.full_like(positions, text.start), rows, spans)
