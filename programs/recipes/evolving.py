"""Instructions that mutate while a response is written, and give way to those that do better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from feynkac.base.numbers import read_count
from feynkac.programs.distributions import Bernoulli, Categorical
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import read_texts

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

_REWORD = "Say this in other words: "


@program
def evolve(
    p: Particle,
    lm: CausalLM,
    instructions: str | Sequence[str],
    reward: Callable[[str], float],
    scale: float = 1.0,
    blocks: int = 3,
    block_tokens: int = 12,
    instruction_tokens: int = 30,
) -> tuple[str, str]:
    """(An instruction, the response to it), where instructions mutate and `reward` tells who goes on.

        wishes = ["Describe a walk in the rain.", "Write happily about a walk in the rain.", "Praise the rain."]
        task = evolve(lm, wishes, lambda text: text.count("!"), scale=2.0)
        feynkac.steer(task, particles=32, seed=0).show()

    `instructions`: those that there are, or one, of which the model makes others by saying it in other words.

    Exact: an instruction is drawn (evenly, or by the model), and the response, of `blocks` blocks at most, is the
    model's to it; the target is this joint law times exp(scale * reward(response)). Between two blocks the instruction
    mutates: a rival is drawn like the first one, and takes its place with the probability of Metropolis and Hastings,
    by how likely each makes the response so far. This move leaves the law of both as it is, so that it weighs nothing.
    The reward so far is a twist: when the engine resamples, responses of high reward replace those of low reward.

    After DARWIN (Hung et al. 2024), which replaces by a beam, towards no declared target. Raises ArgumentError where
    there are no instructions.
    """
    if not (isinstance(instructions, str) and instructions):
        instructions = read_texts("evolve: instructions", instructions)
    blocks = read_count("blocks", blocks)
    instruction = _draw(p, lm, instructions, instruction_tokens)
    text = lm.context(chat=instruction)
    score = 0.0
    for block in range(blocks):
        if block:
            rival = _draw(p, lm, instructions, instruction_tokens)
            written = [token.id for token in text.tokens]
            log_odds = lm.context(chat=rival).log_prob(written) - lm.context(chat=instruction).log_prob(written)
            if p.sample(Bernoulli(math.exp(min(log_odds, 0.0)))):
                instruction, text = rival, lm.context(chat=rival)
                text.append(written)
        p.sample(text.gen(max_tokens=block_tokens))
        score = scale * p.once(reward, str(text))
        p.twist(score)
        if text.ended:
            break
    p.factor(score)
    return instruction, str(text)


def _draw(p: Particle, lm: CausalLM, instructions: str | Sequence[str], tokens: int) -> str:
    if isinstance(instructions, str):
        said = lm.context(chat=f"{_REWORD}{instructions}")
        return p.sample(said.gen(unit="sentence", max_tokens=tokens)).strip()
    listed = list(instructions)
    return listed[p.sample(Categorical([1.0] * len(listed)))]
