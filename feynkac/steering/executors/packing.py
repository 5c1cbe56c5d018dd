"""What is sent to a worker, and what comes back: pickles in which large parts are only named.

Modules with weights, language models and vocabularies are *parts*: a worker is given each once, and keeps it from call
to call. So a model is loaded once a worker, its vocabulary is one object for all that refers to it, and a result that
holds tokens of it comes back with the vocabulary that the caller has.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import sys
import weakref
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cloudpickle

from feynkac.base.capabilities import Resides, has
from feynkac.base.errors import ArgumentError
from feynkac.base.vocabulary import Vocabulary
from feynkac.steering.executors.culprits import explain_refusal

SAMPLED = 1024
"""Entries of each tensor by which weights are told from others."""


@dataclass(frozen=True)
class Part:
    """Something large that workers keep."""

    key: str
    thing: Any
    source: Callable[[], Any] | None = None
    """What makes it on a worker, from files that it can read, too; None: it must be sent."""


@dataclass(frozen=True)
class Parcel:
    """A pickle, and the parts that it names."""

    body: bytes
    parts: dict[str, Part] = field(default_factory=dict)


class Packer:
    """Makes parcels, and knows the parts of earlier ones by their keys."""

    def __init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._count = itertools.count()
        self._within: weakref.WeakKeyDictionary[Vocabulary, list[Any]] = weakref.WeakKeyDictionary()

    def pack(self, thing: Any, what: str) -> Parcel:
        """A parcel of `thing`. Raises ArgumentError, which says by `what` and by its innermost part what cannot be."""
        parts = dict[str, Part]()
        return Parcel(self._write(thing, what, parts), parts)

    def pack_part(self, part: Part) -> Parcel:
        """A parcel of a part, which may name others."""
        parts = dict[str, Part]()
        return Parcel(self._write(part.thing, type(part.thing).__name__, parts, whole=part.thing), parts)

    @property
    def live(self) -> set[int]:
        """The numbers of the parts that the caller still has."""
        return set(self._numbers.values())

    def _write(self, thing: Any, what: str, parts: dict[str, Part], whole: Any = None) -> bytes:
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, lambda found: self._name(found, parts), whole).dump(thing)
        except ArgumentError:
            raise
        except Exception as cause:
            raise ArgumentError(explain_refusal(what, thing, cause)) from cause
        return buffer.getvalue()

    def _name(self, thing: Any, parts: dict[str, Part]) -> str:
        """The key of a part, which is entered into `parts` together with the parts that it needs."""
        if thing not in self._numbers:
            self._numbers[thing] = next(self._count)
        known = next((part for part in parts.values() if part.thing is thing), None)
        if known is not None:
            return known.key
        if isinstance(thing, Vocabulary):
            mark = ""  # it never changes
            for inner in self._list_within(thing):
                self._name(inner, parts)
        elif has(thing, Resides):
            inner = dict[str, Part]()
            weights, reload = thing.find_weights()
            mark = hashlib.sha1(self._write(thing, type(thing).__name__, inner, whole=thing)).hexdigest()
            parts |= {
                part.key: replace(part, source=reload) if part.thing is weights else part for part in inner.values()
            }
        else:
            mark = fingerprint(thing)
        key = f"{self._numbers[thing]}:{mark}"
        parts[key] = Part(key, thing)
        return key

    def _list_within(self, vocabulary: Vocabulary) -> list[Any]:
        """The parts that a vocabulary refers to, such as the vocabulary beneath one of bytes."""
        if vocabulary not in self._within:
            parts = dict[str, Part]()
            self._write(vocabulary, "the vocabulary", parts, whole=vocabulary)
            self._within[vocabulary] = [part.thing for part in parts.values()]
        return self._within[vocabulary]


class _Pickler(cloudpickle.Pickler):
    """Names parts where they occur, except for the one that is being sent whole."""

    def __init__(self, file: io.BytesIO, name: Callable[[Any], str | None], whole: Any = None) -> None:
        super().__init__(file, protocol=5)
        self._find_name, self._whole = name, whole
        self._kinds = (Vocabulary, *(() if isinstance(whole, _list_module_types()) else _list_module_types()))

    def persistent_id(self, obj: Any) -> str | None:
        """The key of a part; None for what is sent as it is."""
        if obj is self._whole or not (isinstance(obj, self._kinds) or has_weights(type(obj))):
            return None
        return self._find_name(obj)


class Store:
    """The parts that a worker keeps."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def put(self, key: str, thing: Any) -> None:
        """Keep a part."""
        self._parts[key] = thing

    def forget(self, live: set[int], needed: Mapping[str, Any]) -> None:
        """Drop the parts that the caller has no more, and those of whose things there are newer ones in `needed`."""
        newer = {key.partition(":")[0] for key in needed}
        for key in list(self._parts):
            number = key.partition(":")[0]
            if int(number) not in live or (number in newer and key not in needed):
                del self._parts[key]

    def load(self, body: bytes) -> Any:
        """What a parcel holds. Raises KeyError for a part that is not here."""
        return _Unpickler(io.BytesIO(body), self._parts).load()

    def dump(self, thing: Any) -> bytes:
        """A pickle in which the parts that are kept here are named. Raises whatever cannot be pickled does."""
        names = {id(part): key for key, part in self._parts.items()}
        buffer = io.BytesIO()
        _Pickler(buffer, lambda found: names.get(id(found))).dump(thing)
        return buffer.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, parts: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._parts = parts

    def persistent_load(self, pid: Any) -> Any:
        return self._parts[pid]


def unpack(body: bytes, parts: Mapping[str, Part]) -> Any:
    """What a worker sends back, with the caller's own parts."""
    return _Unpickler(io.BytesIO(body), {key: part.thing for key, part in parts.items()}).load()


_with_weights: dict[type, bool] = {}


def has_weights(kind: type) -> bool:
    """Whether instances of a class are models whose weights stay on workers; asked for each object that is sent."""
    if kind not in _with_weights:
        _with_weights[kind] = has(kind, Resides)
    return _with_weights[kind]


def _list_module_types() -> tuple[type, ...]:
    """The class of modules with weights; none where nobody has imported torch, so that there are none."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.nn.Module,)


def reload(key: str, source: Callable[[], Any]) -> Any:
    """The module that `source` makes, where it is the one of `key`; None where it is another, or cannot be made."""
    try:
        module = source()
    except Exception:  # no such folder on this machine, no network: it is sent instead
        return None
    return module if fingerprint(module) == key.partition(":")[2] else None


def fingerprint(module: Any) -> str:
    """What tells a module from others, and from itself with other weights, settings or hooks.

    Of weights it reads `SAMPLED` entries a tensor, evenly spread: whoever trains a model changes them all.
    """
    buffer = io.BytesIO()
    _Printer(buffer).dump(module)
    return hashlib.sha1(buffer.getvalue()).hexdigest()


class _Printer(cloudpickle.Pickler):
    """Pickles a module with samples in place of its tensors, and the same in every process."""

    def persistent_id(self, obj: Any) -> Any:
        import torch

        if isinstance(obj, torch.Tensor):
            return str(obj.dtype), tuple(obj.shape), obj.requires_grad, _sample(obj)
        if isinstance(obj, set | frozenset):
            return "set", sorted(map(repr, obj))
        if isinstance(obj, torch.device):  # a replica may be on another
            return "device"
        # It holds a hash of itself, which is another one in each process, and no law depends on it.
        return "generation" if type(obj).__name__ == "GenerationConfig" else None


def _sample(tensor: Any) -> int:
    import torch

    flat = tensor.detach().reshape(-1)
    taken = flat[:: max(1, len(flat) // SAMPLED)].contiguous()
    return zlib.crc32(taken.view(torch.uint8).cpu().numpy().tobytes())
