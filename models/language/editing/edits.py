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
from feynkac.base.errors import ArgumentError, FeynkacError, ModelError, is_out_of_memory, quote
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
        hooks: dict[str, list[_Act]] = {}
        watch = _Watch()
        for edits, k in kinds.items():
            whole = bool((numbers == k).all())
            rows = None if whole else torch.from_numpy(np.flatnonzero(numbers == k)).to(device)
            there = where if rows is None else where.select(rows)
            for change, edit in edits.changes:
                hooks.setdefault(f"{change.side} {change.module}", []).append(_Act(change, edit, rows, there, watch))
        with ExitStack() as stack:
            for place, acts in hooks.items():
                stack.enter_context(_hook(twin.model, place, acts, positions.shape))
            stack.enter_context(next(iter(kinds)).parameters.swap(twin.model))
            if biased:
                stack.enter_context(bias_attention(twin.model, self, prompt, where))
            yield
        watch.check()


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


class _Act:
    """One change of some rows."""

    def __init__(self, change: Change, edit: Edit, rows: Tensor | None, where: Where, watch: _Watch) -> None:
        self._change, self._edit, self._rows, self._where, self._watch = change, edit, rows, where, watch

    def __call__(self, value: Tensor, given: Tensor) -> Tensor:
        rows = self._rows
        old, its = (value, given) if rows is None else (value[rows], given[rows])
        new = self._run(old, its)
        if not isinstance(new, Tensor) or new.shape != old.shape:
            shape = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ModelError(f"{quote(self._edit)} made {shape} of the {tuple(old.shape)} of {self._change.module}")
        new = new.to(value.dtype)
        self._watch.see(new, self._edit, self._change.module, self._where)
        return new if rows is None else value.index_copy(0, rows, new)

    def _run(self, value: Tensor, given: Tensor) -> Tensor:
        try:
            return self._change.function(value, given, self._where)
        except ModelError:
            raise
        except Exception as cause:  # of whatever kind a function of the user's has
            if is_out_of_memory(cause):
                raise
            said = str(cause) if isinstance(cause, FeynkacError) else f"{type(cause).__name__}: {cause}"
            raise ModelError(f"{quote(self._edit)} failed at {self._change.module}: {said}") from cause


class _Watch:
    """Looks for NaN behind edits, and asks the device once a pass."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Edit, str, Where]] = []

    def see(self, value: Tensor, edit: Edit, module: str, where: Where) -> None:
        self._seen.append((value.sum((0, 2) if value.ndim == 3 else None, dtype=torch.float32), edit, module, where))

    def check(self) -> None:
        """Raises ModelError that names the first edit behind which there is no number."""
        if not self._seen or torch.stack([sums.sum() for sums, *_ in self._seen]).isfinite().all():
            return
        for sums, edit, module, where in self._seen:
            if not sums.isfinite().all():
                at = int((~sums.isfinite()).nonzero()[0, 0]) if sums.ndim else 0
                step = int(where.steps[:, at].max())
                place = f"at token {step} of the text" if step >= 0 else "in the prompt"
                raise ModelError(f"{quote(edit)} gave NaN or infinity at {module}, {place}; it may be too strong")


@contextmanager
def _hook(model: Any, place: str, acts: Sequence[_Act], tokens: torch.Size) -> Iterator[None]:
    """Let `acts` change what goes through a module, at a `place` such as "output lm_head"."""
    side, name = place.split(" ", 1)

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        old, given = (out[0] if isinstance(out, tuple) else out), find_input(args, kwargs)
        value = _act_on_tokens(acts, old, given, tokens, name)
        return (value, *out[1:]) if isinstance(out, tuple) else value

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = find_input(args, kwargs)
        value = _act_on_tokens(acts, given, given, tokens, name)
        if args:
            return (value, *args[1:]), kwargs
        return args, {key: value if old is given else old for key, old in kwargs.items()}

    module = model.get_submodule(name)
    if side == "output":
        handle = module.register_forward_hook(after, with_kwargs=True)
    else:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _act_on_tokens(acts: Sequence[_Act], value: Tensor, given: Tensor, tokens: torch.Size, name: str) -> Tensor:
    """`value` behind all `acts`, for (F, Q) `tokens`; some modules list the tokens of all rows behind each other."""
    shape = value.shape
    if shape[:-1] == (tokens.numel(),) and value.ndim == 2:
        value, given = value.reshape(*tokens, -1), given.reshape(*tokens, -1)
    elif shape[:-1] != tokens:
        raise ModelError(f"{name} works on {tuple(shape)} numbers, not on {tuple(tokens)} tokens: it cannot be edited")
    for act in acts:
        value = act(value, given)
    return value.reshape(shape)


def find_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next((value for value in kwargs.values() if isinstance(value, Tensor)), None)
