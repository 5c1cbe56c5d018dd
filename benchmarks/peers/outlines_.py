"""outlines: masked sampling of N texts in one call; what the mask removes is not weighed."""

from __future__ import annotations

import json
from typing import Any

from peers import laws
from peers.cases import Case
from peers.outcomes import Outcome, Run


class Outlines:
    """See `peers.outcomes.Adapter`."""

    def __init__(self, path: str) -> None:
        import outlines
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.tokenizer.chat_template = None  # else the prompt would become a chat
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.api, self.outlines = outlines, outlines.from_transformers(self.model, self.tokenizer)
        self.tasks = {"no_e": self.no_e, "words": self.words, "json": self.json}

    def _runs(self, case: Case, prompt: str, shape: Any, exactly: bool = True) -> Run:
        generator = self.api.Generator(self.outlines, shape)

        def run(seed: int, tokens: int) -> Outcome:
            import torch

            torch.manual_seed(seed)
            least = {"min_new_tokens": tokens} if exactly else {}
            told = generator(
                prompt, do_sample=True, top_k=0, max_new_tokens=tokens, num_return_sequences=case.particles, **least
            )  # fmt: skip
            texts = told if isinstance(told, list) else [told]
            written = sum(len(self.tokenizer(text)["input_ids"]) + 1 for text in texts)
            return Outcome(texts, case.particles * tokens if exactly else written)

        return run

    def no_e(self, case: Case, prompt: str) -> Run:
        return self._runs(case, prompt, self.api.regex(laws.NO_E))

    def words(self, case: Case, prompt: str) -> Run:
        return self._runs(case, prompt, self.api.regex(laws.SHORT_WORDS))

    def json(self, case: Case, prompt: str) -> Run:
        return self._runs(case, laws.JSON_PROMPT, self.api.json_schema(json.dumps(laws.SCHEMA)), False)


load = Outlines
