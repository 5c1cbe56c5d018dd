"""Vectors that make a model write a given sentence, found by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole, read_count, read_real
from feynkac.models.edits.directions import Direction
from feynkac.models.edits.fitting.descent import descend
from feynkac.models.edits.fitting.passes import Tokens, find_anatomy, open_pass, read_texts

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


class Inversion(NamedTuple):
    """What `invert` found."""

    direction: Direction
    nats: float
    """-log p a token of the sentence, with the vector added from the prompt's last token on; 0 if it is certain."""


@torch.inference_mode(False)
def invert(
    lm: CausalLM,
    sentence: str,
    layer: int,
    steps: int = 200,
    *,
    prompt: str = "",
    rate: float = 0.05,
    blocks: str | None = None,
) -> Inversion:
    """The vector that, added at a layer, makes `sentence` the likeliest text behind `prompt`, as far as one does.

        found = invert(lm, "The cat sat on the mat.", layer=14)
        lm.edited(Add(found.direction)).score("", ["The cat sat on the mat."], end=False)      # near 0

    By `steps` steps of Adam on the mean -log p of the sentence's tokens (Subramani et al. 2022, "Extracting latent
    steering vectors"), from 0 on; the best of all steps is returned. A step is `rate` of the length of an activation at
    first, and shrinks to 0. No gradient is taken of anything else: the model and its parameters' `grad` stay as they
    are. Raises ArgumentError for an empty sentence and a layer that does not exist.
    """
    anatomy = find_anatomy(lm, blocks)
    text = read_texts(lm, [(prompt, sentence)], "sentence")[0]
    if as_whole(layer) is None:
        raise ArgumentError(f"layer is {quote(layer)}; give one number")
    at = anatomy.read_layer(layer)
    count, pace = read_count("steps", steps), read_real("rate", rate, 0.0)
    sought = Sought(lm, text, anatomy.name_block(at))
    vector = torch.zeros(anatomy.width, device=lm.device, requires_grad=True)
    with torch.no_grad():
        size = sought.measure(vector)[1]
    best, least = descend(vector, sought.differentiate, count, pace * size / anatomy.width**0.5)
    if not best.norm() > 0:
        raise ArgumentError(f"no vector at layer {at} makes {quote(sentence)} likelier; try another layer or rate")
    return Inversion(Direction({at: best}, method="inversion"), least)


class Sought:
    """The mean -log p of a sentence, as a function of the vector that is added."""

    def __init__(self, lm: CausalLM, text: Tokens, block: str) -> None:
        self._lm, self._text, self._block = lm, text, block

    def measure(self, vector: Tensor) -> tuple[Tensor, float]:
        """() nats a token, and the length of an activation at the layer."""
        start = self._text.start
        with open_pass(self._lm, [self._text]) as (twin, rows), _add(twin.model, self._block, vector, start) as seen:
            logits = twin.model(input_ids=rows, use_cache=False).logits[0, start - 1 : -1].float()
            return torch.nn.functional.cross_entropy(logits, rows[0, start:]), seen[0]

    def differentiate(self, vector: Tensor) -> tuple[float, Tensor]:
        """Nats a token, and their gradient in the vector."""
        with torch.enable_grad():
            loss, _ = self.measure(vector)
            return float(loss.detach()), torch.autograd.grad(loss, [vector])[0]


@contextmanager
def _add(model: Any, block: str, vector: Tensor, start: int) -> Iterator[list[float]]:
    lengths: list[float] = []

    def hook(module: Any, args: Any, out: Any) -> Any:
        value = out[0] if isinstance(out, tuple) else out
        lengths.append(float(value[0, start:].detach().float().norm(dim=-1).mean()))
        inside = (torch.arange(value.shape[1], device=value.device) >= start - 1)[:, None]
        new = value + inside * vector.to(value.dtype)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = model.get_submodule(block).register_forward_hook(hook)
    try:
        yield lengths
    finally:
        handle.remove()
