"""The self-check of a model's caches: each is compared once with the model's own full recompute.

Hooks and unusual attention make a cache silently wrong, and wrong logits are wrong weights. So a cache is used only
where it gives the model's own logits on a short walk of forks, reorderings, splits and merges.

Edits are checked in the same way, and one check serves others that do the same with numbers of about the same size.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.errors import ModelError, is_out_of_memory, quote
from feynkac.models.language.caches.forward import autocast_dtype
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.walk import NoLaw, Open, Walked, find_distance, recompute, take_walk
from feynkac.models.language.editing.changes import count_changes
from feynkac.models.language.editing.edits import Edits

if TYPE_CHECKING:
    from feynkac.models.language.caches.twin import Twins

_log = logging.getLogger(__name__)

_DIFFERENCE = "what edits change"
_SHARE = 0.1
"""The share of what edits change by which a cache with them may be off."""
_ALIKE = 10.0
"""How many times as large as those that were checked other numbers of edits may be, or as small."""

_USUAL, _LARGEST = 0.25, 0.5
"""Errors of low precision that are taken for rounding: always, and at most."""


def shares_prompts(twins: Twins, edits: Edits | None = None) -> bool:
    """Whether the shared cache gives the model's own logits, with `edits` laid on both."""
    found = _find_error(twins, "shared", edits, lambda prompts, laid: SharedContexts(twins, prompts, 8, laid))
    return found <= _tolerate(twins, "shared", edits)


def _find_plain_error(twins: Twins, edits: Edits | None) -> float:
    return _find_error(twins, "plain", edits, lambda prompts, laid: PlainContexts(twins, prompts, laid))


def check_plain(twins: Twins, edits: Edits | None = None) -> None:
    """Raise ModelError if the model's own cache gives other logits than the model does without it."""
    error = _find_plain_error(twins, edits)
    if not error <= _tolerate(twins, "plain", edits):
        name = type(twins.model).__name__ if edits is None else f"{type(twins.model).__name__} with {quote(edits)}"
        raise ModelError(
            f"{name} gives other logits with its cache than without: they are off by {error:.2g} standard deviations, "
            "and so would be all weights. Either its cache cannot be reordered, or its numbers depend on what else is "
            "in a pass (as where activations are quantised), or an edit or a hook acts on the place of a token in a "
            "pass; let it go by position_ids"
        )


def _find_error(twins: Twins, kind: str, edits: Edits | None, opened: Open) -> float:
    """The largest difference of logits on the walk, in standard deviations of logits; found once for each kind."""
    key = (kind, autocast_dtype(twins.model))
    with twins.lock:
        errors = twins.errors if edits is None or not edits.act else edits.find_errors(twins)
        if key not in errors and edits is not None and (spoken := _find_spoken(twins, key, edits)) is not None:
            errors[key] = spoken
        if key not in errors:
            try:
                errors[key] = _walk_and_compare(twins, edits, opened)
            except NoLaw as fault:
                raise ModelError(*fault.args) from None
            except Exception as cause:
                if kind == "plain" or is_out_of_memory(cause):
                    raise _explain(twins, cause) from cause
                # Whatever an unknown architecture trips over, it has its own cache to fall back on.
                _log.info("%s keeps its own cache: %s", type(twins.model).__name__, cause)
                errors[key] = float("inf")
            else:
                _log.info("%s, %s cache: off by %.2g", type(twins.model).__name__, kind, errors[key])
                if edits is not None:
                    _speak(twins, key, edits, errors[key])
        return errors[key]


class _Checked(NamedTuple):
    """What was found of edits that speak for others."""

    sizes: NDArray[np.float64]
    error: float


def _find_spoken(twins: Twins, key: tuple[Any, ...], edits: Edits) -> float | None:
    """The error that was found of edits of the same mechanism, the numbers of which are of about the same size."""
    if twins.is_hooked or edits.mechanism is None:
        return None
    kind, sizes = edits.mechanism.kind, np.array(edits.mechanism.sizes)
    for checked in twins.checked.get((*key, kind), ()):
        if (
            checked.sizes.shape == sizes.shape
            and ((sizes <= _ALIKE * checked.sizes) & (checked.sizes <= _ALIKE * sizes)).all()
        ):
            return checked.error
    return None


def _speak(twins: Twins, key: tuple[Any, ...], edits: Edits, error: float) -> None:
    """Let edits speak for others of their mechanism, if the walk would have shown what is wrong with it.

    So no more than rounding may be seen, and that has to be little beside what the edits change.
    """
    difference = edits.find_errors(twins).get((_DIFFERENCE, key[1]), 0.0)
    if edits.mechanism is not None and error <= _rounding(twins, *key) <= _SHARE * difference:
        checked = twins.checked.setdefault((*key, edits.mechanism.kind), [])
        checked.append(_Checked(np.array(edits.mechanism.sizes), error))


def _explain(twins: Twins, cause: Exception) -> ModelError:
    if isinstance(cause, ModelError):
        return cause
    name = type(twins.model).__name__
    if is_out_of_memory(cause):
        return ModelError(
            f"{name} ran out of memory on the few tokens that are tried before its first use: {cause}; free memory "
            "where its weights are, or load it in a smaller dtype, and call again"
        )
    return ModelError(f"{name} does not run on its own cache: {cause}")


def _tolerate(twins: Twins, kind: str, edits: Edits | None) -> float:
    """The error up to which a cache is believed, in standard deviations of logits.

    A small edit that is missing altogether would pass for rounding. So edits may be off by no more than a tenth of what
    they change, beyond thrice what the model without them is off by.
    """
    most = _tolerance(twins, kind)
    if edits is None:
        return most
    precision = autocast_dtype(twins.model)
    difference = edits.find_errors(twins).get((_DIFFERENCE, precision), np.inf)
    return min(most, max(_rounding(twins, kind, precision), _SHARE * difference))


def _rounding(twins: Twins, kind: str, precision: torch.dtype | None) -> float:
    """The error with edits that is taken for rounding, in standard deviations of logits."""
    return max(3.0 * twins.errors.get((kind, precision), 0.0), 1e-5)


def _tolerance(twins: Twins, kind: str) -> float:
    """The same without edits. In low precision the model's own cache shows how much of an error is rounding."""
    precision = autocast_dtype(twins.model)
    if precision is None and twins.model.dtype in (torch.float32, torch.float64):
        return 1e-3
    if kind == "plain" or not _USUAL < twins.errors.get((kind, precision), 0.0) <= _LARGEST:
        return _USUAL
    return min(max(_USUAL, 3.0 * _find_plain_error(twins, None)), _LARGEST)


def _walk_and_compare(twins: Twins, edits: Edits | None, opened: Open) -> float:
    walked = take_walk(twins, edits, opened)
    found = walked.logits
    if edits is None:
        return find_distance(torch.stack(found), _recompute_unedited(twins, walked))
    wanted = recompute(twins, edits, walked)
    unlike = _recompute_unedited(twins, walked)
    edits.find_errors(twins)[_DIFFERENCE, autocast_dtype(twins.model)] = find_distance(unlike, wanted)
    return find_distance(torch.stack(found), wanted)


def _recompute_unedited(twins: Twins, walked: Walked) -> Tensor:
    """`_recompute` without edits; the last result is kept, for it is the same for all edits."""
    key = autocast_dtype(twins.model), count_changes(twins.model), walked.texts
    if twins.unedited is None or twins.unedited[0] != key:
        twins.unedited = key, recompute(twins, None, walked)
    return twins.unedited[1]
