"""A token by its logit."""

from __future__ import annotations

from typing import Any

from feynkac.base.errors import ArgumentError
from feynkac.programs.compat.llamppl.distributions.logcategorical import LogCategorical
from feynkac.programs.compat.llamppl.llms import CachedCausalLM, Token, check_lm


class TokenCategorical(LogCategorical):
    """A Token, with probabilities proportional to exp(logits), one for each of `lm.str_vocab`."""

    def __init__(self, lm: CachedCausalLM, logits: Any) -> None:
        super().__init__(logits)
        self.lm = check_lm("TokenCategorical", lm)
        if len(self.log_probs) != len(lm.str_vocab):
            raise ArgumentError(f"{len(self.log_probs)} logits for a vocabulary of {len(lm.str_vocab)} tokens")

    async def sample(self) -> tuple[Token, float]:
        number, log_p = await super().sample()
        return Token(self.lm, number, self.lm.str_vocab[number]), log_p

    async def argmax(self, n: int) -> tuple[Token, float]:
        number = await super().argmax(n)
        return Token(self.lm, number, self.lm.str_vocab[number]), float(self.log_probs[number])
