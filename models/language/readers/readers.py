"""Prompts that read the texts of other prompts: what they think of each text, and of each next token.

A reader is asked by potentials (the capability `Consults`). At each frontier of a run all readers of one model go on by
one token in one pass, whichever proposal draws. Texts that were not walked along with, such as the samples of
best-of-N, are read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Consults, has
from feynkac.base.contract import LogW, Rows
from feynkac.base.errors import ArgumentError, ModelError, PotentialError
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.protocols import Frontier
from feynkac.models.language.readers.walks import Reread, Walk
from feynkac.models.language.texts import BY_EOS, Texts

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.proposals.drawing import PromptProblem

_NO_LIMIT = 2**62
"""Readers have no limit of their own."""
Readers = Mapping["LanguageModel", Sequence[Sequence[Prompt]]]
"""For one model of each batch, and each problem that is steered, the prompts that read its texts along."""


@dataclass(frozen=True)
class Reader:
    """A prompt as a reader of texts that end where another prompt has them end: its tokens and their law count."""

    lm: LanguageModel
    prompt: Prompt

    def score_texts(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats of the texts of `rows`, the end included where a text ended by itself; -inf where it has no mass.

        It ends by any of this model's ends of sequence. Raises PotentialError for anything but the texts of a prompt,
        ArgumentError for texts of another vocabulary, ModelError where the window is too small.
        """
        if not isinstance(state, Texts):
            raise PotentialError(
                f"{type(state).__name__} is no population of a prompt's texts; an expert reads those of lm.prompt(...)"
            )
        written = [tuple(ids.tolist()) for ids in state.tokens(rows)]
        texts = list(zip(written, (state.ended[rows] == BY_EOS).tolist(), strict=True))
        found = self._read_walk(state, dict.fromkeys(texts))
        if missing := [text for text in dict.fromkeys(texts) if text not in found]:
            found |= self._reread(state, missing, int(state.group[rows[0]]))
        return np.array([found[text] for text in texts], np.float64)

    def _read_walk(self, state: Texts, texts: Iterable[tuple[tuple[int, ...], bool]]) -> dict[Any, float]:
        """What is known of texts at the last frontier, or one token behind it."""
        walk: Walk | None = state.companions.get((Walk, self.lm.batch))
        if walk is None:
            return {}
        found: dict[Any, float] = {}
        ahead: list[tuple[Any, int]] = []
        for text in texts:
            ids, ended = text
            here, before = walk.where.get((self.prompt, ids)), walk.where.get((self.prompt, ids[:-1]))
            if here is not None:
                found[text] = float(walk.log_prob[here] + (walk.laws.log_end[here] if ended else 0.0))
            elif before is not None and not ended:
                ahead.append((text, before))
        at = np.array([before for _, before in ahead], np.int64)
        nats = walk.log_prob[at] + walk.laws.read(at, [ids[-1] for (ids, _), _ in ahead])
        return found | dict(zip((text for text, _ in ahead), nats.tolist(), strict=True))

    def _reread(self, state: Texts, texts: Sequence[Any], group: int) -> dict[Any, float]:
        if (reread := state.companions.get(self)) is None:
            self.check(state.vocabulary, state.prompts)
            reread = Reread(self.lm, self.prompt, max(each.max_tokens for each in state.prompts)).start()
            state.forwarded[group] += reread.forwarded
            state.companions[self] = reread
        before = reread.forwarded
        found = reread.read(texts)
        state.forwarded[group] += reread.forwarded - before
        return found

    def score_next(self, frontier: Frontier) -> Tensor:
        """(U, V) float32 nats of each next token behind the contexts of a frontier that was walked to."""
        import torch

        state, heads = frontier.state, frontier.heads
        walk: Walk = state.companions[Walk, self.lm.batch]
        at = np.array([walk.where[self.prompt, tuple(ids.tolist())] for ids in state.tokens(heads)])
        law = walk.laws.take(at)
        law[:, np.flatnonzero(walk.laws.ends)] = -torch.inf
        law = _fit(law, state.vocabulary.size)
        log_end = torch.as_tensor(walk.laws.log_end[at], dtype=law.dtype, device=law.device)
        law[:, list(state.vocabulary.eos)] = log_end[:, None]
        return law.to(frontier.logits.device)

    def check(self, vocabulary: Vocabulary, prompts: Iterable[Prompt]) -> None:
        """Raises ArgumentError unless texts of `vocabulary` can be read, ModelError unless those of `prompts` fit."""
        if not are_alike(self.lm.vocabulary, vocabulary):
            raise ArgumentError(
                f"the expert's model has another vocabulary ({self.lm.vocabulary.size} tokens) than the prompt that is "
                f"steered ({vocabulary.size}); it cannot read its tokens. Make both models of bytes, "
                "fk.bytewise(lm); or let it score whole texts: fk.reward(lambda text: expert_lm.score(prompt, "
                "[text])[0], every='end')"
            )
        longest, window = max(prompt.max_tokens for prompt in prompts), self.lm.window
        if window is not None and len(self.prompt.tokens) + longest > window:
            raise ModelError(
                f"the expert's prompt has {len(self.prompt.tokens)} tokens and the texts up to {longest}, but its "
                f"model's window holds {window}; shorten its prompt, or steer with a smaller max_tokens"
            )


def _fit(law: Tensor, size: int) -> Tensor:
    """(U, size) of (U, V): models of one tokenizer may be padded to different sizes."""
    import torch

    if law.shape[1] >= size:
        return law[:, :size]
    return torch.nn.functional.pad(law, (0, size - law.shape[1]), value=-torch.inf)


def are_alike(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether each id has the same text in both, ends of sequence aside; what one has beyond the other has none."""
    if one is other or one.tokens == other.tokens:
        return True
    n = min(one.size, other.size)
    ends = {*one.eos, *other.eos}
    return not any((*one.tokens[n:], *other.tokens[n:])) and all(
        a == b or i in ends for i, (a, b) in enumerate(zip(one.tokens[:n], other.tokens[:n], strict=True))
    )


def make_reader(lm: LanguageModel, problems: Sequence[PromptProblem]) -> Reader:
    """The reader that a prompt makes. Raises ArgumentError for several prompts, and for one with constraints."""
    if len(problems) != 1:
        raise ArgumentError(f"{len(problems)} prompts joined are no expert; make one of each, and multiply them")
    if problems[0].constraints or problems[0].guides:
        raise ArgumentError("a prompt that obeys constraints is no expert; give it as lm.prompt(...) makes it")
    return Reader(lm, replace(problems[0].prompt, max_tokens=_NO_LIMIT, stop=(), at_limit="truncate"))


def find_readers(problems: Sequence[PromptProblem]) -> Readers:
    """The readers that the potentials of each problem consult."""
    found: dict[Any, tuple[LanguageModel, list[list[Prompt]]]] = {}
    for g, problem in enumerate(problems):
        for guide in problem.guides:
            for reader in guide.scorers if has(guide, Consults) else ():
                if isinstance(reader, Reader):
                    _, asked = found.setdefault(reader.lm.batch, (reader.lm, [[] for _ in problems]))
                    asked[g].append(reader.prompt)
    return {lm: [list(dict.fromkeys(some)) for some in each] for lm, each in found.values()}


def list_readers(of_problem: Iterable[Iterable[Prompt]]) -> list[Prompt]:
    """The distinct prompts of the readers of one model."""
    return list(dict.fromkeys(prompt for some in of_problem for prompt in some))


def check_readers(guides: Iterable[Any], vocabulary: Vocabulary, prompts: Sequence[Prompt]) -> None:
    """Raises the error of a reader among `guides` that cannot read the texts of `prompts`."""
    for guide in guides:
        for reader in guide.scorers if has(guide, Consults) else ():
            if isinstance(reader, Reader):
                reader.check(vocabulary, prompts)


def walk_along(readers: Readers, frontier: Frontier) -> None:
    """Let all readers go on to the texts of a frontier; their tokens count as forwarded."""
    state = frontier.state
    for lm, of_problem in readers.items():
        if frontier.parents is None:
            prompts = list_readers(of_problem)
            walk = Walk(lm, prompts, max(each.max_tokens for each in state.prompts)).start()
            state.companions[Walk, lm.batch] = walk
            for g, some in enumerate(of_problem):
                state.forwarded[g] += sum(int(walk.spent[walk.where[prompt, ()]]) for prompt in some)
            continue
        places: dict[Any, int] = {}
        heads: NDArray[np.int64] = frontier.heads
        for g, ids in zip(state.group[heads].tolist(), state.tokens(heads), strict=True):
            written = tuple(ids.tolist())
            for prompt in of_problem[g]:
                places.setdefault((prompt, written), g)
        if places:
            walk = state.companions[Walk, lm.batch]
            walk.extend(list(places))
            for g, n in zip(places.values(), walk.spent, strict=True):
                state.forwarded[g] += int(n)
