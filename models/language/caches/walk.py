"""The walk of the self-check: two prompts, forks, reorderings, splits and merges, and the model's own logits on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.models.language.caches.opening import find_device
from feynkac.models.language.draws.next_token import check_law
from feynkac.models.language.editing.edits import Edits, Laid
from feynkac.models.language.editing.spans import Anywhere

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins
    from feynkac.models.language.protocols import Contexts

Ids = tuple[int, ...]
Text = tuple[int, Ids]
"""A text and the number of its prompt: in a small vocabulary one prompt may begin as the other does."""
Open = Callable[[Sequence[Ids], "Laid | None"], "Contexts"]
PROMPTS = (slice(0, 5), slice(5, 8))
"""Two prompts of different lengths, as slices of the test tokens."""
WALK: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...] = (
    ((0, 0, 1, 1), ((8,), (9,), (10,), ())),  # forks of both; one context is kept
    ((1, 0, 2, 3), ((11,), (), (12,), (13,))),  # reordered; siblings split
    ((1, 0, 3, 2), ((14,), (15, 16), (17, 18, 19), ())),  # several tokens in one pass
    ((2, 0), ((20,), (21,))),  # two die, and the others, now of one length, merge
)
"""Steps of parents and of their new tokens, as numbers among the test tokens."""


class NoLaw(Exception):
    """What the model's own logits hold, no cache being to blame."""


class Walked(NamedTuple):
    """The walk: its prompts, the texts that contexts stood on, and the (V,) logits behind each."""

    prompts: list[Ids]
    texts: list[Text]
    logits: list[Tensor]


def take_walk(twins: Twins, edits: Edits | None, opened: Open) -> Walked:
    """Go the walk over contexts that are opened on its prompts."""
    vocab = twins.model.get_input_embeddings().weight.shape[0]
    ids = (np.arange(1, 24) * 7919 % vocab).tolist()  # neighbours differ, however small the vocabulary
    prompts = [tuple(ids[part]) for part in PROMPTS]
    if edits is not None and edits.reach:  # else what it does further on would not be seen
        prompts[0] += tuple((np.arange(1, edits.reach + 1) * 104729 % vocab).tolist())
    contexts = opened(prompts, _lay(twins, edits, prompts))
    texts: list[Text] = [*enumerate(prompts)]
    found = list(zip(texts, contexts.start(), strict=True))
    for parents, numbers in WALK:
        tokens = [[ids[i] for i in some] for some in numbers]
        steps = [(texts[i], some) for i, some in zip(parents, tokens, strict=True)]
        if max(map(len, tokens)) == 1:
            logits = contexts.extend(np.array(parents), np.array([some[0] if some else -1 for some in tokens]))
        else:
            logits = contexts.append(np.array(parents), tokens, every=True)
        on_the_way = [(of, (*text, *some[: t + 1])) for (of, text), some in steps for t in range(len(some))]
        found += zip(on_the_way, logits, strict=True)
        texts = [(of, (*text, *some)) for (of, text), some in steps]
    return Walked(prompts, [text for text, _ in found], [logits for _, logits in found])


def _lay(twins: Twins, edits: Edits | None, prompts: Sequence[Ids]) -> Laid:
    spans = Anywhere(len(prompts), find_device(twins.model))
    return Laid([edits] * len(prompts), [len(prompt) for prompt in prompts], spans)


def find_distance(some: Tensor, wanted: Tensor) -> float:
    """The largest difference of two (n, V) logits, in standard deviations of the second."""
    differences = (some - wanted).masked_fill(some == wanted, 0.0)  # a token may be impossible, at -inf in both
    spread = wanted[wanted.isfinite()].std().item()
    return differences.abs().max().item() / max(spread, 1e-30)  # NaN compares as no agreement


def _check_laws(logits: Tensor) -> None:
    """Raise NoLaw if some of the (U, V) logits of a pass without a cache are no law."""
    try:
        check_law(logits.double().logsumexp(1).cpu().numpy(), logits)
    except ModelError as fault:
        raise NoLaw(*fault.args) from None


@torch.inference_mode()
def recompute(twins: Twins, edits: Edits | None, walked: Walked) -> Tensor:
    """(n, V) logits behind n texts, by passes over whole texts without a cache, those of one length together."""
    texts = walked.texts
    parts = {(of, text[:t]) for of, text in texts for t in range(len(text))}
    wanted: dict[Text, Tensor] = {}
    laid = _lay(twins, edits, walked.prompts)
    with twins.borrow() as twin:
        for length in sorted({len(text) for _, text in {*texts} - parts}):
            some = sorted((of, text) for of, text in {*texts} - parts if len(text) == length)
            rows = torch.tensor([text for _, text in some], device=find_device(twin.model))
            of = np.array([of for of, _ in some], np.int64)
            with laid.on(twin, of, torch.arange(length, device=rows.device).expand_as(rows)):
                logits = twin.model(input_ids=rows, use_cache=False).logits.float()
            _check_laws(logits.flatten(0, 1))
            wanted |= {
                (of, text[: t + 1]): row[t] for (of, text), row in zip(some, logits, strict=True) for t in range(length)
            }
    return torch.stack([wanted[text] for text in texts])
