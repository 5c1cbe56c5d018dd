"""Which attention heads to take: each of them tried alone on a few examples, many in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.lists import as_list, as_sequence
from feynkac.base.numbers import read_whole
from feynkac.models.edits.activations import Apply
from feynkac.models.edits.attention import Emphasise
from feynkac.models.edits.fitting.captures import capture
from feynkac.models.edits.fitting.passes import Tokens, find_anatomy, open_pass, read_texts
from feynkac.models.edits.scopes import Steps
from feynkac.models.language.caches.forward import select_rows
from feynkac.models.language.editing import Anatomy, Edit, Span
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import locate

if TYPE_CHECKING:
    from feynkac.models.edits.fitting.passes import Written
    from feynkac.models.language.lm import CausalLM
    from feynkac.models.language.prompted import Prompted

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
    """What each head alone changes, in nats of the answer's log-odds (without others, of its log-probability)."""

    gains: Tensor
    """(layers, heads) means over the examples; -inf for those that were not tried."""
    alpha: float | None = None
    """The strength of the emphasis, if it is one of emphasis."""

    def best(self, k: int = 25) -> dict[int, list[int]]:
        """The `k` heads that gain most, by layer, for the `heads=` of an edit or fit; only those that gain at all."""
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
    tried = _read_layers(anatomy, layers)
    listed = None if isinstance(examples, Example) else as_list(examples)
    if not listed or not all(isinstance(one, Example) for one in listed):
        raise ArgumentError("examples must be a list of Example(prompt, span, answer, others)")
    gains = [_try_emphasis(lm, anatomy, example, alpha, tried) for example in listed]
    return HeadProfile(_spread(anatomy, tried, gains), alpha)


def profile_effects(
    lm: CausalLM,
    prompts: Sequence[Written],
    corrupted: Sequence[tuple[str | Prompted, str]],
    *,
    layers: Sequence[int] | None = None,
    blocks: str | None = None,
) -> HeadProfile:
    """The indirect effect of each head on a task, of which `prompts` are few-shot examples (Todd et al. 2024).

        effects = profile_effects(lm, prompts, [("hot: small\\nbig: cold\\nup:", " down"), ...])
        fit_function_vector(lm, prompts, layer=10, heads=effects.best(10))

    `corrupted`: prompts whose examples have been shuffled, so that they show no task, each with its right answer. What
    a head gives at the last token, as a mean over `prompts`, is put there in place of what it gives in a corrupted
    prompt; its effect is the change of the answer's log-probability, in nats (the paper's is of its probability), as a
    mean over the corrupted prompts. Raises ArgumentError for no prompts, an empty answer, and layers that do not exist.
    """
    anatomy = find_anatomy(lm, blocks)
    tried = _read_layers(anatomy, layers)
    means = capture(lm, prompts, tried, "last", "heads", blocks=blocks).at
    edits = [_put_head(means[layer].mean(0), anatomy, layer, head) for layer in tried for head in range(anatomy.heads)]
    pairs = as_sequence(corrupted)
    if not pairs or not all(isinstance(one, tuple) for one in pairs):
        raise ArgumentError("corrupted must be a list of (prompt, answer) pairs")
    answers = read_texts(lm, pairs, "corrupted")
    kinds = [lm.variant, *_list_kinds(lm, anatomy, edits)]
    scores = torch.stack([_score_all(lm, [answer], kinds)[:, 0] for answer in answers])
    return HeadProfile(_spread(anatomy, tried, list(scores[:, 1:] - scores[:, :1])))


def _put_head(mean: Tensor, anatomy: Anatomy, layer: int, head: int) -> Apply:
    """What a head gives at a prompt's last token, set to its part of `mean` (heads x size,)."""
    size = len(mean) // anatomy.heads
    part = slice(head * size, (head + 1) * size)

    def put(value: Tensor) -> Tensor:
        new = value.clone()
        new[..., part] = mean[part].to(value)
        return new

    return Apply(put, layer=layer, of="heads", scope=Steps(0, 0))


def _read_layers(anatomy: Anatomy, layers: Sequence[int] | None) -> list[int]:
    return list(range(anatomy.n_layers)) if layers is None else anatomy.read_layers(layers)


def _spread(anatomy: Anatomy, tried: Sequence[int], gains: Sequence[Tensor]) -> Tensor:
    """(layers, heads) means of gains at the heads of the layers `tried`, -inf elsewhere."""
    found = torch.full((anatomy.n_layers, anatomy.heads), -torch.inf, dtype=torch.float64, device="cpu")
    found[tried] = torch.stack(list(gains)).mean(0).reshape(len(tried), anatomy.heads)
    return found


def _list_kinds(lm: CausalLM, anatomy: Anatomy, edits: Sequence[Edit]) -> list[Edits]:
    """Each edit alone, behind those of the model."""
    own = () if lm.variant is None else lm.variant.edits
    return [Edits([*own, edit], anatomy) for edit in edits]


def _try_emphasis(lm: CausalLM, anatomy: Anatomy, example: Example, alpha: float, layers: Sequence[int]) -> Tensor:
    """(layers x heads,) gains on one example."""
    pairs = [(example.prompt, answer) for answer in (example.answer, *example.others)]
    answers = read_texts(lm, pairs, "the answers of an example")
    span = Span(example.span) if isinstance(example.span, str) else example.span
    locate(span, answers[0].ids[: answers[0].start], lm.vocabulary)
    edits = [Emphasise(span, alpha, heads={layer: [head]}) for layer in layers for head in range(anatomy.heads)]
    scores = _score_all(lm, answers, [lm.variant, *_list_kinds(lm, anatomy, edits)])
    odds = scores[:, 0] - (scores[:, 1:].logsumexp(1) if example.others else 0.0)
    return odds[1:] - odds[0]


def _score_all(lm: CausalLM, answers: Sequence[Tokens], kinds: Sequence[Any]) -> Tensor:
    """(n, A) float64 log-probabilities of answers behind one prompt, under each of n edits.

    Answers that differ in their last token only, as those of one token do, take one pass.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, answer in enumerate(answers):
        groups.setdefault(answer.ids[:-1], []).append(number)
    scores = torch.empty(len(kinds), len(answers), dtype=torch.float64, device="cpu")
    for read, members in groups.items():
        start = answers[members[0]].start
        written = torch.tensor([answers[number].ids[start:] for number in members], device="cpu")
        scores[:, members] = _score(lm, Tokens(read, start), written, kinds)
    return scores


@torch.inference_mode()
def _score(lm: CausalLM, text: Tokens, written: Tensor, kinds: Sequence[Any]) -> Tensor:
    """(n, A) log-probabilities of the tokens `written` (A, K) behind the prompt, under each of n edits."""
    at = torch.arange(text.start - 1, len(text.ids), device="cpu")
    found = []
    for some in _split(kinds, max(1, _ROWS // len(at))):
        with open_pass(lm, [text] * len(some), some) as (twin, rows):
            order = torch.arange(len(some), device=rows.device).repeat_interleave(len(at))
            with select_rows(twin.model, order, at.to(rows.device).repeat(len(some))) as select:
                logits = select.apply(twin.model(input_ids=rows, use_cache=False).logits)
        law = logits.double().log_softmax(1).cpu().reshape(len(some), len(at), -1)
        found.append(law[:, torch.arange(len(at), device="cpu"), written].sum(2))
    return torch.cat(found)


def _split(kinds: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (kinds[i : i + size] for i in range(0, len(kinds), size))
