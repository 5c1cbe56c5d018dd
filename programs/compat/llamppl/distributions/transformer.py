"""The next token behind a prompt, which stays where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feynkac.base.numbers import read_positive
from feynkac.programs.compat.llamppl.answering import Logits
from feynkac.programs.compat.llamppl.distributions.distribution import Distribution
from feynkac.programs.compat.llamppl.distributions.tokencategorical import TokenCategorical
from feynkac.programs.compat.llamppl.llms import CachedCausalLM, Token, TokenSequence, check_lm
from feynkac.programs.compat.llamppl.rows import fetch_answer


class Transformer(Distribution):
    """The next token behind a prompt: a text, a TokenSequence or ids."""

    def __init__(self, lm: CachedCausalLM, prompt: str | TokenSequence | Sequence[int], temp: float = 1.0) -> None:
        self.lm = check_lm("Transformer", lm)
        self.temp = read_positive("temp", temp, " (a small one is nearly greedy)")
        self.prompt = list(prompt.seq if isinstance(prompt, TokenSequence) else TokenSequence(lm, prompt).seq)

    async def sample(self) -> tuple[Token, float]:
        return await (await self._find_law()).sample()

    async def log_prob(self, x: Any) -> float:
        return await (await self._find_law()).log_prob(x)

    async def _find_law(self) -> TokenCategorical:
        node = self.lm.find_node(self.prompt)
        return TokenCategorical(self.lm, await fetch_answer(Logits(self.lm.histories, node), node) / self.temp)
