"""The contexts of one model that read texts along: those of a run as it goes, or whole texts at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.models.language.draws.next_token import check_law
from feynkac.models.language.laws.law import shape
from feynkac.models.language.protocols import count_spent, require_saving

if TYPE_CHECKING:
    from torch import Tensor

    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.prompts.prompt import Prompt

Ids = tuple[int, ...]
Place = tuple["Prompt", Ids]
"""A prompt, and the tokens written behind it."""
AT_ONCE = 256
"""Tokens whose logits are held at once, (256, V), where whole texts are read."""
_ROWS = 16
"""Laws that are summed at once in float64."""


class Laws:
    """The laws of the next token behind n texts, of one model. A text ends with any of its ends of sequence."""

    def __init__(self, lm: LanguageModel, places: Sequence[Place], logits: Tensor, *, shaped: bool = False) -> None:
        """`logits` (n, V) of the model behind n texts; `shaped`: their laws have been applied."""
        import torch

        laws = [prompt.law for prompt, _ in places]
        if not shaped:
            logits = shape(logits, laws, lambda i: places[i][0].find_history(places[i][1]))
        self.logits, eos = logits, list(lm.vocabulary.eos)
        """(n, V) as the laws of the prompts have them."""
        self.ends = lm.vocabulary.ends
        temperature = [law.temperature for law in laws]
        self._temperature = torch.tensor(temperature, dtype=torch.float64, device=logits.device)[:, None]
        sums = [
            torch.logsumexp(some.double() / by, 1)
            for some, by in zip(logits.split(_ROWS), self._temperature.split(_ROWS), strict=True)
        ]
        self._log_total = torch.cat(sums)[:, None]
        check_law(self._log_total[:, 0].cpu().numpy(), logits)
        ends = logits[:, eos].double() / self._temperature - self._log_total
        self.log_end: NDArray[np.float64] = torch.logsumexp(ends, 1).cpu().numpy()
        """(n,) nats of ending here."""

    def read(self, at: Any, tokens: Any) -> NDArray[np.float64]:
        """(k,) nats of each token behind text `at`; -inf for the model's ends, since nothing comes behind them."""
        at, tokens = np.asarray(at, np.int64), np.asarray(tokens, np.int64)
        known = np.minimum(tokens, len(self.ends) - 1)
        read = self.logits[at, known].double() / self._temperature[at, 0] - self._log_total[at, 0]
        return np.where(self.ends[known] | (tokens != known), -np.inf, read.cpu().numpy())

    def take(self, at: NDArray[np.int64]) -> Tensor:
        """(k, V) float32 nats of every next token behind the texts `at`."""
        return self.logits[at].float() / self._temperature[at].float() - self._log_total[at].float()


class Walk:
    """The distinct texts of a run behind several prompts of one model, each forwarded once."""

    def __init__(self, lm: LanguageModel, prompts: Sequence[Prompt], longest: int) -> None:
        self._lm, self._prompts = lm, prompts
        self._contexts = lm.open_prompts(prompts, longest)

    def start(self) -> Walk:
        """Stand behind the prompts."""
        prompts = self._prompts
        self._arrive([(prompt, ()) for prompt in prompts], np.zeros(len(prompts)), self._contexts.start())
        self.spent = count_spent(self._contexts, [len(prompt.tokens) for prompt in prompts])
        """(U,) tokens forwarded for each text by the last step."""
        return self

    def _arrive(
        self, places: Sequence[Place], log_prob: NDArray[np.float64], logits: Tensor, *, shaped: bool = False
    ) -> None:
        self.where = {place: i for i, place in enumerate(places)}
        self.log_prob = log_prob
        """(U,) nats of each text, without an end."""
        self.laws = Laws(self._lm, places, logits, shaped=shaped)

    def save(self) -> dict[str, Any]:
        """All of it as a tree (see `feynkac.base.capabilities.SavesContexts`)."""
        places = [(self._prompts.index(prompt), ids) for prompt, ids in self.where]
        known = {"places": places, "log_prob": self.log_prob, "logits": self.laws.logits, "spent": self.spent}
        return known | {"contexts": require_saving(self._contexts).save()}

    @classmethod
    def load(cls, lm: LanguageModel, prompts: Sequence[Prompt], longest: int, saved: dict[str, Any]) -> Walk:
        """What `save` gave."""
        walk = cls(lm, prompts, longest)
        require_saving(walk._contexts).load(saved["contexts"])
        places = [(prompts[i], tuple(ids)) for i, ids in saved["places"]]
        walk._arrive(places, saved["log_prob"], saved["logits"].to(lm.device), shaped=True)
        walk.spent = saved["spent"]
        return walk

    def extend(self, places: Sequence[Place]) -> None:
        """Go on to these texts, all different, each by one token longer than one that was reached before."""
        parents = np.array([self.where[prompt, ids[:-1]] for prompt, ids in places])
        tokens = np.array([ids[-1] for _, ids in places])
        log_prob = self.log_prob[parents] + self.laws.read(parents, tokens)
        self._arrive(places, log_prob, self._contexts.extend(parents, _keep_known(tokens, self._lm)))
        self.spent = count_spent(self._contexts, [1] * len(places))


class Reread:
    """Whole texts behind one prompt: read from its start on, as many in one pass as fit."""

    def __init__(self, lm: LanguageModel, prompt: Prompt, longest: int) -> None:
        self._lm, self._prompt = lm, prompt
        self._contexts = lm.open_prompts([prompt], longest)

    def start(self) -> Reread:
        """Stand behind the prompt."""
        self._start = self._contexts.start()
        self.forwarded = int(count_spent(self._contexts, [len(self._prompt.tokens)])[0])
        """Tokens forwarded so far."""
        return self

    def save(self) -> dict[str, Any]:
        """All of it as a tree."""
        contexts = require_saving(self._contexts).save()
        return {"start": self._start, "forwarded": self.forwarded, "contexts": contexts}

    @classmethod
    def load(cls, lm: LanguageModel, prompt: Prompt, longest: int, saved: dict[str, Any]) -> Reread:
        """What `save` gave."""
        reread = cls(lm, prompt, longest)
        require_saving(reread._contexts).load(saved["contexts"])
        reread._start, reread.forwarded = saved["start"].to(lm.device), saved["forwarded"]
        return reread

    def read(self, texts: Iterable[tuple[Ids, bool]]) -> dict[tuple[Ids, bool], float]:
        """Nats of each text, with its end where it is True."""
        asked: dict[Ids, list[tuple[Ids, bool]]] = {}
        for ids, ended in texts:
            asked.setdefault(ids if ended else ids[:-1], []).append((ids, ended))
        found: dict[tuple[Ids, bool], float] = {}
        for some in _split(_keep_longest(asked)):
            laws = self._forward(some)
            at = 0
            for ids in some:
                steps = np.concatenate([[0.0], laws.read(np.r_[0, at + 1 : at + len(ids)][: len(ids)], ids)])
                for n, nats in enumerate(steps.cumsum().tolist()):
                    place = at + n if n else 0
                    for text, ended in asked.pop(ids[:n], ()):
                        rest = laws.log_end[place] if ended else laws.read([place], text[n:])[0] if text else 0.0
                        found[text, ended] = nats + float(rest)
                at += len(ids)
        return found

    def _forward(self, some: Sequence[Ids]) -> Laws:
        """The law at the start, then those behind each token of each text."""
        import torch

        written = [ids for ids in some if ids]
        places = [(self._prompt, ids[:n]) for ids in written for n in range(1, len(ids) + 1)]
        logits = self._start
        if written:
            n = len(written)
            lists = [_keep_known(np.array(ids), self._lm).tolist() for ids in written]
            behind = self._contexts.append(np.zeros(n + 1, np.int64), [*lists, ()], every=True)
            self.forwarded += int(count_spent(self._contexts, [*map(len, lists)]).sum())
            self._contexts.extend(np.array([n]), np.array([-1]))
            logits = torch.cat([logits, behind])
        return Laws(self._lm, [(self._prompt, ()), *places], logits)


def _keep_known(tokens: NDArray[np.int64], lm: LanguageModel) -> NDArray[np.int64]:
    """The tokens that a model can read; behind one that it has not, all is without mass, whatever is read."""
    return np.minimum(tokens, lm.vocabulary.size - 1)


def _keep_longest(texts: Iterable[Ids]) -> list[Ids]:
    """Those texts that are no beginning of another: they hold all laws of the others."""
    ordered = sorted(texts)
    return [
        ids
        for ids, after in zip(ordered, [*ordered[1:], None], strict=True)
        if after is None or after[: len(ids)] != ids
    ]


def _split(texts: Iterable[Ids]) -> Iterator[list[Ids]]:
    """Parts with about `AT_ONCE` tokens each."""
    part: list[Ids] = []
    for ids in texts:
        if part and sum(map(len, part)) + len(ids) > AT_ONCE:
            yield part
            part = []
        part.append(ids)
    if part:
        yield part
