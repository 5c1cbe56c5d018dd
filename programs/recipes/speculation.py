"""A small model drafts, the large one weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feynkac.base.numbers import read_whole
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def speculate(
    p: Particle,
    lm: CausalLM,
    draft: CausalLM,
    prompt: str,
    max_tokens: int = 30,
    block: int = 4,
    temperature: float = 1.0,
) -> str:
    """A continuation of `prompt` by `lm`, drafted `block` tokens at a time by `draft`, a model of the same vocabulary.

        draft = lm                      # or a smaller model; its temperature makes it differ here
        feynkac.steer(speculate(lm, draft, "Once upon a time", temperature=1.2), particles=32, seed=0).show()

    Exact: each block enters the weight with its probability under `lm` over that under `draft`. The target is the law
    of `lm`, whatever the draft; a draft that knows more (a longer prompt, a tuned model) leads the particles, and the
    effective sample size tells how far it leads them away. `lm` verifies a block in one forward pass.
    """
    text = lm.context(prompt)
    ahead = draft.context(prompt, temperature=temperature)
    max_tokens = read_whole("max_tokens", max_tokens, 1)
    while not text.ended and len(text) < max_tokens:
        p.sample(text.draft(ahead, min(block, max_tokens - len(text))))
    return str(text)
