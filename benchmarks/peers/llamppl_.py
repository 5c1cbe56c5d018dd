"""LLaMPPL's programs, on LLaMPPL or, with the import changed and nothing else, on feynkac."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from peers import laws
from peers.cases import Case
from peers.outcomes import Outcome, Run


class Programs:
    """See `peers.outcomes.Adapter`. `package`: whose `Model`, `LMContext` and `smc_standard` are used."""

    def __init__(self, path: str, package: str) -> None:
        self.api = importlib.import_module(package)
        self.lm = self.api.CachedCausalLM.from_pretrained(path, "hf", hf_opts={"dtype": "float32"})
        own = package == "llamppl"
        self.model = self.lm.model.model if own else self.lm.model
        self.ends = set(self.model.config.eos_token_id)
        self.tasks: dict[str, Callable[[Case, str], Run]] = {"no_e": self.no_e}
        if own:
            self.tasks |= {
                "plain": self.plain, "words": self.words, "product": self.product, "critic": self.critic,
                "costly": self.critic, "power": self.power,
            }  # fmt: skip

    def _find(self, allowed: Callable[[str], bool]) -> set[int]:
        return {i for i, token in enumerate(self.lm.str_vocab) if allowed(token)} - self.ends

    def _runs(self, case: Case, prompts: list[str], make: Callable[[int], Any], f: laws.Count | None = None) -> Run:
        """Runs of the program that `make` makes for a number of tokens."""

        def run(seed: int, tokens: int) -> Outcome:
            np.random.seed(seed)  # noqa: NPY002 - LLaMPPL draws from it
            self.lm.clear_cache()
            self.lm.batch_size = case.particles
            if f is not None:
                f.calls = 0
            for prompt in prompts:
                self.lm.cache_kv(self.lm.tokenizer.encode(prompt))
            particles = asyncio.run(self.api.smc_standard(make(tokens), case.particles))
            weights = np.array([particle.weight for particle in particles])
            texts = [str(p.context) for p, weight in zip(particles, weights, strict=True) if weight > -np.inf]
            evidence = float(np.logaddexp.reduce(weights) - np.log(len(weights)))
            return Outcome(texts, case.particles * tokens, evidence, f and f.calls)

        return run

    def plain(self, case: Case, prompt: str) -> Run:
        return self._runs(case, [prompt], lambda tokens: self._make(tokens, prompt))

    def no_e(self, case: Case, prompt: str) -> Run:
        mask = self._find(lambda token: laws.is_valid("no_e", token))
        return self._runs(case, [prompt], lambda tokens: self._make(tokens, prompt, masks=lambda text: mask))

    def words(self, case: Case, prompt: str) -> Run:
        """One mask for each number of letters that the word so far has."""
        masks = [
            self._find(lambda token, n=n: laws.is_valid("words", "a" * n + token)) for n in range(laws.LONGEST + 1)
        ]  # fmt: skip

        def choose(text: str) -> set[int]:
            letters = len(text) - len(text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
            return masks[letters]

        return self._runs(case, [prompt], lambda tokens: self._make(tokens, prompt, masks=choose))

    def product(self, case: Case, prompt: str) -> Run:
        both = [laws.DESERT, laws.COAST]
        return self._runs(case, both, lambda tokens: self._make(tokens, *both))

    def critic(self, case: Case, prompt: str) -> Run:
        f = laws.make_critic(case.task)
        return self._runs(case, [prompt], lambda tokens: self._make(tokens, prompt, critic=f), f)

    def power(self, case: Case, prompt: str) -> Run:
        return self._runs(case, [prompt], lambda tokens: self._make(tokens, prompt, alpha=float(case.option)))

    def _make(self, tokens: int, *prompts: str, masks: Any = None, critic: Any = None, alpha: float = 1.0) -> Any:
        """A program: sample a token, observe it where there is a second prompt, and weigh what was written."""
        api, lm, ends = self.api, self.lm, self.ends

        class Program(api.Model):
            def __init__(self) -> None:
                super().__init__()
                self.context, *others = [api.LMContext(lm, prompt) for prompt in prompts]
                self.others, self.left = others, tokens

            async def step(self) -> None:
                if masks is not None:
                    await self.observe(self.context.mask_dist(masks(str(self.context))), True)
                law = self.context.next_token_logprobs if alpha != 1.0 else None
                token = await self.sample(self.context.next_token())
                self.condition(token.token_id not in ends)
                if law is not None:
                    self.score((alpha - 1.0) * float(law[token.token_id]))
                for other in self.others:
                    await self.observe(other.next_token(), token)
                self.left -= 1
                if critic is not None:
                    opinion = critic(str(self.context))
                    self.twist(opinion) if self.left else self.score(opinion)
                if self.left == 0:
                    self.finish()

        return Program()


load = Programs
