"""The edits of one model, prepared, and laid on the passes of a batch whose prompts may have different ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.capabilities import has
from feynkac.base.errors import ArgumentError, quote
from feynkac.models.language.editing.biases import bias_attention
from feynkac.models.language.editing.contract import (
    Bias,
    Change,
    Edit,
    Mechanical,
    Mechanism,
    Prepared,
    Span,
    Spans,
    Where,
)
from feynkac.models.language.editing.hooks import Act, Watch, hook_module
from feynkac.models.language.editing.identity import identify_edits
from feynkac.models.language.editing.parameters import Parameters
from feynkac.models.language.editing.spans import locate

if TYPE_CHECKING:
    from feynkac.base.vocabulary import Vocabulary
    from feynkac.models.language.caches.twin import Twin, Twins
    from feynkac.models.language.editing.anatomy import Anatomy


class Edits:
    """Edits in the order in which they apply, fitted to one model; two of them are equal only if identical."""

    def __init__(self, edits: Sequence[Edit], anatomy: Anatomy) -> None:
        self.edits, self._anatomy = tuple(edits), anatomy
        prepared: list[Prepared] = []
        for number, edit in enumerate(self.edits):
            if isinstance(edit, list | tuple):
                raise ArgumentError(f"edit {number} is a {type(edit).__name__} of edits; unpack it: lm.edited(*edits)")
            if isinstance(edit, type) or not isinstance(edit, Edit):
                raise ArgumentError(
                    f"edit {number} is {quote(edit)}; give one of feynkac.models.edits, such as Add(...), or an object "
                    "with prepare(anatomy)"
                )
            prepared.append(one := edit.prepare(anatomy))
            if not isinstance(one, Prepared):
                raise ArgumentError(f"edit {number}: prepare returned {type(one).__name__}; return a Prepared")
        self._prepared = prepared
        self.changes: list[tuple[Change, Edit]] = [
            (change, edit) for edit, one in zip(self.edits, prepared, strict=True) for change in one.changes
        ]
        self.biases: list[Bias] = [bias for one in prepared for bias in one.biases]
        self.parameters = Parameters(anatomy.model, [one.weights for one in prepared])
        self.lengths = {one.length for one in prepared if one.length is not None}
        self.spans: list[Span] = [span for one in prepared for span in one.spans]
        self.reach = max((one.reach for one in prepared), default=0)
        for change, edit in self.changes:
            _check_module(anatomy.model, change, edit)
        self._errors: weakref.WeakKeyDictionary[Twins, dict[Any, float]] = weakref.WeakKeyDictionary()

    @property
    def act(self) -> bool:
        """Whether anything is changed: an edit of strength 0 is none."""
        return bool(self.changes or self.biases or self.parameters)

    @cached_property
    def mechanism(self) -> Mechanism | None:
        """What all of them do, as one; None where some edit has to be checked for itself."""
        found = [_find_mechanism(*pair, self._anatomy) for pair in zip(self.edits, self._prepared, strict=True)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return Mechanism(tuple(one.kind for one in known), tuple(size for one in known for size in one.sizes))

    def check_prompt(self, ids: Sequence[int], vocabulary: Vocabulary) -> None:
        """Raises ArgumentError for a prompt without a span that is named, or of another length than an edit is for."""
        for span in self.spans:
            locate(span, ids, vocabulary)
        if wrong := self.lengths - {len(ids)}:
            raise ArgumentError(f"an edit is made for prompts of {min(wrong)} tokens, and this one has {len(ids)}")

    def identify(self) -> list[str]:
        """What tells each of them from others where a saved run goes on."""
        return identify_edits(self.edits)

    def __reduce__(self) -> tuple[Any, ...]:
        return Edits, (self.edits, self._anatomy)

    def find_errors(self, twins: Twins) -> dict[Any, float]:
        """What the self-check found of these twins with these edits (see `caches.agreement`)."""
        return self._errors.setdefault(twins, {})

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.edits))


def _find_mechanism(edit: Edit, prepared: Prepared, anatomy: Anatomy) -> Mechanism | None:
    # A class derived from one that tells its mechanism may do anything else, and has to tell its own.
    if not has(edit, Mechanical) or "find_mechanism" not in vars(type(edit)):
        return None
    own = edit.find_mechanism(anatomy)
    if own is None:
        return None
    changes = tuple((change.side, change.module) for change in prepared.changes)
    biases = tuple((bias.layer, bias.queries) for bias in prepared.biases)
    return Mechanism((type(edit), changes, biases, tuple(prepared.weights), prepared.reach, own.kind), own.sizes)


def _check_module(model: Any, change: Change, edit: Edit) -> None:
    try:
        module = model.get_submodule(change.module)
    except AttributeError:
        raise ArgumentError(
            f"an edit names the module '{change.module}', which {type(model).__name__} does not have"
        ) from None
    if module is model.get_output_embeddings():  # which passes ask about few of their tokens
        raise ArgumentError(
            f"{quote(edit)} changes the output layer '{change.module}', which is no place for edits: change the "
            "residual of the last layer, the output layer's weights (Shift), or logits (logits_processor= of a prompt)"
        )


class Laid:
    """The edits of each prompt of a batch, and where the spans that they name lie."""

    def __init__(self, edits: Sequence[Edits | None], lengths: Sequence[int], spans: Spans) -> None:
        """`edits` (G,) of each prompt, `lengths` (G,) its tokens."""
        self._edits, self._spans = list(edits), spans
        self._lengths = np.array(lengths, np.int64)
        self._biases: dict[int, dict[int, list[tuple[Bias, Tensor]]]] = {}

    def kind(self, g: int) -> Edits | None:
        """What is changed for prompt `g`."""
        return self._edits[g]

    def list_biases(self, g: int) -> Mapping[int, Sequence[tuple[Bias, Tensor]]]:
        """The biases of prompt `g` by layers, each with its (heads, P) numbers."""
        if g not in self._biases:
            edits, found = self._edits[g], dict[int, list[tuple[Bias, Tensor]]]()
            for bias in () if edits is None else edits.biases:
                numbers = bias.make(int(self._lengths[g]), self._spans, g)
                found.setdefault(bias.layer, []).append((bias, numbers))
            self._biases[g] = found
        return self._biases[g]

    @contextmanager
    def on(
        self,
        twin: Twin,
        prompt: NDArray[np.int64],
        positions: Tensor,
        context: NDArray[np.int64] | None = None,
        *,
        biased: bool = True,
    ) -> Iterator[None]:
        """Lay edits on the pass that is made inside, and take them off again.

        `prompt` (F,) the number of each row's prompt; `positions` (F, Q) where its tokens stand;
        `context` (F,) its number among the contexts that the caller goes on to. `biased`: whether
        attention is to be told its biases; the shared cache adds them itself. Raises ModelError where an edit gives
        NaN or changes a shape.
        """
        found = dict.fromkeys(edits for g in np.unique(prompt).tolist() if (edits := self._edits[g]) is not None)
        kinds = {edits: k for k, edits in enumerate(found)}
        if not kinds:
            yield
            return
        device = positions.device
        start = torch.from_numpy(self._lengths[prompt]).to(device)[:, None]
        of = None if context is None else torch.from_numpy(context).to(device)
        where = Where(positions, start, torch.from_numpy(prompt).to(device), self._spans, of)
        numbers = np.array([-1 if edits is None else kinds.get(edits, -1) for edits in self._edits])[prompt]
        watch = Watch()
        with ExitStack() as stack:
            for place, acts in _list_acts(kinds, numbers, where, watch).items():
                stack.enter_context(hook_module(twin.model, place, acts, positions.shape))
            stack.enter_context(next(iter(kinds)).parameters.swap(twin.model))
            if biased:
                stack.enter_context(bias_attention(twin.model, self, prompt, where))
            yield
        watch.check()


def _list_acts(
    kinds: Mapping[Edits, int], numbers: NDArray[np.int64], where: Where, watch: Watch
) -> dict[str, list[Act]]:
    """What to change at each place, where row i has the edits whose kind is `numbers[i]`."""
    found: dict[str, list[Act]] = {}
    for edits, k in kinds.items():
        whole = bool((numbers == k).all())
        rows = None if whole else torch.from_numpy(np.flatnonzero(numbers == k)).to(where.positions.device)
        there = where if rows is None else where.select(rows)
        for change, edit in edits.changes:
            found.setdefault(f"{change.side} {change.module}", []).append(Act(change, edit, rows, there, watch))
    return found


class _Nothing(Laid):
    """No edits for any prompt."""

    def __init__(self) -> None: ...

    def kind(self, g: int) -> None: ...

    def list_biases(self, g: int) -> Mapping[int, Sequence[tuple[Bias, Tensor]]]:
        return {}

    @contextmanager
    def on(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield


NOTHING = _Nothing()
