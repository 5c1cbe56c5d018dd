"""feynkac, as its README says."""

from __future__ import annotations

from typing import Any

from peers import laws
from peers.cases import Case
from peers.outcomes import Outcome, Run


class Ours:
    """See `peers.outcomes.Adapter`."""

    def __init__(self, path: str, dtype: str = "float32", program: bool = False, packed: bool = False) -> None:
        import feynkac as fk

        self.fk, self.lm = fk, fk.CausalLM.from_pretrained(path, dtype=dtype, packed=packed)
        self.model = self.lm.model
        self.tasks = {
            "plain": lambda case, prompt: self._steer(case, prompt),
            "no_e": lambda case, prompt: self._steer(case, prompt, fk.regex(laws.NO_E)),
            "words": lambda case, prompt: self._steer(case, prompt, fk.regex(laws.SHORT_WORDS)),
            "power": lambda case, prompt: self._steer(case, prompt, fk.power(float(case.option))),
            "product": self.product,
            "json": self.json,
            "critic": self.critic,
            "costly": self.critic,
            "lazy": self.lazy,
        }
        if program:
            self.tasks = {"no_e": self.no_e}

    def _steer(self, case: Case, prompt: str, *potentials: Any) -> Run:
        """Texts of as many tokens as asked for."""

        def run(seed: int, tokens: int) -> Outcome:
            exactly = self.fk.length(min=tokens, unit="token")
            result = self._call(self.lm.prompt(prompt, max_tokens=tokens), case, seed, exactly, *potentials)
            return self._told(result, case.particles * tokens)

        return run

    def _call(self, model: Any, case: Case, seed: int, *potentials: Any) -> Any:
        return self.fk.steer(
            model, *potentials, particles=case.particles, seed=seed, on_death="return", progress=False
        )  # fmt: skip

    def _told(self, result: Any, tokens: int | None = None, calls: int | None = None) -> Outcome:
        texts = [text for text, weight in zip(result.texts, result.weights, strict=True) if weight > 0]
        if tokens is None:
            tokens = sum(len(self.lm.spell(text)) + 1 for text in result.texts)
        return Outcome(texts, tokens, result.log_evidence, calls)

    def product(self, case: Case, prompt: str) -> Run:
        return self._steer(case, laws.DESERT, self.fk.expert(self.lm.prompt(laws.COAST)))

    def critic(self, case: Case, prompt: str) -> Run:
        f = laws.make_critic(case.task)
        steer = self._steer(case, prompt, self.fk.reward(f, every="token"))

        def run(seed: int, tokens: int) -> Outcome:
            f.calls = 0
            found = steer(seed, tokens)
            return Outcome(found.texts, found.tokens, found.log_evidence, f.calls)

        return run

    def json(self, case: Case, prompt: str) -> Run:
        schema = self.fk.json_schema(laws.SCHEMA)

        def run(seed: int, tokens: int) -> Outcome:
            task = self.lm.prompt(laws.JSON_PROMPT, max_tokens=tokens, at_limit="end")
            return self._told(self._call(task, case, seed, schema))

        return run

    def lazy(self, case: Case, prompt: str) -> Run:
        def run(seed: int, tokens: int) -> Outcome:
            check = laws.Check(case.option)  # new in each run: what was asked before is not known any more
            task = self.lm.prompt(laws.find_prompt(case.option), max_tokens=tokens, at_limit="end")
            result = self._call(task, case, seed, self.fk.lazy(check.prefix, accepts=check.complete, draws=2))
            return self._told(result, calls=check.calls)

        return run

    def no_e(self, case: Case, prompt: str) -> Run:
        """The same as a program."""

        def allowed(token: str) -> bool:  # one function for all steps: what it says of a vocabulary is kept
            return laws.is_valid("no_e", token)

        @self.fk.program
        def no_e(p: Any, max_tokens: int) -> str:
            text = self.lm.context(prompt)
            while len(text) < max_tokens:
                p.observe(text.mask(allowed), True)
                p.sample(text.next_token())
            return str(text)

        def run(seed: int, tokens: int) -> Outcome:
            return self._told(self._call(no_e(tokens), case, seed), case.particles * tokens)

        return run


load = Ours
