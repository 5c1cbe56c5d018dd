"""Activations of texts at named places of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_dict
from feynkac.base.numbers import as_whole
from feynkac.models.edits.fitting.passes import (
    Tokens,
    Written,
    find_anatomy,
    forward_last,
    list_batches,
    open_pass,
    read_texts,
)  # fmt: skip
from feynkac.models.edits.sites import Site, check_site, name_site
from feynkac.models.language.editing.hooks import find_input
from feynkac.tensors import read_tensor

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

At: TypeAlias = 'Literal["last", "mean"] | int | range'
"""The tokens of a text, or of a response, that are read: the last one, the mean of all, one by number (negative from
the end), or several, each for itself. The mean over a text without a prompt leaves out the text's first token, on which
models put activations of another size, unless there is no other."""


@dataclass(frozen=True, eq=False)
class Activations:
    """What n texts make of a model's layers.

    `at` maps layers to (n, d) float32 tensors on the host, (n, K, d) for K positions; `entropy` (n,) is that of the
    next-token law behind each text, in nats, where it was captured. Raises ArgumentError for tensors of other shapes,
    of unequal n, and for NaN.
    """

    at: Mapping[int, Tensor]
    entropy: Tensor | None = None
    of: Site = "residual"

    def __post_init__(self) -> None:
        given = as_dict(self.at) or {}
        tensors = {
            layer: read_tensor(f"activations: layer {quote(layer)}", value).detach().to("cpu", torch.float32)
            for layer, value in given.items()
        }
        check_site(self.of)
        if not tensors or len({len(value) if value.ndim else 0 for value in tensors.values()}) != 1:
            raise ArgumentError("activations are given as {layer: (n, d)}, of at least one layer and with one n")
        for layer, value in tensors.items():
            if value.ndim not in (2, 3):
                raise ArgumentError(f"activations of layer {layer} are {tuple(value.shape)}; they must be (n, d)")
        object.__setattr__(self, "at", MappingProxyType(tensors))

    def __len__(self) -> int:
        return len(next(iter(self.at.values())))

    def __repr__(self) -> str:
        return f"Activations({len(self)} texts, {self.of} of layers {sorted(self.at)})"


@torch.inference_mode()
def capture(
    lm: CausalLM,
    texts: Sequence[Written],
    layers: int | Sequence[int] | None = None,
    at: At = "last",
    of: Literal["residual", "attention", "mlp", "heads"] = "residual",
    *,
    blocks: str | None = None,
) -> Activations:
    """The activations of texts, or of the responses of (prompt, response) pairs.

    `layers`: all by default. `at`: at which tokens (see `At`); of a pair those of the response count. `of`: what of a
    layer (see `Site`). Texts of one length go through the model together, without padding, so that what is found of a
    text does not depend on the others; what is read is taken off as the pass goes. `lm` is left as it is; its edits
    count. `blocks` names the list of its layers, where it cannot be found.

    Raises ArgumentError for texts, layers and positions that do not exist, ModelError for a model whose parts cannot be
    found.
    """
    anatomy = find_anatomy(lm, blocks)
    tokens = read_texts(lm, texts)
    chosen = anatomy.read_layers(range(anatomy.n_layers) if layers is None else layers)
    check_site(of)
    if of == "embedding":
        raise ArgumentError("of='embedding' depends on single tokens only; capture a layer")
    places = {layer: name_site(anatomy, layer, of) for layer in dict.fromkeys(chosen)}
    reads = [_read_position(text, at, f"texts[{i}]") for i, text in enumerate(tokens)]
    found, entropy = _read_all(lm, tokens, places, reads, inputs=of == "heads")
    several = isinstance(at, range)
    # Out of inference mode's tensors, which no one could differentiate through.
    with torch.inference_mode(False):
        kept = {layer: (value if several else value[:, 0]).clone() for layer, value in found.items()}
        return Activations(kept, entropy.clone(), of)


def _read_all(
    lm: CausalLM, tokens: Sequence[Tokens], places: Mapping[int, str], reads: Sequence[Tensor], inputs: bool
) -> tuple[dict[int, Tensor], Tensor]:
    """By layer (n, K, d) of what is read of each text, and (n,) the entropies of what follows."""
    found: dict[int, list[Any]] = {layer: [None] * len(tokens) for layer in places}
    entropy = torch.empty(len(tokens), device="cpu")
    for numbers in list_batches(tokens):
        with open_pass(lm, [tokens[i] for i in numbers]) as (twin, rows):
            share = torch.stack([reads[i] for i in numbers]).to(rows.device)
            with _listen(twin.model, places, share, inputs) as heard:
                laws = forward_last(twin, rows).log_softmax(1)
        entropy[numbers] = torch.special.entr(laws.exp()).sum(1).cpu()
        for layer, values in heard.items():
            for i, value in zip(numbers, values, strict=True):
                found[layer][i] = value
    return {layer: torch.stack(values) for layer, values in found.items()}, entropy


@contextmanager
def _listen(model: Any, places: Mapping[int, str], share: Tensor, inputs: bool) -> Iterator[dict[int, Tensor]]:
    """Read (B, K, d) of each place in the pass that is made inside, as `share` (B, K, T) mixes the tokens."""
    heard: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any = None) -> None:
            value = find_input(args, kwargs) if inputs else out[0] if isinstance(out, tuple) else out
            heard[layer] = (share @ value.float()).cpu()

        return hook

    with ExitStack() as stack:
        for layer, name in places.items():
            module = model.get_submodule(name)
            put_on = module.register_forward_pre_hook if inputs else module.register_forward_hook
            stack.callback(put_on(read(layer), with_kwargs=True).remove)
        yield heard


def _read_position(text: Tokens, at: Any, name: str) -> Tensor:
    """(K, T) shares of a text's tokens in what is read. Raises ArgumentError for positions that it does not have."""
    length = len(text.ids)
    first = text.start if text.start < length else 0
    if isinstance(at, str) and at == "mean":
        first += first == 0 and length > 1
        share = torch.zeros(1, length, device="cpu")
        share[0, first:] = 1.0 / (length - first)
        return share
    wanted = [-1] if isinstance(at, str) and at == "last" else list(at) if isinstance(at, range) else [as_whole(at)]
    if (isinstance(at, str | range) and not wanted) or None in wanted:
        raise ArgumentError(f"at is {quote(at)}; it must be 'last', 'mean', a number, or a range of numbers")
    share = torch.zeros(len(wanted), length, device="cpu")
    for row, number in zip(share, wanted, strict=True):
        assert number is not None
        if not first - length <= number < length - first:
            what = "response" if first else "text"
            raise ArgumentError(f"at={number}: the {what} of {name} has {length - first} tokens only")
        row[number + first if number >= 0 else number] = 1.0
    return share
