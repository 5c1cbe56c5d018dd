"""Self-consistency: think aloud, answer, and let the particles vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def vote(
    p: Particle,
    lm: CausalLM,
    question: str,
    answer: str = "[0-9]+",
    cue: str = "\nThe answer is ",
    thought_tokens: int = 40,
    answer_tokens: int = 8,
) -> str:
    """The answer to `question`, which matches the regular expression `answer`; the thought before it is summed out.

        question = "What is 3 times 4, plus 5?"
        feynkac.steer(vote(lm, question), particles=32, seed=0).posterior()

    Exact: a thought of at most `thought_tokens` is drawn from the model, then `cue` is put behind it, then comes the
    answer. The posterior of what this returns is that of the answer, given that it matches: a thought that leaves
    little room for an answer of the right form has little weight, where a plain vote would count it in full.
    """
    text = lm.context(chat=question)
    thought = text.fork()
    p.sample(thought.gen(max_tokens=thought_tokens))
    text.append([token.id for token in thought.tokens])
    text.append(cue)
    return p.sample(text.gen(regex=answer, max_tokens=answer_tokens))
