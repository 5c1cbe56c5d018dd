"""Text that several prompts agree on: a product of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from feynkac.base.numbers import read_whole
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import read_texts

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def intersect(p: Particle, lm: CausalLM, prompts: Sequence[str], max_tokens: int = 20) -> str:
    """A continuation that is likely behind each of `prompts`.

        prompts = ["My favorite physicist is", "My favorite writer is"]
        feynkac.steer(intersect(lm, prompts), particles=64, seed=0).show()

    Exact: a token is drawn behind the first prompt and observed behind the others. The target is the product of the
    model's laws behind each prompt, token by token; the evidence is the log of its sum over all texts, so that 0 means
    prompts of one and the same text, and less how little they have in common.
    """
    first, *others = (lm.context(prompt) for prompt in read_texts("prompts", prompts))
    max_tokens = read_whole("max_tokens", max_tokens, 1)
    while not first.ended and len(first) < max_tokens:
        token = p.sample(first.next_token())
        for other in others:
            p.observe(other.next_token(), token)
    return str(first)
