"""The laws that are measured: prompts, alone or with what weighs their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.models.language.prompted import Prompted
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.readers.readers import are_alike
from feynkac.potentials.base import Factor, product

BASE = "base"
"""The name of the base in tables."""


@dataclass(frozen=True)
class Law:
    """A prompt, and the product of what weighs its texts; None where nothing does."""

    name: Any
    model: Prompted
    potential: Factor | None = None

    @property
    def prompt(self) -> Prompt:
        """The one prompt."""
        return self.model.prompts[0]

    def is_on(self, base: Law) -> bool:
        """Whether its prompt is the base's, so that only potentials tell them apart."""
        return self.model.lm is base.model.lm and self.prompt == base.prompt


def read_base(task: Any) -> Law:
    """The base law. Raises ArgumentError for anything but a prompt whose texts have total probability 1."""
    law = read_law(BASE, task)
    if law.potential is not None:
        raise ArgumentError("ruler: the base is a prompt alone, without potentials; weigh the laws by them instead")
    if law.prompt.at_limit != "truncate":
        raise ArgumentError(
            "ruler: the base has at_limit='end', and how probable it is that a text ends in time is not known; leave "
            "at_limit out, and measure (task, constraint) as a law"
        )
    return law


def read_law(name: Any, task: Any) -> Law:
    """The law that a task means: a prompt, or a tuple of a prompt and potentials. Raises ArgumentError."""
    model, *potentials = task if isinstance(task, tuple) and task else (task,)
    if not isinstance(model, Prompted):
        raise ArgumentError(
            f"ruler: {tell_name(name)} is {type(model).__name__}, whose samples have no probability under the base; "
            "give lm.prompt(...), or a tuple (lm.prompt(...), potential, ...)"
        )
    problems = model.problems
    if len(problems) != 1:
        raise ArgumentError(f"ruler: {tell_name(name)} joins {len(problems)} prompts; give each as a law of its own")
    if problems[0].constraints or problems[0].guides:
        raise ArgumentError(f"ruler: {tell_name(name)} obeys constraints already; give (lm.prompt(...), constraint)")
    return Law(name, model, product(*potentials) if potentials else None)


def check_comparable(law: Law, base: Law) -> None:
    """Raises ArgumentError unless the base gives a probability to the texts of `law`, token by token."""
    one, other = law.model.lm.vocabulary, base.model.lm.vocabulary
    if not are_alike(one, other):
        raise ArgumentError(
            f"ruler: the model of {tell_name(law.name)} has another vocabulary ({one.size} tokens) than the base "
            f"({other.size}); a text would be other tokens there, of which there is no one probability. Take a model "
            "with the same tokenizer"
        )
    for field, value in (("max_tokens", base.prompt.max_tokens), ("at_limit", base.prompt.at_limit)):
        if (own := getattr(law.prompt, field)) != value:
            raise ArgumentError(_tell_ends(law, field, own, value))
    if set(law.prompt.stop) != set(base.prompt.stop):
        raise ArgumentError(_tell_ends(law, "stop", law.prompt.stop, base.prompt.stop))


def _tell_ends(law: Law, field: str, own: Any, value: Any) -> str:
    return (
        f"ruler: {tell_name(law.name)} has {field}={quote(own)} and the base {quote(value)}; texts that end elsewhere "
        f"have no probability under the base. Give both the same {field}"
    )


def tell_name(name: Any) -> str:
    """A law, for an error."""
    return "the base" if name == BASE else f"law {quote(name)}"
