"""What an edit of a language model is: a value that says which modules of a forward pass it changes, and how.

Positions are counted in the whole text, never inside of a pass: a token stands at the same place whether it is
forwarded with its prompt, alone, or after a fork. So a function of (value, position, the prompt's length) gives one law
whatever is cached, and edits are told nothing else.

Shapes: F rows of a pass, Q tokens each, `width` the size of a residual.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_whole
from feynkac.base.unicode import check_unicode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from feynkac.models.language.editing.anatomy import Anatomy


@dataclass(frozen=True)
class Span:
    """A part of a prompt: the tokens that write the characters of `text`, wholly or in part.

    `at`: which occurrence, from 0 on, where there are several. Raises ArgumentError for what is no text and no number;
    and, when the prompt is run, if `text` does not occur in it, or several times and `at` is not given.
    """

    text: str
    at: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise ArgumentError(f"a span is {quote(self.text)}; give a text that occurs in the prompt")
        check_unicode(self.text, "the text of a span")
        if self.at is not None:
            object.__setattr__(self, "at", read_whole("at", self.at, 0, ", which of several occurrences is meant"))


class Spans(Protocol):
    """Where spans lie in the prompts of one batch."""

    def find(self, span: Span) -> Tensor:
        """(G, P) bool: the tokens of each prompt that belong to the span."""
        ...


@dataclass(frozen=True)
class Where:
    """Where the (F, Q) tokens of a pass stand in their texts."""

    positions: Tensor
    """(F, Q) from the beginning of the text on."""
    start: Tensor
    """(F, 1) tokens of the row's prompt."""
    prompt: Tensor
    """(F,) the number of the row's prompt in its batch."""
    spans: Spans = field(repr=False)
    context: Tensor | None = None
    """(F,) the number of the row's context among those that the caller goes on to; None while prompts are read."""

    @property
    def steps(self) -> Tensor:
        """(F, Q) which new token each position decides on: 0 at the prompt's last token, negative before it."""
        return self.positions - self.start + 1

    def is_inside(self, span: Span) -> Tensor:
        """(F, Q) bool: the tokens that belong to `span` of their prompt."""
        table = self.spans.find(span)
        at = self.positions.clamp(max=table.shape[1] - 1)
        return table[self.prompt[:, None], at] & (self.positions < self.start)

    def select(self, rows: torch.Tensor) -> Where:
        """The same of some rows only."""
        context = None if self.context is None else self.context[rows]
        return Where(self.positions[rows], self.start[rows], self.prompt[rows], self.spans, context)


@dataclass(frozen=True)
class Change:
    """A change of what goes through one module."""

    module: str
    """Its dotted name in the model."""
    function: Callable[[Tensor, Tensor, Where], Tensor]
    """(value, input, where) -> a new value of the same shape: value is what the module gives, input what it was given.

    Neither may be written to.
    """
    side: Literal["output", "input"] = "output"
    """With "input" the value is what the module is given."""


@dataclass(frozen=True)
class Bias:
    """A number added to the attention scores of some heads of a layer towards tokens of the prompt, in nats."""

    layer: int
    attention: str
    """The layer's attention module, by its dotted name."""
    make: Callable[[int, Spans, int], Tensor]
    """(P, spans, number) -> (heads, P) for a prompt of P tokens; its `number` in the batch."""
    queries: Literal["all", "response"] = "all"
    """Whose attention is changed: every token's, or that of the prompt's last token and all behind it."""


@dataclass(frozen=True)
class Prepared:
    """An edit that has seen the model that it is for."""

    changes: Sequence[Change] = ()
    weights: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict[str, Any])
    """Parameters by their dotted names, and what is made of each: a new tensor, the old one left as it is."""
    biases: Sequence[Bias] = ()
    spans: Sequence[Span] = ()
    """The parts of a prompt that it names."""
    length: int | None = None
    """The only number of tokens that its prompts may have."""
    reach: int = 0
    """The largest position that it names, from the beginning of the text on; the self-check goes beyond it."""


@runtime_checkable
class Edit(Protocol):
    """A change of a language model's forward pass, and so of its law. Several apply in the order given."""

    def prepare(self, anatomy: Anatomy) -> Prepared:
        """The edit, fitted to a model. Raises ArgumentError where it does not fit; writes to nothing."""
        ...


class Mechanism(NamedTuple):
    """What an edit does to a model, and how large its numbers are."""

    kind: Hashable
    """All that it does except for its numbers: edits of one kind make the same computations at the same places."""
    sizes: tuple[float, ...]
    """How large its numbers are, at least 0, one for each part that acts by itself: a layer, a head, a position."""


@runtime_checkable
class Mechanical(Protocol):
    """An edit that is all numbers and no function of the user's: one self-check serves others of its kind and size.

    The self-check looks for edits that go by the place of a token within a pass, and for modules that cannot be edited.
    Neither may depend on the edit's numbers, nor may its numbers cancel what tells tokens apart, which leaves rounding
    alone. Without it, and in a class derived from one that has it, each edit is checked for itself.
    """

    def find_mechanism(self, anatomy: Anatomy) -> Mechanism | None:
        """What tells it from others of its class, modules and reach excepted; None if it is to be checked for itself.

        Called only where `prepare` has taken the edit.
        """
        ...
