"""A language model with edits: the same weights and the same tokenizer, another law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ModelError
from feynkac.models.language.editing.anatomy import Anatomy
from feynkac.models.language.editing.contract import Edit
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.lm import CausalLM

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.caches.twin import Twins
    from feynkac.models.language.prompts.openings import Opening
    from feynkac.models.language.prompts.spelling import Speller


class EditedLM(CausalLM):
    """See `CausalLM.edited`. It runs on the twins of the model that it edits; its edits are laid on pass by pass."""

    def __init__(self, plain: CausalLM, edits: Sequence[Edit] | Edits, blocks: str | None = None) -> None:
        self.plain = plain
        """The model without edits."""
        self._blocks = blocks
        super().__init__(plain.model, plain.tokenizer, eos=plain._eos)
        self._edits = edits if isinstance(edits, Edits) else Edits(edits, Anatomy(plain.model, blocks))
        if self._edits.parameters and not plain.find_twins().are_copies:
            raise ModelError("weights can be edited only in a model that can be copied; this one is run itself")

    def identify(self) -> dict[str, Any]:
        """The model without edits, and what tells these from others."""
        return {**self.plain.identify(), "edits": self._edits.identify()}

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What is changed, in the order in which it applies."""
        return self._edits.edits

    @property
    def variant(self) -> Edits:
        """See `LanguageModel.variant`."""
        return self._edits

    @property
    def batch(self) -> Any:
        """See `LanguageModel.batch`: rows of one pass share their weights, and may have different activations."""
        return self if self._edits.parameters else self.plain

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the model without edits, the same object."""
        return self.plain.vocabulary

    @property
    def _speller(self) -> Speller:
        return self.plain._speller

    def find_twins(self) -> Twins:
        """Those of the model without edits."""
        return self.plain.find_twins()

    def edited(self, *edits: Edit, blocks: str | None = None) -> EditedLM:
        """The same with `edits` behind those that it has."""
        return EditedLM(self.plain, (*self.edits, *edits), blocks or self._blocks)

    find_weights: Any = None  # what resides is the model without edits

    def __reduce__(self) -> tuple[Any, ...]:
        return EditedLM, (self.plain, self._edits, self._blocks)  # as prompts have them, too

    def _begin(self, opening: Opening) -> tuple[int, ...]:
        ids = super()._begin(opening)
        self._edits.check_prompt(ids, self.vocabulary)
        return ids

    def __repr__(self) -> str:
        return f"{self.plain!r}.edited({self._edits!r})"
