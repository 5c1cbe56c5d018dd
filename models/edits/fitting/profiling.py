"""Which attention heads to steer: each of them tried alone on a few examples, many in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_whole
from feynkac.models.edits.attention import Emphasise
from feynkac.models.edits.fitting.passes import Tokens, find_anatomy, open_pass, read_texts
from feynkac.models.language.caches.forward import select_rows
from feynkac.models.language.editing import Anatomy, Span
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import locate

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

_ROWS = 64
"""Texts in one pass, whose laws are held at once."""


class Example(NamedTuple):
    """A prompt, the part of it to be heeded, the answer that heeds it, and answers that do not."""

    prompt: str
    span: str | Span
    answer: str
    others: Sequence[str] = ()


@dataclass(frozen=True)
class HeadProfile:
    """What emphasis by each head alone changes, in nats of the answer's log-odds (of its log-probability alone)."""

    gains: Tensor
    """(layers, heads) means over the examples."""
    alpha: float

    def best(self, k: int = 25) -> dict[int, list[int]]:
        """The `k` heads that gain most, by layer, for `Emphasise(heads=)`; only those that gain at all."""
        most = read_whole("k", k, 1)
        values, numbers = self.gains.flatten().topk(min(most, self.gains.numel()))
        found: dict[int, list[int]] = {}
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            if value > 0.0:
                found.setdefault(number // self.gains.shape[1], []).append(number % self.gains.shape[1])
        return {layer: sorted(found[layer]) for layer in sorted(found)}


def profile_heads(
    lm: CausalLM,
    examples: Sequence[Example],
    *,
    alpha: float = 0.01,
    layers: Sequence[int] | None = None,
    blocks: str | None = None,
) -> HeadProfile:
    """The gain of each head when it alone emphasises the span of an example (PASTA; Zhang et al. 2024, section 3.2).

        pets = Example("Ann has a cat. Bob has a dog. Bob's pet is a", "Bob has a dog", " dog", [" cat"])
        lm.edited(Emphasise("Ann has a cat", heads=profile_heads(lm, [pets, ...]).best(25)))

    All heads of `layers` (all by default) are tried on every example, some 60 texts in a pass. Heads of layers that
    were not tried have -inf. Raises ArgumentError for no examples, an empty answer, and a span that is not in its
    prompt.
    """
    anatomy = find_anatomy(lm, blocks)
    tried = list(range(anatomy.n_layers)) if layers is None else anatomy.read_layers(list(layers))
    if isinstance(examples, Example | str) or not examples or not all(isinstance(one, Example) for one in examples):
        raise ArgumentError("examples must be a list of Example(prompt, span, answer, others)")
    total = torch.zeros(len(tried), anatomy.heads, dtype=torch.float64)
    for example in examples:
        total += _try_heads(lm, anatomy, example, alpha, tried)
    gains = torch.full((anatomy.n_layers, anatomy.heads), -torch.inf, dtype=torch.float64)
    gains[tried] = total / len(examples)
    return HeadProfile(gains, alpha)


def _try_heads(lm: CausalLM, anatomy: Anatomy, example: Example, alpha: float, layers: Sequence[int]) -> Tensor:
    """(layers, heads) gains on one example."""
    pairs = [(example.prompt, answer) for answer in (example.answer, *example.others)]
    answers = read_texts(lm, pairs, "the answers of an example")
    span = Span(example.span) if isinstance(example.span, str) else example.span
    locate(span, answers[0].ids[: answers[0].start], lm.vocabulary)
    own = () if lm.variant is None else lm.variant.edits
    kinds = [
        Edits([*own, Emphasise(span, alpha, heads={layer: [head]})], anatomy)
        for layer in layers
        for head in range(anatomy.heads)
    ]
    scores = _score_all(lm, answers, [lm.variant, *kinds])
    odds = scores[:, 0] - (scores[:, 1:].logsumexp(1) if example.others else 0.0)
    return (odds[1:] - odds[0]).reshape(len(layers), anatomy.heads)


def _score_all(lm: CausalLM, answers: Sequence[Tokens], kinds: Sequence[Any]) -> Tensor:
    """(n, A) float64 log-probabilities of answers behind one prompt, under each of n edits.

    Answers that differ in their last token only, as those of one token do, take one pass.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, answer in enumerate(answers):
        groups.setdefault(answer.ids[:-1], []).append(number)
    scores = torch.empty(len(kinds), len(answers), dtype=torch.float64)
    for read, members in groups.items():
        start = answers[members[0]].start
        written = torch.tensor([answers[number].ids[start:] for number in members])
        scores[:, members] = _score(lm, Tokens(read, start), written, kinds)
    return scores


@torch.inference_mode()
def _score(lm: CausalLM, text: Tokens, written: Tensor, kinds: Sequence[Any]) -> Tensor:
    """(n, A) log-probabilities of the tokens `written` (A, K) behind the prompt, under each of n edits."""
    at = torch.arange(text.start - 1, len(text.ids))
    found = []
    for some in _split(kinds, max(1, _ROWS // len(at))):
        with open_pass(lm, [text] * len(some), some) as (twin, rows):
            order = torch.arange(len(some), device=rows.device).repeat_interleave(len(at))
            with select_rows(twin.model, order, at.to(rows.device).repeat(len(some))) as select:
                logits = select.apply(twin.model(input_ids=rows, use_cache=False).logits)
        law = logits.double().log_softmax(1).cpu().reshape(len(some), len(at), -1)
        found.append(law[:, torch.arange(len(at)), written].sum(2))
    return torch.cat(found)


def _split(kinds: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (kinds[i : i + size] for i in range(0, len(kinds), size))
