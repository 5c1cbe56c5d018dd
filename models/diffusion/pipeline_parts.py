"""The networks of a pipeline's call, run on parts of their rows, so that their memory does not grow with the particles.

The pipeline keeps its latents, its guidance and its conditions for all particles at once; only where it calls a network
does a stand-in split what it was given, call the network part by part, and put together what that returned. Where a
gradient is wanted, a part keeps its arguments alone, and runs once more when the gradient goes back through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from feynkac.base.errors import ModelError, is_out_of_memory
from feynkac.models.diffusion.checks import differ, warn_of_memory
from feynkac.models.diffusion.forkable import is_pipeline, list_memories
from feynkac.models.diffusion.modules import copy_denoiser, sets_attention
from feynkac.models.diffusion.pipeline_rows import Joined, Silence, count_rows, take_rows


@dataclass
class Room:
    """How many rows the networks of one call may take at a time."""

    particles: int
    batch: int | None
    """The particles for one call of a network; None: all of them, as long as the memory lasts."""
    said: list[str] = field(default_factory=list)
    """What was said as memory ran out."""
    parted: bool = False
    """Whether a network has been run on parts."""
    known: dict[int, Silence] = field(default_factory=dict)
    """The form of what networks return, by the id of each, once it has run."""
    silent: bool = False
    """Whether networks whose form is known are not run: nobody will look at what they say."""


def place_parts(pipe: Any, room: Room) -> None:
    """Put stand-ins in the place of the networks of `pipe`, which is a call's own copy of a pipeline.

    Networks that the call writes to are copied. So it is with the pipelines that it calls.
    """
    writes = sets_attention(pipe)
    for name, component in list(vars(pipe).items()):
        if _denoises(component):
            network = copy_denoiser(component) if writes else component
            pipe.__dict__[name] = InParts(network, Parts(network, name, room, id(component)).run)
        elif is_pipeline(component):
            place_parts(component, room)


def _denoises(component: Any) -> bool:
    """Whether it may be a network that is called with the latents: encoders of prompts and autoencoders are not."""
    if not isinstance(component, torch.nn.Module) or isinstance(component, torch.jit.ScriptModule):
        return False
    encodes = any(each.__module__.startswith("transformers.") for each in type(component).__mro__)
    return not encodes and not hasattr(component, "decode")


class InParts:
    """A network as its pipeline sees it: whatever is read, set or asked of it is the network's own, except a call."""

    def __init__(self, network: torch.nn.Module, run: Callable[..., Any]) -> None:
        vars(self).update(_network=network, _run=run)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["_run"](*args, **kwargs)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]  # pipelines ask with isinstance
        return type(vars(self)["_network"])

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_network"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_network"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)["_network"], name)


class Parts:
    """The calls of one `network`, which is the `name` of its pipeline, by as many rows at a time as there is `room`.

    `key`: what tells it from others in the room. The first call that is split proves that it may be: a row must come
    out alone as it did among others.
    """

    def __init__(self, network: torch.nn.Module, name: str, room: Room, key: int) -> None:
        self._network, self._room, self._key = network, room, key
        self._name = f"the {name} ({type(getattr(network, '_orig_mod', network)).__name__})"
        self._fit: int | None = None  # the rows that fit into the memory, once it has run out
        self._proved = False

    @cached_property
    def _modules(self) -> list[torch.nn.Module]:
        return list(self._network.modules())

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns. Raises ModelError where it would have to be split and cannot be."""
        rows = count_rows((args, kwargs), self._room.particles)
        if rows is None:
            return self._network(*args, **kwargs)
        form = self._room.known.get(self._key)
        if form is not None and form.known and self._room.silent:
            return form.of(rows)
        returned = self._run(args, kwargs, rows)
        if form is None:
            self._room.known[self._key] = Silence(returned, rows)
        return returned

    def _run(self, args: Any, kwargs: Any, rows: int) -> Any:
        while True:
            most = self._limit(rows)
            try:
                if most == rows:
                    return self._network(*args, **kwargs)
                return self._split((args, kwargs), rows, most)
            except Exception as cause:
                if most == 1 or not is_out_of_memory(cause):
                    raise
                if self._fit is None:
                    self._room.said.append(warn_of_memory(self._name, most))
            self._fit = most // 2  # outside, where the error no longer holds what it ran out of

    def _limit(self, rows: int) -> int:
        """How many of so many rows it takes at a time; with guidance, a particle has two."""
        most = rows if self._room.batch is None else self._room.batch * (rows // self._room.particles)
        most = min(most, rows, rows if self._fit is None else self._fit)
        return -(-rows // -(-rows // most))  # as many parts as that takes, but as equal as can be

    def _split(self, given: Any, rows: int, most: int) -> Any:
        """What the network returns of `given`, put together from parts of `most` rows."""
        kept = next(list_memories(self._modules), None)
        if kept:
            raise self._refuse(f"it keeps what it computed at earlier calls ({kept})")
        edges, joined = [*range(0, rows, most), rows], Joined(rows)
        try:
            for first, last in itertools.pairwise(edges):
                joined.add(self._call(self._network, given, rows, first, last), first, last)
            if not self._proved:
                self._prove(given, rows, most, joined)
        except Exception as cause:
            if is_out_of_memory(cause) or isinstance(cause, ModelError) or self._proved:
                raise
            raise self._refuse(f"with a part of them it raises {type(cause).__name__}: {cause}") from cause
        self._proved = self._room.parted = True
        return joined.value

    @torch.no_grad()
    def _prove(self, given: Any, rows: int, size: int, joined: Joined) -> None:
        """Raises ModelError unless a row says alone, or beside another one, what it said in its part of `size` rows."""
        first, last = (size - 1, size) if size > 1 else (0, 2)
        eager = getattr(self._network, "_orig_mod", self._network)  # one more shape would be compiled anew
        again = self._call(eager, given, rows, first, last)
        for one, other in joined.pairs(again, first, last):
            if any(differ(x, y, elsewhere=True) for x, y in zip(one, other, strict=True)):
                raise self._refuse(
                    "what it says of a particle depends on the others in its batch, or on chance, or on earlier calls"
                )

    @staticmethod
    def _call(network: Any, given: Any, rows: int, first: int, last: int) -> Any:
        args, kwargs = take_rows(given[0], given[1], rows, first, last)
        if torch.is_grad_enabled():  # its graph is made when the gradient is taken, so that there is one at a time
            return checkpoint(network, *args, use_reentrant=False, **kwargs)
        return network(*args, **kwargs)

    def _refuse(self, why: str) -> ModelError:
        n, batch = self._room.particles, self._room.batch
        what = (
            f"give from_pipeline no batch=, or at least {n}, which calls it once for all"
            if batch is not None and batch < n
            else "memory ran out with all of them: use fewer particles, half precision, or a smaller sample"
        )
        return ModelError(
            f"{self._name} cannot be run on some of its {n} particles at a time: {why}; {what}. Networks in train mode "
            "may be the cause: call eval() on them"
        )
