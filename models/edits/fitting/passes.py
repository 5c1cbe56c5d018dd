"""Passes over whole texts, without a cache, with the edits of their model laid on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.lists import as_sequence
from feynkac.models.language.caches.forward import select_rows
from feynkac.models.language.caches.opening import check_whole
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits, Laid
from feynkac.models.language.editing.spans import Located
from feynkac.models.language.forks import check_process
from feynkac.models.language.prompted import Prompted

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twin
    from feynkac.models.language.lm import CausalLM

Written: TypeAlias = "str | Prompted | tuple[str | Prompted, str]"
"""A text, a prompt of the model such as `lm.prompt(chat=...)`, or a pair of one of these and the response to it."""
_TOKENS = 4096
"""Tokens of one pass, at most, unless one text alone has more."""


@dataclass(frozen=True)
class Tokens:
    """A text as token ids, of which `start` are its prompt; a text without a response is all prompt."""

    ids: tuple[int, ...]
    start: int


def find_anatomy(lm: CausalLM, blocks: str | None = None) -> Anatomy:
    """The parts of a model's layers by name. Raises ArgumentError for what has no forward pass of its own."""
    from feynkac.models.language.lm import CausalLM

    if not isinstance(lm, CausalLM):
        raise ArgumentError(f"activations are those of a CausalLM, edited or not, and this is {quote(lm)}")
    return Anatomy(lm.model, blocks)


def read_texts(lm: CausalLM, texts: Sequence[Written], name: str = "texts") -> list[Tokens]:
    """The token ids of texts and of (prompt, response) pairs.

    Raises ArgumentError for what is neither, for an empty response, and for no texts at all; ModelError for a text
    longer than the model's window.
    """
    listed = as_sequence(texts)
    if listed is None:
        raise ArgumentError(f"{name} is {quote(texts)}; give a list of texts, or of (prompt, response) pairs")
    if not listed:
        raise ArgumentError(f"{name} is empty; give at least one text")
    found = [_read(lm, text, f"{name}[{i}]") for i, text in enumerate(listed)]
    for i, text in enumerate(found):
        if lm.window is not None and len(text.ids) > lm.window:
            raise ModelError(f"{name}[{i}] has {len(text.ids)} tokens, but the model's window holds {lm.window}")
    return found


def _read(lm: CausalLM, text: Any, name: str) -> Tokens:
    if isinstance(text, tuple) and len(text) == 2:
        prompt, response = _begin(lm, text[0], f"the prompt of {name}"), text[1]
        if not isinstance(response, str) or not response:
            raise ArgumentError(f"the response of {name} is {quote(response)}; give a text that is not empty")
        return Tokens((*prompt, *lm.spell(response)), len(prompt))
    if text == "":
        raise ArgumentError(f"{name} is empty; leave it out")
    ids = _begin(lm, text, name)
    return Tokens(ids, len(ids))


def _begin(lm: CausalLM, text: Any, name: str) -> tuple[int, ...]:
    if isinstance(text, str):
        return lm.begin(text)
    if isinstance(text, Prompted) and len(text.prompts) == 1 and text.lm.vocabulary is lm.vocabulary:
        return text.prompts[0].tokens
    raise ArgumentError(f"{name} is {quote(text)}; give a text, or one prompt of this model")


def list_batches(texts: Sequence[Tokens]) -> Iterator[list[int]]:
    """Numbers of texts that go through the model together: of one length, so that nothing is padded."""
    lengths = np.array([len(text.ids) for text in texts])
    for length in np.unique(lengths).tolist():
        some = np.flatnonzero(lengths == length).tolist()
        most = max(1, _TOKENS // length)
        yield from (some[i : i + most] for i in range(0, len(some), most))


@contextmanager
def open_pass(
    lm: CausalLM, texts: Sequence[Tokens], edits: Sequence[Edits | None] | None = None
) -> Iterator[tuple[Twin, Tensor]]:
    """A twin with the edits of `lm`, or with those given for each text, laid on; and the (B, T) ids of the texts.

    The texts must have one length.
    """
    check_process()
    check_whole(lm.model)
    rows = torch.tensor([text.ids for text in texts], device=lm.device)
    prompts = [text.ids[: text.start] for text in texts]
    kinds = [lm.variant] * len(texts) if edits is None else edits
    laid = Laid(kinds, [text.start for text in texts], Located(prompts, lm.vocabulary, lm.device))
    positions = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    with lm.find_twins().borrow() as twin, laid.on(twin, np.arange(len(texts)), positions):
        yield twin, rows


@contextmanager
def borrow_weighted(lm: CausalLM) -> Iterator[Twin]:
    """A twin to ask single modules of: on the weights that `lm` edits, without what else it edits."""
    with lm.find_twins().borrow() as twin:
        if lm.variant is None:
            yield twin
            return
        with lm.variant.parameters.swap(twin.model):
            yield twin


def forward_last(twin: Twin, rows: Tensor) -> Tensor:
    """(B, V) float32 logits behind each of (B, T) texts."""
    order = torch.arange(len(rows), device=rows.device)
    with select_rows(twin.model, order, torch.full_like(order, rows.shape[1] - 1)) as select:
        return select.apply(twin.model(input_ids=rows, use_cache=False).logits)


@torch.inference_mode()
def find_laws(lm: CausalLM, texts: Sequence[Tokens]) -> Tensor:
    """(n, V) float32 log-probabilities, in nats, of the token behind each text; on the host."""
    found: dict[int, Tensor] = {}
    for numbers in list_batches(texts):
        with open_pass(lm, [texts[i] for i in numbers]) as (twin, rows):
            laws = forward_last(twin, rows).log_softmax(1).cpu()
        found |= dict(zip(numbers, laws, strict=True))
    return torch.stack([found[i] for i in range(len(texts))])
