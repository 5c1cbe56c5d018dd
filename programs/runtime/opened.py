"""The language models that the programs of a run have opened, each with the tree of its histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feynkac.models.language.histories import Histories
from feynkac.models.language.nodes import Node

if TYPE_CHECKING:
    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.lm import CausalLM
    from feynkac.programs.runtime.shelved import Shelf


class OpenedModels:
    """The histories of each model of one run, and the roots of the prompts that were read."""

    def __init__(self) -> None:
        self.shelves: list[Shelf] = []
        """Histories of a run that was saved, until a program opens them."""
        self._histories: dict[LanguageModel, Histories] = {}
        self._roots: dict[Any, Node] = {}

    def find_root(
        self, lm: CausalLM, prompt: tuple[Any, ...], read: Callable[..., tuple[int, ...]]
    ) -> tuple[Histories, Node]:
        """The history of `read(*prompt)`, which are token ids; read once a run."""
        key = (lm, repr(prompt))
        if key not in self._roots:
            if lm.batch not in self._histories:
                self._histories[lm.batch] = self._take_from_shelf(Histories(lm))
            self._roots[key] = self._histories[lm.batch].root(read(*prompt), lm.variant)
        return self._histories[lm.batch], self._roots[key]

    def _take_from_shelf(self, histories: Histories) -> Histories:
        """New histories, or those that were saved, if they are of this model."""
        shelf = next((each for each in self.shelves if each.is_of(histories.lm.batch)), None)
        if shelf is not None:
            self.shelves.remove(shelf)
            histories.adopt(shelf.roots, shelf.nodes, shelf.banks, shelf.forwarded)
        return histories

    def list_histories(self) -> list[tuple[LanguageModel, Histories]]:
        """Those of each model, in the order in which they were opened."""
        return [(histories.lm.batch, histories) for histories in self._histories.values()]

    @property
    def forwarded(self) -> int | None:
        """Tokens forwarded so far; None where no model was opened."""
        known = [*self._histories.values(), *self.shelves]
        return sum(each.forwarded for each in known) if known else None

    @property
    def strains(self) -> list[str]:
        """What the contexts of all models have said of memory that ran out."""
        return list(dict.fromkeys(said for histories in self._histories.values() for said in histories.strains))
