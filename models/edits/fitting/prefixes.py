"""Soft prompts: vectors at the embeddings of a prompt's first tokens, fitted to answers by gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_count, read_real
from feynkac.models.edits.activations import Add
from feynkac.models.edits.fitting.descent import descend
from feynkac.models.edits.fitting.passes import Tokens, find_anatomy, list_batches, open_pass, read_texts
from feynkac.models.edits.scopes import check_scope

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM
    from feynkac.models.language.prompted import Prompted


class SoftPrompt(NamedTuple):
    """What `fit_prefix` found."""

    edit: Add
    """For `lm.edited(edit)`, whose prompts begin with as many tokens, whatever these are."""
    nats: float
    """-log p a token of the answers, mean over all their tokens."""


@torch.inference_mode(False)
def fit_prefix(
    lm: CausalLM, pairs: Sequence[tuple[str | Prompted, str]], scope: range, steps: int = 100, *, rate: float = 0.05
) -> SoftPrompt:
    """The vectors that, added to the embeddings of a prompt's tokens at `scope`, make the answers of pairs likeliest.

        pairs = [("* * * * The soup was cold.", " bad"), ("* * * * The soup was hot.", " good"), ...]
        lm.edited(fit_prefix(lm, pairs, range(0, 4)).edit).prompt("* * * * The bread was stale.")

    Prompt tuning (Lester et al. 2021): a prefix of tokens that stand for nothing yet, whose embeddings are learned, by
    `steps` steps of Adam on the mean -log p of the answers' tokens, from 0 on; the best of all steps is returned. A
    step is `rate` of the length of an embedding at first, and shrinks to 0. The edits of `lm` count, and are to stand
    before this one; the model and its parameters' `grad` stay as they are. Raises ArgumentError for no pairs, an empty
    answer, a prompt that ends before `scope` does, and where no step is better than none.
    """
    width = find_anatomy(lm).embedding_width
    if not isinstance(scope, range):
        raise ArgumentError(
            f"scope is {quote(scope)}; give the places of the prefix in the prompt, such as range(0, 4)"
        )
    check_scope(scope)
    listed = as_sequence(pairs)
    if listed is None or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in listed):
        raise ArgumentError("pairs must be a list of (prompt, answer)")
    texts = read_texts(lm, pairs, "pairs")
    if short := [i for i, text in enumerate(texts) if text.start < scope.stop]:
        raise ArgumentError(f"the prompt of pairs[{short[0]}] has {texts[short[0]].start} tokens, and scope is {scope}")
    count, pace = read_count("steps", steps), read_real("rate", rate, 0.0)
    vectors = torch.zeros(len(scope), width, device=lm.device, requires_grad=True)
    size = _measure_embedding(lm, texts[0])
    best, least = descend(vectors, lambda now: _measure(lm, texts, now, scope), count, pace * size / width**0.5)
    if not best.norm() > 0:
        raise ArgumentError("no step made the answers likelier; take more steps, or another rate")
    return SoftPrompt(Add(best.cpu(), of="embedding", scope=scope), least)


@torch.no_grad()
def _measure_embedding(lm: CausalLM, text: Tokens) -> float:
    """How long an embedding is, where its module has scaled it."""
    with lm.find_twins().borrow() as twin:
        module, ids = twin.model.get_input_embeddings(), torch.tensor([text.ids], device=lm.device)
        stored, given = module.weight.float().norm(dim=1), module(ids).float().norm(dim=2)
        return float(stored.mean() * (given.sum() / stored[ids].sum()))


def _measure(lm: CausalLM, texts: Sequence[Tokens], vectors: Tensor, scope: range) -> tuple[float, Tensor]:
    """The nats a token of all answers, and their gradient in the vectors."""
    module, total, gradient = find_anatomy(lm).embedding, 0.0, torch.zeros_like(vectors)
    tokens = sum(len(text.ids) - text.start for text in texts)
    for numbers in list_batches(texts):
        some = [texts[i] for i in numbers]
        with (
            torch.enable_grad(),
            open_pass(lm, some) as (twin, rows),
            _add(twin.model.get_submodule(module), vectors, scope),
        ):
            law = twin.model(input_ids=rows, use_cache=False).logits[:, :-1].float().log_softmax(2)
            answers = torch.stack([torch.arange(1, len(text.ids), device="cpu") >= text.start for text in some]).to(
                rows.device
            )
            loss = -(law.gather(2, rows[:, 1:, None])[..., 0] * answers).sum() / tokens
            gradient += torch.autograd.grad(loss, [vectors])[0]
        total += float(loss.detach())
    return total, gradient


@contextmanager
def _add(module: Any, vectors: Tensor, scope: range) -> Iterator[None]:
    def hook(module: Any, args: Any, out: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(vectors, (0, 0, scope.start, out.shape[1] - scope.stop))
        return out + padded.to(out.dtype)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
