"""Answers to all that the particles ask about next tokens at one moment: one forward pass a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.tokens import TokenSet
from feynkac.models.language.draws.next_token import draw_tokens, sum_masses
from feynkac.models.language.histories import Histories
from feynkac.models.language.laws import Law, shape
from feynkac.models.language.nodes import Node

if TYPE_CHECKING:
    from torch import Tensor


class Ask(NamedTuple):
    """A question about the next token of one context.

    The law is `law` given the tokens in `given`. A proposal keeps those in `among`, too; None stands for all tokens.
    """

    histories: Histories
    node: Node
    law: Law
    given: TokenSet | None
    among: TokenSet | None
    token: int | None
    """The token to score; None for none."""
    draws: bool
    """Whether a token is to be drawn from the proposal."""


class Block(NamedTuple):
    """The next tokens of one context, all to be scored at once."""

    histories: Histories
    node: Node
    law: Law
    given: TokenSet | None
    tokens: tuple[int, ...]

    def find_end(self, eos: Collection[int]) -> Node:
        """Where the context stands behind the tokens; an end of sequence adds nothing to it."""
        node = self.node
        for token in self.tokens:
            node = node if token in eos else self.histories.child(node, token)
        return node

    def split(self) -> list[Ask]:
        """One question for each token."""
        found = []
        node = self.node
        given = self.given
        for token in self.tokens:
            found.append(Ask(self.histories, node, self.law, given, None, token, False))
            node = self.histories.child(node, token)
            given = None
        return found


class Inquiry(NamedTuple):
    """A question to a source of its own, which answers all that is asked of it at one moment together."""

    source: Source
    question: Any


class Source(Protocol):
    """What answers by itself, such as a server."""

    def answer(self, questions: Sequence[Any], uniforms: Sequence[Any], /) -> Sequence[Any]:
        """The answers, in order; `uniforms` has one for each."""
        ...


class Answer(NamedTuple):
    """All log-probabilities in nats."""

    token: int
    """Drawn or scored; -1 for none."""
    log_prob: float
    """Of the token under the proposal; 0 for none."""
    increment: float
    """Of the set `among` under the law: the weight of a draw from the proposal."""
    outside: float = -math.inf
    """Of all that is not in `among`, summed by itself; only where nothing is drawn or scored."""


_NO_TOKEN = -1


def serve(
    asks: Sequence[Ask | Block | Inquiry], uniforms: Sequence[Any], held: Mapping[Histories, Collection[Node]]
) -> list[Any]:
    """The answers, in order, a list of them to each block; `uniforms` has one for each.

    `held`: for each model the nodes that contexts stand on.
    """
    answers: list[Any] = [None] * len(asks)
    for source in dict.fromkeys(ask.source if isinstance(ask, Inquiry) else None for ask in asks):
        mine = [i for i, ask in enumerate(asks) if (ask.source if isinstance(ask, Inquiry) else None) is source]
        draws = [uniforms[i] for i in mine]
        some: list[Any] = [asks[i] for i in mine]
        found = _serve(some, draws, held) if source is None else source.answer([ask.question for ask in some], draws)
        for i, answer in zip(mine, found, strict=True):
            answers[i] = answer
    return answers


def _serve(
    asks: Sequence[Ask | Block], uniforms: Sequence[Any], held: Mapping[Histories, Collection[Node]]
) -> list[Any]:
    """The answers of models that run here."""
    parts = [ask.split() if isinstance(ask, Block) else [ask] for ask in asks]
    draws = [u for u, part in zip(uniforms, parts, strict=True) for _ in part]
    answers = iter(_answer_each([ask for part in parts for ask in part], draws, held))
    each = [[next(answers) for _ in part] for part in parts]
    return [some if isinstance(ask, Block) else some[0] for ask, some in zip(asks, each, strict=True)]


def _answer_each(
    asks: Sequence[Ask], uniforms: Sequence[Any], held: Mapping[Histories, Collection[Node]]
) -> list[Answer]:
    answers: list[Answer | None] = [None] * len(asks)
    for histories in dict.fromkeys(ask.histories for ask in asks):
        mine = [i for i, ask in enumerate(asks) if ask.histories is histories]
        batch = _Batch(histories, [asks[i] for i in mine], held.get(histories, ()))
        for i, answer in zip(mine, batch.answer_all([uniforms[i] for i in mine]), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


_Law: TypeAlias = "tuple[int, float, TokenSet | None]"
"""The row of a context's logits, one over its temperature, and the tokens that are allowed; None for all."""


class _Batch:
    """Questions to one model. A *law* is a context with the tokens allowed there: each is normalised once."""

    def __init__(self, histories: Histories, asks: Sequence[Ask], held: Collection[Node]) -> None:
        self._asks = asks
        self._size = histories.lm.vocabulary.size
        places = {self._place(ask): ask for ask in asks}
        nodes = list(dict.fromkeys(ask.node for ask in asks))
        self._number = {place: i for i, place in enumerate(places)}
        self._logits = _shape(list(places.values()), histories.logits(nodes, held), nodes)

    def answer_all(self, uniforms: Sequence[Any]) -> list[Answer]:
        drawing = [i for i, ask in enumerate(self._asks) if ask.draws]
        drawn = dict(zip(drawing, self._draw(drawing, [uniforms[i] for i in drawing]), strict=True))
        wanted = dict.fromkeys(law for ask in self._asks for law in self._list_laws(ask))
        masses = dict(zip(wanted, self._sum_masses(list(wanted)), strict=True))
        return [self._answer(ask, drawn.get(i), masses) for i, ask in enumerate(self._asks)]

    def _list_laws(self, ask: Ask) -> Iterator[_Law]:
        """The laws whose masses the answer takes; that of all tokens comes with any other of the same context."""
        if ask.token is not None or ask.among is not None:
            yield self._make_law(ask, _intersect(ask))
        if ask.among is not None and ask.given is not None:
            yield self._make_law(ask, ask.given)
        if ask.among is not None and not ask.draws:
            yield self._make_law(ask, _complement(ask))

    def _answer(self, ask: Ask, drawn: tuple[int, float] | None, masses: dict[Any, tuple[float, float]]) -> Answer:
        increment = 0.0
        given = self._make_law(ask, ask.given)
        proposal = self._make_law(ask, _intersect(ask))
        outside = -math.inf
        if ask.among is not None:
            total = masses[given][1] if ask.given is not None else masses[proposal][0]
            increment = _divide(masses[proposal][1], total)
            if not ask.draws:
                outside = _divide(masses[self._make_law(ask, _complement(ask))][1], total)
        if drawn is not None:
            return Answer(*drawn, increment)
        if ask.token is None:
            return Answer(_NO_TOKEN, 0.0, increment, outside)
        allowed = proposal[2] is None or ask.token in proposal[2]
        logit = np.float64(float(self._logits[proposal[0], ask.token]) * np.float32(proposal[1]))
        log_prob = _divide(float(logit), masses[proposal][1]) if allowed else -np.inf
        return Answer(ask.token, log_prob, increment)

    def _make_law(self, ask: Ask, allowed: TokenSet | None) -> _Law:
        return self._number[self._place(ask)], 1.0 / ask.law.temperature, allowed

    @staticmethod
    def _place(ask: Ask) -> tuple[Any, ...]:
        """What questions share whose logits are the same."""
        return (ask.node,) if ask.law.is_plain else (ask.node, ask.law.key)

    def _draw(self, which: Sequence[int], uniforms: Sequence[Any]) -> list[tuple[int, float]]:
        """A token for each question, and its log-probability under its proposal; token -1 where there is none."""
        if not which:
            return []
        laws = [self._make_law(self._asks[i], _intersect(self._asks[i])) for i in which]
        distinct = list(dict.fromkeys(laws))
        place = {law: row for row, law in enumerate(distinct)}
        context = np.array([place[law] for law in laws])
        u = np.array(uniforms, dtype=float if isinstance(uniforms[0], float) else object)
        drawn = draw_tokens(*self._stack(distinct), context, u)
        with np.errstate(invalid="ignore"):  # where nothing is allowed there is no token either
            log_prob = drawn.log_prob - drawn.log_mass[context]
        return list(zip(drawn.tokens.tolist(), log_prob.tolist(), strict=True))

    def _sum_masses(self, laws: Sequence[_Law]) -> list[tuple[float, float]]:
        """For each law log sum exp(logit / temperature), over all tokens and over the allowed ones."""
        if not laws:
            return []
        total, allowed = sum_masses(*self._stack(laws))
        return list(zip(total.tolist(), allowed.tolist(), strict=True))

    def _stack(self, laws: Sequence[_Law]) -> tuple[Tensor, Any, NDArray[np.float32]]:
        rows = [row for row, _, _ in laws]
        logits = self._logits if rows == list(range(len(self._logits))) else self._logits[rows]
        mask = np.full((len(laws), (self._size + 31) // 32), 0xFFFFFFFF, np.uint32)
        for i, (_, _, allowed) in enumerate(laws):
            if allowed is not None:
                mask[i] = allowed.packed
        return logits, mask, np.array([scale for _, scale, _ in laws], np.float32)


def _shape(asks: Sequence[Ask], logits: Tensor, nodes: Sequence[Node]) -> Tensor:
    """(len(asks), V) logits of the law of each question, from those (U, V) of the distinct `nodes`."""
    number = {node: i for i, node in enumerate(nodes)}
    rows = [number[ask.node] for ask in asks]
    each = logits if rows == list(range(len(logits))) else logits[rows]
    return shape(each, [ask.law for ask in asks], lambda u: [*asks[u].node.prompt, *asks[u].node.tokens()])


def _intersect(ask: Ask) -> TokenSet | None:
    """The tokens that may be drawn; None for all."""
    if ask.given is None or ask.among is None:
        return ask.among if ask.given is None else ask.given
    return ask.given & ask.among


def _complement(ask: Ask) -> TokenSet | None:
    """What the law allows outside of the proposal."""
    assert ask.among is not None
    return ~ask.among if ask.given is None else ask.given & ~ask.among


def _divide(log_part: float, log_whole: float) -> float:
    """The log of a part's share, at most 0; -inf of nothing."""
    return -math.inf if log_part == -math.inf else min(log_part - log_whole, 0.0)
