"""What a population of texts shows to the potentials that weigh it.

It stands below `models` and `potentials`, which know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feynkac.masks import States, TokenConstraint
from feynkac.smc.memory import Memory
from feynkac.smc.protocols import Rows
from feynkac.vocabulary import Vocabulary


@runtime_checkable
class TextState(Protocol):
    """A population of N growing texts. Text never includes the prompt nor an end-of-sequence token."""

    memory: Memory
    vocabulary: Vocabulary

    def __len__(self) -> int: ...

    def texts(self, rows: Rows) -> list[str]:
        """The decoded texts of `rows`; bytes that do not (yet) form a character are left out at the end."""
        ...

    def tokens(self, rows: Rows) -> Sequence[NDArray[np.int64]]:
        """The generated token ids of `rows`."""
        ...

    def states(self, constraint: TokenConstraint) -> States | None:
        """(N,) automaton states of a constraint that the model carries along; None if it carries it not."""
        ...
