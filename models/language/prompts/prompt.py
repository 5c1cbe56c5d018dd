"""A prompt as a language model continues it: tokens, limits, and a law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import shorten
from feynkac.models.language.laws.law import PLAIN, Law


@dataclass(frozen=True, repr=False)
class Prompt:
    """The text that a language model is to continue, and the law of its continuations."""

    tokens: tuple[int, ...]
    max_tokens: int
    stop: tuple[bytes, ...] = ()
    law: Law = PLAIN
    at_limit: Literal["truncate", "end"] = "truncate"
    variant: Any = None
    """Which of the models of one batch it belongs to (see `LanguageModel.variant`)."""
    text: str | None = field(default=None, compare=False)
    """The text, where it was given as one."""
    chat: tuple[Mapping[str, Any], ...] | None = field(default=None, compare=False)
    """The messages, where it was given as a chat."""

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """(P,) its tokens."""
        return np.array(self.tokens, np.int64)

    def __repr__(self) -> str:
        given = f"{len(self.tokens)} tokens" if self.text is None else shorten(repr(self.text), 60)
        return f"prompt({given}, max_tokens={self.max_tokens})"

    def find_history(self, written: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """(P + T,) the prompt's tokens, then those `written` (T,): what its law reads."""
        return np.concatenate([self.ids, np.asarray(written, np.int64)])
