"""guidance: masked sampling, one text after the other; what the mask removes is not weighed."""

from __future__ import annotations

from typing import Any

import numpy as np

from peers import laws
from peers.cases import Case
from peers.outcomes import Outcome, Run


class Guidance:
    """See `peers.outcomes.Adapter`."""

    def __init__(self, path: str) -> None:
        import guidance
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.api, self.tokenizer = guidance, AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.lm = guidance.models.Transformers(self.model, self.tokenizer, echo=False, enable_monitoring=False)
        self.tasks = {"no_e": self.no_e, "json": self.json}

    def _runs(self, case: Case, prompt: str, make: Any) -> Run:
        def run(seed: int, tokens: int) -> Outcome:
            np.random.seed(seed)  # noqa: NPY002 - guidance draws from it
            texts = [(self.lm + prompt + make(tokens))["text"] for _ in range(case.particles)]
            return Outcome(texts, sum(len(self.tokenizer(text)["input_ids"]) for text in texts))

        return run

    def no_e(self, case: Case, prompt: str) -> Run:
        def make(tokens: int) -> Any:
            # A pattern that may be empty is written greedily and ends early: this one lasts until the limit cuts it.
            pattern = laws.NO_E.removesuffix("*") + f"{{{10 * tokens},}}"
            return self.api.gen("text", regex=pattern, max_tokens=tokens, temperature=1.0)

        return self._runs(case, prompt, make)

    def json(self, case: Case, prompt: str) -> Run:
        def make(tokens: int) -> Any:
            return self.api.json("text", schema=laws.SCHEMA, max_tokens=tokens, temperature=1.0)

        return self._runs(case, laws.JSON_PROMPT, make)


load = Guidance
