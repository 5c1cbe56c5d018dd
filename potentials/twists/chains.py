"""A Markov chain over tokens: the cheap stand-in for a language model under which the future can be summed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arrays import read_array, read_whole_array
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.vocabulary import Vocabulary

Node: TypeAlias = "int | bytes"
"""A token, or the last bytes of many."""
_ROOT = b""
_SUFFIX = 3
"""Bytes at the end of a token by which rare tokens are told apart."""


@dataclass(frozen=True, eq=False)
class TokenChain:
    """The law of the next token given the class of the last (Brown et al. 1992), over a vocabulary of V tokens.

    `classes`: (V,) the class of each token, 0 to K - 1; `law`: (K, V) probabilities of the next token, the ends of text
    among them. `np.savez(path, classes=chain.classes, law=chain.law)` saves one, and
    `TokenChain(lm.vocabulary, **np.load(path))` is it again.

    Raises ArgumentError for other shapes, negative or infinite numbers, and rows that sum to more than 1.
    """

    vocabulary: Vocabulary
    classes: NDArray[np.int64]
    law: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.vocabulary, Vocabulary):
            raise ArgumentError(f"TokenChain({quote(self.vocabulary)}): give a Vocabulary, such as lm.vocabulary")
        classes = read_whole_array("TokenChain: classes", self.classes, "they are whole numbers, one for each token")
        law = read_array("TokenChain: law", self.law, "it holds probabilities, a row for each class")
        size = self.vocabulary.size
        if classes.shape != (size,) or law.ndim != 2 or law.shape[1] != size:
            raise ArgumentError(
                f"TokenChain: classes of shape {classes.shape} and a law of shape {law.shape}; over {size} tokens they "
                f"are ({size},) and (K, {size})"
            )
        if not ((classes >= 0) & (classes < len(law))).all():
            raise ArgumentError(
                f"TokenChain: classes are whole numbers from 0 to {len(law) - 1}, one row of the law each"
            )
        if not (law >= 0).all() or (law.sum(axis=1) > 1.0 + 1e-4).any():
            raise ArgumentError("TokenChain: each row of the law holds probabilities, which sum to at most 1")
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "law", law.astype(np.float32))

    def __len__(self) -> int:
        """K, the number of classes."""
        return len(self.law)


def fit_chain(
    vocabulary: Vocabulary,
    seen: Mapping[int, NDArray[Any]],
    counts: Mapping[int, int],
    most: int = 96,
    prior: float = 4.0,
    floor: float = 1e-3,
) -> TokenChain:
    """The chain of the next-token laws that a language model had, averaged over the places of each class.

    `seen` maps a token to the (V,) sum of the laws behind it, and `counts` to their number. A token that was seen often
    is a class of its own; others share one with the tokens that end in the same bytes, up to `most` classes in all (a
    prediction suffix tree: Ron, Singer and Tishby 1996). The law of a class is drawn towards that of the next shorter
    suffix, which weighs like `prior` places; `floor` is the share of the uniform law, so that nothing is impossible.
    """
    tokens = vocabulary.tokens
    total: Counter[Node] = Counter()
    for token, n in counts.items():
        total.update(dict.fromkeys(_list_nodes(token, tokens), n))
    often = [node for node, _ in total.most_common(most) if node != _ROOT][: most - 1]
    nodes = [_ROOT, *sorted(often, key=lambda node: _SUFFIX + 1 if isinstance(node, int) else len(node))]
    number = {node: i for i, node in enumerate(nodes)}
    law = np.zeros((len(nodes), vocabulary.size))
    for token, sums in seen.items():
        law[[number[node] for node in _list_nodes(token, tokens) if node in number]] += sums
    uniform = np.full(vocabulary.size, 1.0 / vocabulary.size)
    for i, node in enumerate(nodes):  # a shorter suffix comes before
        shorter = [number[each] for each in _list_nodes(node, tokens)[1:] if each in number]
        law[i] = (law[i] + prior * (law[shorter[0]] if shorter else uniform)) / (total[node] + prior)
    classes = [next(number[node] for node in _list_nodes(v, tokens) if node in number) for v in range(len(tokens))]
    return TokenChain(vocabulary, np.array(classes), (1.0 - floor) * law + floor * uniform)


def _list_nodes(node: Node, tokens: Sequence[bytes]) -> list[Node]:
    """A token, or the bytes at the end of one, and then what it is a case of, down to the root."""
    text = tokens[node][-_SUFFIX:] if isinstance(node, int) else node[1:]
    suffixes = [text[i:] for i in range(len(text) + 1)]
    return [node, *suffixes] if node != _ROOT else [node]
