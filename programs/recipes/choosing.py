"""Multiple choice: examples, thoughts, and options in every order, so that their order does not count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from feynkac.base.capabilities import ScoresAnswers, offers
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.programs.distributions import Categorical
from feynkac.programs.particle import Particle
from feynkac.programs.program import program
from feynkac.programs.recipes.asking import name_options, read_texts, weigh_answers, write_options
from feynkac.programs.recipes.examples import write_turns

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM
    from feynkac.programs.context import Context

_CUE = "Answer:"


class Choice(NamedTuple):
    """A question with its options, the right one among them, and perhaps the thought that leads there."""

    question: str
    options: Sequence[str]
    answer: str
    thought: str = ""


@program
def choose(
    p: Particle,
    lm: CausalLM,
    question: str,
    options: Sequence[str],
    examples: Sequence[Choice] = (),
    thought_tokens: int = 0,
) -> str:
    """One of the `options`, in answer to `question`; thoughts, and the order of the options, are summed out.

        from feynkac.programs.recipes.choosing import Choice
        example = Choice("Which of these is an animal?", ["stone", "horse", "cloud"], "horse")
        task = choose(lm, "Which of these is a colour?", ["seven", "green", "table"], [example], thought_tokens=10)
        feynkac.steer(task, particles=48, seed=0).posterior()

    Exact: an order of the options is drawn evenly, then a thought of at most `thought_tokens` and a letter from the
    model, given that it is one of the options'. The posterior sums over orders and thoughts; without thoughts
    `rate_options` gives the same by listing the orders. `find_nearest` picks `examples` that are like the question, and
    `explain` thinks for them.

    After Medprompt (Nori et al. 2023): nearest examples, self-generated chains of thought, and a vote over shuffled
    options.
    """
    left = _check_options(options)
    order = [left.pop(p.sample(Categorical([1.0] * len(left)))) for _ in options]
    text = lm.context(chat=write_turns([_write_example(each) for each in examples], write_options(question, order)))
    _think(p, text, thought_tokens)
    return order[name_options(order).index(p.sample(text.gen(choices=name_options(order))))]


@program
def explain(p: Particle, lm: CausalLM, example: Choice, thought_tokens: int = 30) -> Choice:
    """The example with a thought of the model's that leads to its right answer.

        from feynkac.programs.recipes.choosing import Choice
        examples = [Choice("Which of these is an animal?", ["stone", "horse"], "horse")]
        found = feynkac.steer([explain(lm, example) for example in examples], particles=16, seed=0)
        examples = [result.sample(1)[0] for result in found]

    Exact: the model's law of the thought, given that the letter of the right answer follows, of those of the options.
    That is what drawing thoughts until one of them leads there would give (Medprompt, Nori et al. 2023). Raises
    ArgumentError for an example whose answer is none of its options.
    """
    _check_example(example)
    text = lm.context(chat=write_options(example.question, _check_options(example.options)))
    right = _find_answer(example)
    thought = _think(p, text, thought_tokens)
    p.factor(weigh_answers(text, name_options(example.options))[right])
    return example._replace(thought=thought)


def rate_options(
    lm: CausalLM, question: str, options: Sequence[str], examples: Sequence[Choice] = ()
) -> dict[str, float]:
    """The posterior of `choose` without thoughts, by all orders of the options: nothing is sampled.

    Five options have 120 orders, each a prompt of its own; raises ArgumentError for more options.
    """
    if not offers(lm, ScoresAnswers):
        raise ArgumentError(f"rate_options({quote(lm)}): give a language model that scores answers, such as a CausalLM")
    if not isinstance(question, str):
        raise ArgumentError(f"question is {quote(question)}; give a text")
    if len(options := _check_options(options)) > 5:
        raise ArgumentError(
            f"{len(options)} options have {math.factorial(len(options))} orders; steer choose(...) instead"
        )
    given = as_list(examples)
    if given is None:
        raise ArgumentError(f"examples is {quote(examples)}; give a list of Choice(question, options, answer)")
    turns = [_write_example(each) for each in given]
    orders = list(itertools.permutations(options))
    begun = {"role": "assistant", "content": _CUE}
    chats = [[*write_turns(turns, write_options(question, order)), begun] for order in orders]
    rated = dict.fromkeys(options, 0.0)
    for order, row in zip(orders, np.exp(lm.score_answers(chats, name_options(options))), strict=True):
        for option, mass in zip(order, row.tolist(), strict=True):
            rated[option] += mass
    total = math.fsum(rated.values())
    return {option: mass / total for option, mass in rated.items()}


def _think(p: Particle, text: Context, tokens: int) -> str:
    """Put a thought of at most so many tokens into `text`, and the beginning of an answer behind it."""
    thought = text.fork()
    if tokens:
        p.sample(thought.gen(max_tokens=tokens))
        text.append([token.id for token in thought.tokens])
        text.append("\n")
    text.append(_CUE)
    return str(thought)


def _write_example(example: Choice) -> tuple[str, str]:
    """What the user says, and what the assistant answers."""
    _check_example(example)
    answer = f"{_CUE}{name_options(_check_options(example.options))[_find_answer(example)]}"
    thought = example.thought.strip()
    return write_options(example.question, example.options), f"{thought}\n{answer}" if thought else answer


def _find_answer(example: Choice) -> int:
    _check_example(example)
    if example.answer not in example.options:
        raise ArgumentError(f"{quote(example)}: its answer is none of its options")
    return list(example.options).index(example.answer)


def _check_example(example: Any) -> None:
    if not isinstance(example, Choice) or not all(isinstance(example[i], str) for i in (0, 2, 3)):
        raise ArgumentError(f"{quote(example)} is no example; give a Choice(question, options, answer)")


def _check_options(options: Any) -> list[str]:
    texts = read_texts("options", options, 2, 26)
    if len(set(texts)) < len(texts):
        raise ArgumentError(f"options={quote(options)}: give a list of 2 to 26 texts, none twice")
    return texts
