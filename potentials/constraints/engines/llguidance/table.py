"""The automaton of a grammar: a table of states, each the place of a particle in llguidance's parser.

llguidance cannot tell whether two of its matchers are in the same state, so a state is a path of tokens. Particles
with the same path share it, and each is masked once. All memory is bounded: masks and matchers are dropped when not
asked for in a while, and a matcher is remade, when needed after all, by replaying its tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ConstraintError, shorten_report
from feynkac.base.masks import States, TokenAutomaton, TokenMask, mask_within, pack, words
from feynkac.potentials.constraints.engines.llguidance.matchers import (
    compute_bits,
    consume,
    explain_error,
    find_tokenizer,
    is_dead_end,
)

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from feynkac.base.vocabulary import Vocabulary

_ROWS = 1024  # masks kept, or four times as many as are asked for at once
_MATCHERS = 256  # matchers kept, or twice as many; each holds some 0.1 KB a token of its text, and more
_CHILDREN = 1 << 16  # pairs of state and token whose next state is kept; a forgotten one is a new state
_PATHS = 1 << 22  # states whose tokens are kept: 100 MB at most


class GuideAutomaton:
    """A `TokenAutomaton` over the matchers of llguidance, exact within the limits of its lexer (see `grammar`).

    Any number of threads may ask, one after the other: a matcher is moved along by whoever asks, and tables grow. The
    numbers of states depend on who asked first, and what they stand for does not. Raises ConstraintError.

    `outline`: an automaton that accepts all that the grammar accepts, and knows how many tokens are needed for it.
    """

    start = 0

    def __init__(
        self, root: LLMatcher, vocabulary: Vocabulary, name: str, outline: TokenAutomaton | None = None
    ) -> None:
        self._root = root
        self._name = name
        self._outline = outline
        self._lock = RLock()
        self._paths = _Paths(root.is_accepting(), -1 if outline is None else outline.start)
        self._children: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._matchers: OrderedDict[int, LLMatcher] = OrderedDict()
        self._rows: OrderedDict[int, TokenMask] = OrderedDict()
        self._remade: set[int] = set()
        self._width = words(find_tokenizer(vocabulary).vocab_size)  # it may have one more token
        self._eos, self._text = pack(vocabulary.ends), pack(vocabulary.with_text)
        self._find_rows([0])
        if not self._rows[0].any() and not self.accepts(np.zeros(1, dtype=np.int64))[0]:
            raise ConstraintError(f"{name}: no sequence of this vocabulary's tokens spells a text that it accepts")

    def masks(self, states: States) -> TokenMask:
        """(U, ceil(V / 32)) allowed next tokens, the end-of-sequence tokens among them where the state accepts.

        Raises ConstraintError where llguidance gives up, which by itself would look like the end of a text.
        """
        masks = np.zeros((len(states), len(self._text)), dtype=np.uint32)
        with self._lock:
            self._find_rows(states.tolist())
            for i, state in enumerate(states.tolist()):
                if state >= 0:
                    masks[i] = self._rows[state]
                    self._rows.move_to_end(state)
            masks[self.accepts(states)] |= self._eos
            self._forget(len(states))
        return masks

    def masks_within(self, states: States, left: NDArray[np.int64]) -> TokenMask:
        """(U, ceil(V / 32)) as `masks`, without tokens that need more than `left` (U,) in all by the outline."""
        masks = self.masks(states)
        if self._outline is not None:
            with self._lock:
                outlines = self._paths.outlines(states)
            known = np.flatnonzero(outlines >= 0)  # where the outline is lost, it knows nothing
            span = left.max(initial=0) + 1
            distinct, place = np.unique(outlines[known] * span + left[known], return_inverse=True)
            mapped, distinct_left = np.divmod(distinct, span)
            possible = ~self._outline.masks(mapped) | mask_within(self._outline, mapped, distinct_left)
            masks[known] &= possible[place]
        return masks

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """(N,) states after one more token each; -1 where the token is not allowed. Raises as `masks` does."""
        pairs = list(zip(states.tolist(), tokens.tolist(), strict=True))
        with self._lock:
            unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._children]
            self._find_rows([state for state, _ in unknown])
            self._grow([pair for pair in unknown if self._allows(*pair)])
            after = np.array([self._children.get(pair, -1) for pair in pairs], dtype=np.int64)
            self._forget(len(states))
        return after

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text so far is accepted as it stands."""
        with self._lock:
            return self._paths.accepts(states)

    def _allows(self, state: int, token: int) -> bool:
        if state < 0 or not 0 <= token < 32 * len(self._text):
            return False
        return bool(self._rows[state][token >> 5] >> np.uint32(token & 31) & 1)

    def _grow(self, pairs: list[tuple[int, int]]) -> None:
        """Add the states after `pairs` of a state and a token, which are allowed and all different."""
        if not pairs:
            return
        parents, tokens = np.array(pairs).T
        outlines = self._paths.outlines(parents)
        if self._outline is not None:
            outlines = self._outline.advance(outlines, tokens)
        last = {state: i for i, (state, _) in enumerate(pairs)}
        matchers = [self._find_matcher(state) for state, _ in pairs]
        for i, (state, _) in enumerate(pairs):
            # The last child takes the matcher over: a text that does not branch is never copied. If the parent is
            # asked for more children all the same, its matcher is remade, and from then on kept.
            if i == last[state] and state != 0 and state not in self._remade:
                del self._matchers[state]
            else:
                matchers[i] = matchers[i].deep_copy()
        for matcher, (state, _), fine in zip(matchers, pairs, consume(matchers, tokens.tolist()), strict=True):
            if not fine:
                raise self._make_error(matcher, state)
        accepting = [matcher.is_accepting() for matcher in matchers]
        children = self._paths.extend(parents, tokens, accepting, outlines).tolist()
        self._children.update(zip(pairs, children, strict=True))
        self._matchers.update(zip(children, matchers, strict=True))

    def _find_rows(self, states: list[int]) -> None:
        """Find the allowed tokens that have a text, of states that they are not known of."""
        fresh = [state for state in dict.fromkeys(states) if state >= 0 and state not in self._rows]
        matchers = [self._find_matcher(state) for state in fresh]
        for state, matcher, bits in zip(fresh, matchers, compute_bits(matchers, self._width), strict=True):
            if matcher.is_error() and not is_dead_end(matcher):
                raise self._make_error(matcher, state)
            self._rows[state] = (
                np.zeros_like(self._text) if matcher.is_error() else bits[: len(self._text)] & self._text
            )

    def _find_matcher(self, state: int) -> LLMatcher:
        if state == 0:
            return self._root
        if state not in self._matchers:
            matcher = self._root.deep_copy()
            if not matcher.consume_tokens(self._paths.tokens(state)):
                raise self._make_error(matcher, state)
            self._remade.add(state)
            self._matchers[state] = matcher
        self._matchers.move_to_end(state)
        return self._matchers[state]

    def _forget(self, n: int) -> None:
        """Keep what `n` particles can need soon."""
        while len(self._rows) > max(_ROWS, 4 * n):
            self._rows.popitem(last=False)
        while len(self._matchers) > max(_MATCHERS, 2 * n):
            self._remade.discard(self._matchers.popitem(last=False)[0])
        while len(self._children) > max(_CHILDREN, n):
            self._children.popitem(last=False)

    def _make_error(self, matcher: LLMatcher, state: int) -> ConstraintError:
        n, said = len(self._paths.tokens(state)), shorten_report(explain_error(matcher))
        return ConstraintError(f"{self._name}: llguidance gave up after {n} tokens: {said}; make the grammar simpler")


class _Paths:
    """The tokens that lead to each state, as a tree; the oldest states are forgotten when there are millions.

    With each state stands that of the outline; -1 where there is none.
    """

    def __init__(self, accepting: bool, outline: int) -> None:
        fields = [("parent", np.int64), ("token", np.int64), ("outline", np.int64), ("accepts", np.bool_)]
        self._table = np.zeros(1024, dtype=fields)
        self._root_accepts, self._root_outline = accepting, outline
        self._count = 1

    def extend(self, parents: States, tokens: NDArray[np.int64], accepts: list[bool], outlines: States) -> States:
        """(K,) the numbers of new states, each one token after its parent."""
        while self._count + len(parents) > len(self._table) < _PATHS:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        states = self._count + np.arange(len(parents))
        self._count += len(parents)
        at = states % len(self._table)
        for name, values in (("parent", parents), ("token", tokens), ("accepts", accepts), ("outline", outlines)):
            self._table[name][at] = values
        return states

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """(N,) whether the text of each state is accepted as it stands."""
        self._check(states)
        accepts = self._table["accepts"][states % len(self._table)]
        return np.where(states == 0, self._root_accepts, accepts) & (states >= 0)

    def outlines(self, states: States) -> States:
        """(N,) the states of the outline; -1 where it is not known."""
        self._check(states)
        outlines = self._table["outline"][states % len(self._table)]
        return np.where(states == 0, self._root_outline, np.where(states < 0, -1, outlines))

    def tokens(self, state: int) -> list[int]:
        """The tokens from the start to a state."""
        path = []
        while state > 0:
            self._check(np.array([state]))
            state, token, *_ = self._table[state % len(self._table)].tolist()
            path.append(token)
        return path[::-1]

    def _check(self, states: States) -> None:
        if ((states > 0) & (states < self._count - len(self._table))).any():
            raise ConstraintError(f"a particle's state is older than {_PATHS} others; run fewer particles at a time")
