"""genlm-control, as its documentation says: AWRS for what accepts or rejects, direct sampling for the rest."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np

from peers import laws
from peers.cases import Case
from peers.outcomes import Outcome, Run


class Control:
    """See `peers.outcomes.Adapter`."""

    def __init__(self, path: str) -> None:
        import genlm.control as api

        self.api, self.llm = api, api.PromptedLLM.from_name(path, backend="hf", hf_opts={"dtype": "float32"})
        self.model = self.llm.model.model
        ends = [self.llm.model.byte_vocab[i].byte_string for i in self.model.config.eos_token_id]
        self.llm = self.llm.spawn_new_eos(ends)
        self.tasks = {
            "plain": self.plain, "no_e": self.no_e, "words": self.words, "json": self.json, "product": self.product,
            "critic": self.critic, "costly": self.critic, "power": self.power, "lazy": self.lazy,
        }  # fmt: skip

    def _runs(self, case: Case, prompt: str, make: Any, exactly: bool = True) -> Run:
        """Runs of what `make` makes for a seed and a number of tokens: a sampler, and a critic or None."""

        def run(seed: int, tokens: int) -> Outcome:
            import torch

            np.random.seed(seed)  # noqa: NPY002 - its resampling draws from it
            torch.manual_seed(seed)
            self.llm.model.clear_cache()
            self.llm.model.batch_size = case.particles
            self.llm.set_prompt_from_str(prompt)
            self.llm.model.cache_kv(self.llm.prompt_ids)
            sampler, critic, f = make(seed, tokens)
            # The limit counts the end of sequence, which may not come before it where texts have T tokens exactly.
            stop = {"terminate_when": lambda text: len(text) == tokens} if exactly else {}
            call = sampler.smc(case.particles, 0.5, tokens + exactly, critic=critic, **stop)
            found = asyncio.run(call)
            told = [self._read(text) for text, w in zip(found.contexts, found.log_weights, strict=True) if w > -np.inf]
            written = sum(len(text) - exactly for text in found.contexts)
            return Outcome(told, written, float(found.log_ml), f and f.calls)

        return run

    def _read(self, context: list[Any]) -> str:
        return b"".join(bytes(token) for token in context if token is not self.api.EOS).decode("utf-8", "replace")

    def _lasts(self, tokens: int) -> Any:
        """Texts that do not end before they have `tokens` tokens."""
        api = self.api

        class Lasts(api.Potential):
            async def prefix(self, context: list[Any]) -> float:
                return 0.0

            async def complete(self, context: list[Any]) -> float:
                return 0.0 if len(context) >= tokens else -math.inf

            async def logw_next(self, context: list[Any]) -> Any:
                law = np.zeros(len(self.vocab_eos))
                law[-1] = await self.complete(context)
                return self.make_lazy_weights(law)

        return Lasts(self.llm.vocab)

    def _bytes(self, potential: Any) -> Any:
        return potential.coerce(self.llm, f=b"".join)

    def plain(self, case: Case, prompt: str) -> Run:
        return self._runs(case, prompt, lambda seed, tokens: self._direct(self.llm, tokens))

    def _direct(self, law: Any, tokens: int, critic: Any = None, f: Any = None) -> Any:
        return self.api.direct_token_sampler(law * self._lasts(tokens)), critic, f

    def _regex(self, case: Case, prompt: str, pattern: str) -> Run:
        shape = self._bytes(self.api.BoolFSA.from_regex(pattern))

        def make(seed: int, tokens: int) -> Any:
            return self.api.AWRS(self.llm, shape * self._lasts(tokens), seed=seed), None, None

        return self._runs(case, prompt, make)

    def no_e(self, case: Case, prompt: str) -> Run:
        return self._regex(case, prompt, laws.NO_E)

    def words(self, case: Case, prompt: str) -> Run:
        return self._regex(case, prompt, laws.SHORT_WORDS)

    def json(self, case: Case, prompt: str) -> Run:
        shape = self._bytes(self.api.JsonSchema(laws.SCHEMA))

        def make(seed: int, tokens: int) -> Any:
            return self.api.AWRS(self.llm, shape, seed=seed), None, None

        return self._runs(case, laws.JSON_PROMPT, make, exactly=False)

    def product(self, case: Case, prompt: str) -> Run:
        other = self.llm.spawn()
        other.set_prompt_from_str(laws.COAST)

        def make(seed: int, tokens: int) -> Any:
            self.llm.model.cache_kv(other.prompt_ids)
            return self._direct(self.llm * other, tokens)

        return self._runs(case, laws.DESERT, make)

    def power(self, case: Case, prompt: str) -> Run:
        return self._runs(case, prompt, lambda seed, tokens: self._direct(self.llm ** float(case.option), tokens))

    def critic(self, case: Case, prompt: str) -> Run:
        f = laws.make_critic(case.task)

        class Critic(self.api.Potential):
            async def prefix(self, context: list[Any]) -> float:
                return f(b"".join(bytes(token) for token in context).decode("utf-8", "replace"))

            complete = prefix

        critic = Critic(self.llm.vocab)

        def make(seed: int, tokens: int) -> Any:
            f.calls = 0
            return self._direct(self.llm, tokens, critic, f)

        return self._runs(case, prompt, make)

    def lazy(self, case: Case, prompt: str) -> Run:
        def make(seed: int, tokens: int) -> Any:
            check = laws.Check(case.option)

            class Asked(self.api.Potential):
                async def prefix(self, context: list[int]) -> float:
                    return 0.0 if check.prefix(bytes(context).decode("utf-8", "ignore")) else -math.inf

                async def complete(self, context: list[int]) -> float:
                    return 0.0 if check.complete(bytes(context).decode("utf-8", "ignore")) else -math.inf

            return self.api.AWRS(self.llm, self._bytes(Asked(list(range(256)))), seed=seed), None, check

        return self._runs(case, laws.find_prompt(case.option), make, False)


load = Control
