"""Places in a layer where activations are changed or read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.words import is_word
from feynkac.models.language.editing import Anatomy

Site = Literal["residual", "attention", "mlp", "heads", "embedding"]
"""What is changed in a layer: the residual behind it, what its attention or its feed-forward network adds to that (in
Gemma 2 and 3 and OLMo 2, before the norm that stands between), its heads side by side before they are mixed, or (in no
layer) the embedding of the tokens as its module gives it, in Gemma scaled already."""
_SITES = get_args(Site)


def check_site(of: Any) -> None:
    """Raises ArgumentError for anything that is no `Site`."""
    if not is_word(of, _SITES):
        raise ArgumentError(f"of is {quote(of)}; it must be one of {', '.join(map(repr, _SITES))}")


def name_site(anatomy: Anatomy, layer: int, of: str) -> str:
    """The module that gives, or with "heads" is given, what stands there."""
    if of == "embedding":
        return anatomy.embedding
    names: dict[str, Callable[[int], str]] = {
        "residual": anatomy.name_block,
        "attention": anatomy.name_attention,
        "mlp": anatomy.name_mlp,
        "heads": anatomy.name_output,
    }
    name = names[of](layer)
    if of in ("attention", "mlp"):
        anatomy.check_alone(name)
    return name


def find_width(anatomy: Anatomy, of: str, layers: Sequence[int]) -> int:
    """The width of what is changed. Raises ArgumentError for layers of different widths."""
    if of != "heads":
        return anatomy.embedding_width if of == "embedding" else anatomy.width
    found = {layer: anatomy.heads * anatomy.find_head_size(layer) for layer in layers}
    if len(set(found.values())) > 1:
        raise ArgumentError(f"the heads of these layers have different widths, {found}; give an edit for each layer")
    return found[layers[0]]
