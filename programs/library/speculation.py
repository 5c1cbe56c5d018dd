"""A small model drafts, the large one weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.lm import CausalLM


@program
def speculate(
    p: Particle, lm: CausalLM, draft: CausalLM, prompt: str, max_tokens: int = 30, temperature: float = 1.0
) -> str:
    """A continuation of `prompt` by `lm`, its tokens drawn from `draft`, a model of the same vocabulary.

        draft = lm                      # or a smaller model; its temperature makes it differ here
        feynkac.steer(speculate(lm, draft, "Once upon a time", temperature=1.2), particles=32, seed=0).show()

    Exact: each token enters the weight with its probability under `lm` over that under `draft`. The target is the law
    of `lm`, whatever the draft; a draft that knows more (a longer prompt, a tuned model) leads the particles, and the
    effective sample size tells how far it leads them away. Each token is verified as it comes: both models run.
    """
    text, ahead = lm.context(prompt), draft.context(prompt, temperature=temperature)
    while not text.ended and len(text) < max_tokens:
        p.sample(text.next_token(), proposal=ahead.next_token())
    return str(text)
