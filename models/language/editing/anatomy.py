"""The parts of a decoder by name: its blocks, and in each block the attention and the feed-forward network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_whole
from feynkac.base.words import is_word

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block", "mixer_ffn")
_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj")
"""What architectures of transformers call these parts, the usual names first."""


class Anatomy:
    """Names of a model's modules. `blocks` names the list of its layers, where it cannot be found.

    Raises ModelError where it cannot be found and is not named, ArgumentError where the name is not one.
    """

    def __init__(self, model: Any, blocks: str | None = None) -> None:
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel):
            raise ArgumentError(f"model is {quote(model)}; give a model of transformers")
        self.model: Any = model
        self._config = self.model.config.get_text_config(decoder=True)
        self._blocks = self._find_blocks() if blocks is None else self._read_blocks(blocks)
        self.n_layers = len(self.model.get_submodule(self._blocks))
        self.embedding_width: int = self.model.get_input_embeddings().embedding_dim
        """Numbers that stand for a token before the layers."""
        self.width: int = getattr(self._config, "hidden_size", None) or self.embedding_width
        """Numbers in a residual, which some models project their embeddings to."""

    def read_layers(self, layers: Any) -> list[int]:
        """The numbers of layers given as one or several, each once, negative ones counted from the end.

        Raises ArgumentError for one that does not exist, and for what is no number.
        """
        one = as_whole(layers)
        listed = [one] if one is not None else as_list(layers)
        if listed is None:
            raise ArgumentError(f"layer is {quote(layers)}; give a number, or a list of them{_hint(layers)}")
        found = []
        for layer in listed:
            number = as_whole(layer)
            if number is None or not -self.n_layers <= number < self.n_layers:
                raise ArgumentError(
                    f"layer {quote(layer)} does not exist: this model has layers 0..{self.n_layers - 1} (negative "
                    f"numbers count from the end){_hint(layer)}"
                )
            found.append(number % self.n_layers)
        if not found:
            raise ArgumentError("no layer is given")
        return list(dict.fromkeys(found))

    def read_layer(self, layer: Any) -> int:
        """As `read_layers`, of one number. Raises ArgumentError also for several."""
        found = self.read_layers(layer)
        if len(found) > 1:
            raise ArgumentError(f"layer is {quote(layer)}; give one number")
        return found[0]

    def name_block(self, layer: int) -> str:
        """The module of a layer, whose output is the residual behind it."""
        return f"{self._blocks}.{layer}"

    def name_attention(self, layer: int) -> str:
        """The module of a layer's attention. Raises ModelError for a layer without one."""
        name = self._name_part(self.name_block(layer), _ATTENTION, "Attention", "attention")
        within = dict(self.model.get_submodule(name).named_children())
        return f"{name}.attention" if "attention" in within else name

    def name_mlp(self, layer: int) -> str:
        """The module of a layer's feed-forward network. Raises ModelError for a layer without one."""
        return self._name_part(self.name_block(layer), _MLP, "MLP", "feed-forward network")

    def name_output(self, layer: int) -> str:
        """The projection whose input is the (F, Q, heads x size) of a layer's heads side by side."""
        return self._name_part(self.name_attention(layer), _OUTPUT, "?", "output projection")

    @cached_property
    def embedding(self) -> str:
        """The module that turns tokens into residuals."""
        wanted = self.model.get_input_embeddings()
        return next(name for name, module in self.model.named_modules() if module is wanted)

    @property
    def heads(self) -> int:
        """Query heads in a layer. Raises ModelError for a model that does not say."""
        heads = getattr(self._config, "num_attention_heads", None)
        if not isinstance(heads, int):
            raise ModelError(f"{self._name} does not say how many attention heads it has")
        return heads

    def find_head_size(self, layer: int) -> int:
        """Numbers that a head of a layer gives to its output projection.

        Raises ModelError for a model that does not say how many heads it has, or whose projection reads something else.
        """
        name = self.name_output(layer)
        module = self.model.get_submodule(name)
        inputs = next((size for side in ("in_features", "nx") if (size := getattr(module, side, None))), 0)
        if not inputs or inputs % self.heads:
            raise ModelError(
                f"{name} of {self._name} reads {inputs} numbers, which are not those of {self.heads} heads"
            )
        return inputs // self.heads

    def check_alone(self, part: str) -> None:
        """Raises ModelError where what a part gives holds the residual, too, so that it is not what the part adds."""
        if "residual" in inspect.signature(self.model.get_submodule(part).forward).parameters:
            raise ModelError(
                f"{part} of {self._name} adds the residual by itself, so that what it gives is no part of it; take "
                "of='residual', or of='heads'"
            )

    def _name_part(self, parent: str, names: Sequence[str], kind: str, what: str) -> str:
        children = dict(self.model.get_submodule(parent).named_children())
        found = next((name for name in names if name in children), None)
        found = found or next((name for name, child in children.items() if kind in type(child).__name__), None)
        if found is None:
            raise ModelError(f"{parent} of {self._name} has no {what} that could be found among {sorted(children)}")
        return f"{parent}.{found}"

    def _find_blocks(self) -> str:
        wanted = getattr(self._config, "num_hidden_layers", None)
        found = [name for name, size in self._list_blocks() if size == wanted]
        if not found:
            near = ", ".join(f"{quote(name)} ({size})" for name, size in self._list_blocks()) or "none"
            raise ModelError(
                f"cannot find the {wanted} layers of {self._name}; name the list that holds them, as in "
                f"lm.edited(..., blocks='model.layers'). Its lists of modules: {near}"
            )
        return min(found, key=len)

    def _list_blocks(self) -> Iterator[tuple[str, int]]:
        from torch.nn import ModuleList

        return ((name, len(part)) for name, part in self.model.named_modules() if isinstance(part, ModuleList))

    def _read_blocks(self, blocks: str) -> str:
        known = dict(self._list_blocks())
        if not is_word(blocks, known):
            raise ArgumentError(f"blocks={quote(blocks)} is no list of modules; this model has {sorted(known)}")
        return blocks

    @property
    def _name(self) -> str:
        return type(self.model).__name__


def _hint(layer: Any) -> str:
    texts = "; keys that JSON has made texts are read by {int(key): value for key, value in given.items()}"
    return texts if isinstance(layer, str) else ""
