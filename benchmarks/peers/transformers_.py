"""`generate` of transformers, unconstrained: what the same model writes by itself, and how fast."""

from __future__ import annotations

from typing import Any

from peers.cases import Case
from peers.outcomes import Outcome, Run


class Generate:
    """See `peers.outcomes.Adapter`."""

    def __init__(self, path: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tasks = {"plain": self.plain, "no_e": self.plain}

    def plain(self, case: Case, prompt: str) -> Run:
        """N texts of T tokens; where others are constrained it stays as it is."""
        import torch

        given = self.tokenizer(prompt, return_tensors="pt")

        def run(seed: int, tokens: int) -> Outcome:
            torch.manual_seed(seed)
            with torch.inference_mode():
                out = self.model.generate(
                    **given, do_sample=True, top_k=0, max_new_tokens=tokens, min_new_tokens=tokens,
                    num_return_sequences=case.particles, pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
            new = out[:, given["input_ids"].shape[1] :]
            return Outcome(self.tokenizer.batch_decode(new), new.numel())

        return run


load = Generate
