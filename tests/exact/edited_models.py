"""What exact tests of edited models share: contexts that remember logits, and edits that change a law a lot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from feynkac.models.edits import Add, ProjectOut
from feynkac.models.language.lm import CausalLM

_open = CausalLM._open


class Remembered:
    """Logits by prompt, edits and text, each of them made once, by the real contexts."""

    known: dict[Any, torch.Tensor]

    def __init__(self, known: dict[Any, Any], lm: Any, prompts: Any, edits: Any) -> None:
        self.known, self.lm, self.forwarded = known, lm, 0
        self.here = [(tuple(prompt), edit, ()) for prompt, edit in zip(prompts, edits, strict=True)]

    def look_up(self, places: Any) -> torch.Tensor:
        for prompt, edit, text in places:
            if (self.lm.model, prompt, edit, text) not in self.known:
                contexts = _open(self.lm, [prompt], [edit], 8)
                logits = contexts.start()
                for token in text:
                    logits = contexts.extend(np.array([0]), np.array([token]))
                self.known[self.lm.model, prompt, edit, text] = logits[0]
        return torch.stack([self.known[self.lm.model, *place] for place in places])

    def start(self) -> torch.Tensor:
        return self.look_up(self.here)

    @property
    def lengths(self) -> Any:
        return np.array([len(prompt) + len(text) for prompt, _, text in self.here])

    def extend(self, parents: Any, tokens: Any) -> torch.Tensor:
        return self.append(parents, [[int(token)] if token >= 0 else [] for token in tokens])

    def append(self, parents: Any, tokens: Any, *, every: bool = False) -> torch.Tensor:
        before = [self.here[i] for i in parents]
        self.here = [(*place[:2], (*place[2], *some)) for place, some in zip(before, tokens, strict=True)]
        ends = [range(1, len(some) + 1) if every else [len(some)] * bool(some) for some in tokens]
        steps = zip(before, tokens, ends, strict=True)
        wanted = [(*place[:2], (*place[2], *some[:k])) for place, some, each in steps for k in each]
        return self.look_up(wanted) if wanted else torch.empty(0, 0)


def wild(lm: Any, seed: int = 1) -> Any:
    v = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    head = lm.model.lm_head.weight.detach()
    toward = 200.0 * (head[seed] - head[0])  # nearly all of what the output layer sees
    return lm.edited(Add(v, layer=0), ProjectOut(v, layer=1, scope="all"), Add(toward, layer=1))
