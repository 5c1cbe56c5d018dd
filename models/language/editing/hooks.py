"""The hooks by which edits change what goes through the modules of a pass, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from feynkac.base.errors import FeynkacError, ModelError, is_out_of_memory, quote
from feynkac.models.language.editing.contract import Change, Edit, Where


class Act:
    """One change of some rows."""

    def __init__(self, change: Change, edit: Edit, rows: Tensor | None, where: Where, watch: Watch) -> None:
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


class Watch:
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
def hook_module(model: Any, place: str, acts: Sequence[Act], tokens: torch.Size) -> Iterator[None]:
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


def _act_on_tokens(acts: Sequence[Act], value: Tensor, given: Tensor, tokens: torch.Size, name: str) -> Tensor:
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
