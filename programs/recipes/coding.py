"""Solve by code or by text, whichever the model chooses; what it codes is run, and a checker weighs the answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import weigh_answers
from feynkac.programs.recipes.sandbox import Ran, run_python

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def solve(
    p: Particle,
    lm: CausalLM,
    question: str,
    answer: str = "-?[0-9]+",
    check: Callable[[str], float] | None = None,
    run: Callable[[str], Ran] = run_python,
    code_tokens: int = 60,
    text_tokens: int = 40,
) -> tuple[str, str]:
    """("code" or "text", the answer to `question`): printed by a program that the model wrote, or thought out.

        result = feynkac.steer(solve(lm, "How many days have 17 weeks?"), particles=32, seed=0)
        result.expectation(lambda found: found[0] == "code")            # how much code deserves to be chosen

    Exact: the model's law of the choice and of what it then writes, given that the answer matches the regular
    expression `answer` (and that the program ended well), times exp(check(answer)), in nats. Without a `check` the
    model itself is asked whether the answer is right, and its yes is observed. `run` runs a program (see `run_python`:
    limits, but no security boundary).

    After CodeSteer (Chen et al. 2025), where a tuned model guides another one from text to code and back by several
    turns, with checks in between. Here particles take the place of turns: those whose code fails die.
    """
    text = lm.context(chat=f"{question}\nSolve it by Python code that prints the answer, or by text.")
    text.append("I solve it by ")
    way = p.sample(text.gen(choices=["code", "text"]))
    if way == "code":
        text.append(":\n```python\n")
        ran = p.once(run, p.sample(text.gen(until="```", max_tokens=code_tokens)).partition("```")[0])
        found = ran.output.strip()
        p.condition(not ran.error and re.fullmatch(answer, found) is not None)
    else:
        text.append(".\n")
        thought = text.fork()
        p.sample(thought.gen(max_tokens=text_tokens))
        text.append([token.id for token in thought.tokens])
        text.append("\nThe answer is ")
        found = p.sample(text.gen(regex=answer, max_tokens=8))
    if check is None:
        critic = lm.context(chat=f"{question}\nIs the answer {found}? Say Yes or No.")
        p.factor(weigh_answers(critic, ["Yes", "No"])[0])
    else:
        p.factor(p.once(check, found))
    return way, found
