"""Plan an answer, put critical questions to the plan, and answer given that the critic approves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.programs.distributions import Bernoulli
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import count_yes, read_texts, weigh_answers

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

TOULMIN = (
    "Does the plan say from which facts it starts?",  # grounds
    "Do these facts stand in the question, or are they generally accepted?",  # backing
    "Does each step say why it follows?",  # warrant
    "Does each step indeed follow?",
    "Is the plan free of fallacies?",
    "Does the plan lead to what was asked for?",  # claim
    "Does it consider what may speak against it?",  # rebuttal
    "Is the conclusion no stronger than the facts allow?",  # qualifier
)


@program
def justify(
    p: Particle,
    lm: CausalLM,
    question: str,
    answer: str = "[0-9]+",
    critic: CausalLM | None = None,
    questions: Sequence[str] = TOULMIN,
    least: int | None = None,
    plan_tokens: int = 40,
    answer_tokens: int = 8,
) -> str:
    """The answer to `question`, of a plan of which the critic says yes to `least` of the `questions` (all by default).

        feynkac.steer(justify(lm, "What is 3 times 4, plus 5?", least=5), particles=16, seed=0).posterior()

    Exact: the model's law of plan and answer, given that the critic (`lm` itself by default) approves of the plan and
    that the answer matches the regular expression `answer`. Each question is put in a chat of its own, where only Yes
    and No count; the probability of enough yeses is in the weight, and nothing is sampled. So the evidence is the
    probability of approval (and of the form), and the posterior that of trying again until the critic approves.

    After critical-questions-of-thought (Castagna et al. 2024), which tries again a few times; its questions follow
    Toulmin (1958), here in our words. Raises ArgumentError if `least` is more than there are questions.
    """
    listed = read_texts("questions", questions)
    wanted = len(listed) if least is None else read_whole("justify: least", least, 0)
    if wanted > len(listed):
        raise ArgumentError(
            f"justify(least={quote(least)}): there are {len(listed)} questions; ask for as many yeses at most"
        )
    plan = p.sample(lm.context(chat=f"{question}\nPlan the answer, step by step.").gen(max_tokens=plan_tokens))
    asked = [(critic or lm).context(chat=f"{question}\nPlan: {plan}\n{each} Say Yes or No.") for each in listed]
    p.observe(Bernoulli(count_yes([math.exp(weigh_answers(each, ["Yes", "No"])[0]) for each in asked], wanted)), True)
    text = lm.context(chat=f"{question}\nPlan: {plan}\nSay only the answer.")
    return p.sample(text.gen(regex=answer, max_tokens=answer_tokens))
