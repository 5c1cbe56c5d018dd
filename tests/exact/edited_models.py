"""What exact tests of edited models share: contexts that remember logits, and edits that change a law a lot."""

from __future__ import annotations

from typing import Any

import numpy as np
import test_language_model
import torch

from feynkac.models.edits import Add, ProjectOut
from feynkac.models.language.lm import CausalLM

_open = CausalLM._open


class Remembered(test_language_model.Remembered):
    """Logits by prompt, edits and text, each of them made once, by the real contexts.

    A history begins with its prompt and that prompt's edits.
    """

    def __init__(self, known: dict[Any, Any], lm: Any, prompts: Any, edits: Any) -> None:
        super().__init__(lm.model, [], 8)
        self.known, self.lm = known, lm
        self.histories = [(tuple(prompt), edit) for prompt, edit in zip(prompts, edits, strict=True)]

    def _look_up(self, histories: Any) -> torch.Tensor:
        for prompt, edit, *text in histories:
            if (key := (self.model, prompt, edit, *text)) not in self.known:
                contexts = _open(self.lm, [prompt], [edit], 8)
                logits = contexts.start()
                for token in text:
                    logits = contexts.extend(np.array([0]), np.array([token]))
                self.known[key] = logits[0]
        return torch.stack([self.known[self.model, *history] for history in histories])

    @property
    def lengths(self) -> Any:
        return np.array([len(prompt) + len(text) for prompt, _, *text in self.histories])


def wild(lm: Any, seed: int = 1) -> Any:
    v = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    head = lm.model.lm_head.weight.detach()
    toward = 200.0 * (head[seed] - head[0])  # nearly all of what the output layer sees
    return lm.edited(Add(v, layer=0), ProjectOut(v, layer=1, scope="all"), Add(toward, layer=1))
