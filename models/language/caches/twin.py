"""Twins of a user's model: copies of its module tree on the same weights, so that the model itself stays as it is.

A pass needs settings that live on a model: its attention function, a hook before its output layer, evaluation mode.
They are set on a twin, which one pass at a time borrows. So the user's model is never written to and can be used
meanwhile, and threads that run at the same time share no modules, whatever those remember during a pass.
"""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from feynkac.base.errors import ModelError, is_out_of_memory
from feynkac.models.language.caches.attention import list_attention_configs
from feynkac.models.language.caches.forward import Forward
from feynkac.models.language.caches.linear import Packing, quicken
from feynkac.models.language.caches.remembered import Store

_log = logging.getLogger(__name__)

_LARGE = 65536
"""Elements from which on a tensor is shared even if it is working memory."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""Where a module keeps what runs with its forward pass."""


class Twin:
    """A model for one pass at a time, and what a pass needs to know of it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.forward = Forward(model)
        self.configs = list_attention_configs(model)


class Twins:
    """The twins of a model as it is now, as many as there are passes at one time.

    The weights are the model's own tensors: changes in place are seen. Anything else that is changed afterwards
    (hooks, modules, configuration, device) makes `is_current` False, and asks for new twins. A model that cannot be
    copied (quantised, spread over devices, or one that `copy.deepcopy` refuses) is its own twin, behind a lock.
    `packed`: the linear layers' weights are kept once more (`feynkac.models.language.caches.linear`), and changes
    in place ask for new twins, too. Raises ModelError where that cannot be.
    """

    def __init__(self, model: Any, *, packed: bool = False) -> None:
        self.model = model
        self.lock = threading.RLock()
        """For what is to be found out once."""
        self.errors: dict[Any, float] = {}
        """How far each kind of cache is off (see `feynkac.models.language.caches.agreement`)."""
        self.checked: dict[Any, list[Any]] = {}
        """What was found of edits that speak for others of their mechanism, by kinds of cache and mechanisms."""
        self.unedited: tuple[Any, Tensor] | None = None
        """The logits of the model without edits on the walk last taken, and what they depend on."""
        self.is_hooked = _is_hooked(model)
        """Whether functions of the user's run with its forward pass."""
        self.remembered = Store(model, _watch(self))
        """Prompts whose keys and values are kept between runs."""
        self._found = Snapshot(model)
        self._pristine = _copy_if_possible(model)  # never run, so that a twin made later is like the first
        if packed and self._pristine is None:
            raise ModelError(f"packed=True is for models that can be copied, and {type(model).__name__} here cannot")
        self._packing = Packing(model) if packed else None
        self._free: list[Twin] = []
        self._itself: Twin | None = None

    @property
    def are_copies(self) -> bool:
        """Whether passes run on copies, and not on the user's model behind a lock."""
        return self._pristine is not None

    @property
    def is_current(self) -> bool:
        """Whether the model is still what it was copied from."""
        return self._found.matches(self.model) and (self._packing is None or self._packing.is_current)

    @contextmanager
    def borrow(self) -> Iterator[Twin]:
        """A twin that no one else uses meanwhile; it is not used again where a pass ends in an error or a Ctrl-C."""
        if self._pristine is None:
            with _lock_of(self.model), _evaluation_mode(self.model):
                self._itself = self._itself or Twin(self.model)
                yield self._itself
            return
        try:
            twin = self._free.pop()  # atomic, unlike asking first
        except IndexError:
            twin = Twin(quicken(copy_modules(self._pristine), self._packing))
        yield twin
        self._free.append(twin)  # not after an exception, which may leave a hook or a setting on it


def _watch(twins: Twins) -> Callable[[], bool]:
    """Whether `twins` are there, and current; without holding on to them, for they hold a good deal of memory."""
    seen = weakref.ref(twins)
    return lambda: (here := seen()) is not None and here.is_current


class Snapshot:
    """What a model is made of, to see later whether it is still the same: modules, tensors, hooks, settings.

    Values of tensors are not compared, except of the small working buffers, which twins have of their own.
    """

    def __init__(self, model: Any) -> None:
        self._parts = list(_list_parts(model))
        self._working = [(buffer, buffer.clone()) for buffer in _working_buffers(model)]

    def matches(self, model: Any) -> bool:
        pairs = zip_longest(self._parts, _list_parts(model), fillvalue=_END)
        return all(_is_same(a, b) for a, b in pairs) and all(torch.equal(now, then) for now, then in self._working)


_END = object()
_IRRELEVANT = set(vars(torch.nn.Module())) - {"_parameters", "_buffers", "_modules", *_HOOKS}
"""Hooks for training and saving, and `training` itself: twins are in evaluation mode, whatever the model is in."""
_PLAIN = (bool, int, float, str, torch.device)
"""Types that are compared by value; others are the same only if identical."""


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)


def _list_parts(model: Any) -> Iterator[Any]:
    for thing in (*model.modules(), *list_attention_configs(model)):
        yield thing
        for name, value in list(vars(thing).items()):
            if name not in _IRRELEVANT:
                yield name
                yield from _list_values(value)
    yield from _list_values(torch_module._global_forward_hooks)
    yield from _list_values(torch_module._global_forward_pre_hooks)


def _list_values(value: Any) -> Iterator[Any]:
    """A container's items, for it may be changed in place; a tensor with where and how it is stored."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield key
            yield from _list_values(item) if isinstance(item, Tensor) else (item,)
    elif isinstance(value, list | tuple):
        yield from list(value)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    else:
        yield value
        if isinstance(value, Tensor):
            yield value.dtype
            yield value.device


@torch.inference_mode(False)  # else buffers copied in a run could not be differentiated through later
def copy_modules(model: Any) -> Any:
    """A copy of the module tree in evaluation mode, on the same weights and with the same hooks.

    What is copied: modules, configuration, and small buffers that are not saved with the model. Those are working
    memory that a pass may write to, as some rotary embeddings do.
    """
    working = {id(buffer) for buffer in _working_buffers(model)}
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in working]
    hooks = [hook for module in model.modules() for name in _HOOKS for hook in getattr(module, name).values()]
    return copy.deepcopy(model, {id(thing): thing for thing in (*tensors, *hooks)}).eval()


def _is_hooked(model: Any) -> bool:
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return bool(everywhere) or any(
        "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS) for module in model.modules()
    )


def _working_buffers(model: Any) -> list[Tensor]:
    return [
        buffer
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name in module._non_persistent_buffers_set and buffer.numel() < _LARGE
    ]


def _copy_if_possible(model: Any) -> Any:
    spread = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(spread) > 1 or getattr(model, "is_quantized", False):
        return None
    try:
        return copy_modules(model)
    except Exception as cause:  # a module of a kind unknown here
        if is_out_of_memory(cause):
            raise
        _log.info("%s cannot be copied and is run under a lock: %s", type(model).__name__, cause)
        return None


_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(model: Any) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(model, threading.RLock())


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
