"""Emotional support by a given strategy, which must be seen in the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from feynkac.base.errors import ArgumentError, quote
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import name_options, read_texts, weigh_answers, write_options

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

STRATEGIES = (
    "ask a question",
    "say again what was said",
    "name the feelings",
    "tell of yourself",
    "reassure",
    "give advice",
    "give information",
)


@program
def support(
    p: Particle,
    lm: CausalLM,
    message: str,
    strategy: str = "reassure",
    strategies: Sequence[str] = STRATEGIES,
    critic: CausalLM | None = None,
    scale: float = 1.0,
    max_tokens: int = 30,
) -> str:
    """A reply to `message` by one of the `strategies`, weighed by how well the strategy is told from the reply.

        task = support(lm, "I failed my exam, and I am afraid to tell my parents.", "ask a question")
        feynkac.steer(task, particles=16, seed=0).show()

    Exact: the target is the model's law of a reply under the instruction to follow `strategy`, times odds^scale: the
    odds of this strategy against all the others together when the critic (`lm` by default) is asked which of them the
    reply follows. The critic sees the reply alone, so that this measures adherence. Madani et al. (2024) measure it by
    the attention that the reply pays to the text of its strategy, which this recipe does not look at.

    Raises ArgumentError for a strategy that is none of several.
    """
    strategies = read_texts("strategies", strategies, 2, 26)
    if strategy not in strategies:
        raise ArgumentError(f"support(strategy={quote(strategy)}): name one of the strategies, 2 to 26 of them")
    text = lm.context(chat=f"{message}\n(Answer with empathy: {strategy}.)")
    reply = p.sample(text.gen(max_tokens=max_tokens))
    asked = (critic or lm).context(chat=write_options(f"{reply}\nWhat does this reply do?", strategies))
    asked.append("Answer:")
    log_share = weigh_answers(asked, name_options(strategies))
    chosen = strategies.index(strategy)
    p.factor(scale * (log_share[chosen] - np.logaddexp.reduce(np.delete(log_share, chosen))))
    return reply
