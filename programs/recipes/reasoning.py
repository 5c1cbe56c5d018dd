"""Reasoning step by step, where a verifier looks at each step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from feynkac.base.numbers import read_count
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

_EQUATION = re.compile(r"(\d+(?:[.]\d+)?) *([-+*/×÷]) *(\d+(?:[.]\d+)?) *= *(-?\d+(?:[.]\d+)?)")


def arithmetic(text: str) -> float:
    """Equations such as "3 + 4 = 7" in `text`: those that hold less those that do not."""
    return float(sum(1 if _holds(*found) else -1 for found in _EQUATION.findall(text)))


@program
def reason(
    p: Particle,
    lm: CausalLM,
    question: str,
    verifier: Callable[[str], float] = arithmetic,
    scale: float = 2.0,
    steps: int = 4,
    step_tokens: int = 40,
) -> str:
    """An answer to `question` of at most `steps` sentences, which `verifier` (of all the answer so far) likes.

        question = "A pen costs 3 euros and a book 12. What do 2 pens and a book cost? Write the equations."
        feynkac.steer(reason(lm, question), particles=32, seed=0).show()

    Exact: the target is the model's law times exp(scale * verifier(answer)), of the whole answer. The verdicts on the
    way are twists: they choose which particles go on, and the last one gives way to the factor.
    """
    text = lm.context(chat=question)
    verdict = 0.0
    for _ in range(read_count("steps", steps)):
        p.sample(text.gen(unit="sentence", max_tokens=step_tokens))
        verdict = scale * p.once(verifier, str(text))
        p.twist(verdict)
        if text.ended:
            break
    p.factor(verdict)
    return str(text)


def _holds(left: str, sign: str, right: str, result: str) -> bool:
    a, b, c = float(left), float(right), float(result)
    if sign in "/÷":
        return b != 0.0 and abs(a / b - c) < 0.01
    return abs((a + b if sign == "+" else a - b if sign == "-" else a * b) - c) < 1e-9
