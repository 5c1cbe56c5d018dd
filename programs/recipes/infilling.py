"""Fixed text with gaps, which the model fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.programs.distributions import Categorical
from feynkac.programs.particle import Particle
from feynkac.programs.program import program

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def infill(p: Particle, lm: CausalLM, template: str, gap: str = "___", longest: int = 6) -> str:
    """All of `template`, each `gap` in it replaced by 1 to `longest` tokens.

        feynkac.steer(infill(lm, "My dog ___ the postman, because ___ too loud."), particles=64, seed=0).show()

    Exact: the length of a gap is drawn evenly, its tokens from the model; the text behind it is observed, so that a
    particle weighs by how well that goes on from its gaps. The target is this joint law given the fixed text, which
    is spelt as the tokenizer spells each piece. Blanks before a gap belong to what fills it.
    """
    given, *pieces = (piece.rstrip(" ") for piece in template.split(gap))
    if not given or not pieces:
        raise ArgumentError(f"template {quote(template)}: begin with text, and mark at least one gap by {quote(gap)}")
    longest = read_whole("longest", longest, 1)
    text = lm.context(given)
    for piece in pieces:
        for _ in range(p.sample(Categorical([1.0] * longest)) + 1):
            p.sample(text.next_token())
            p.condition(not text.ended)
        text.observe_text(piece)
    return given + str(text)
