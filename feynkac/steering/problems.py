"""The problems of one call of `steer`: each a model with what weighs it, all of them in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from feynkac.base.capabilities import Checks, Grouped, Guides, Heeds, Joins, Masks, has, is_hard, list_factors, require
from feynkac.base.contract import LogW, Model, Potential, Rows
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.masks import TokenConstraint
from feynkac.potentials.base import Factor, product
from feynkac.smc.checks import call, name_of


@dataclass(frozen=True)
class Problems:
    """Models, with the potentials of their own and those of all."""

    models: tuple[Any, ...]
    own: tuple[Factor, ...]
    shared: Factor
    places: tuple[int, ...] | None = None
    """Where each stands in the call, where these are but some of its problems; None: they are all."""

    def __len__(self) -> int:
        return len(self.models)

    def find_potential(self, g: int) -> Factor:
        """All that weighs problem `g`."""
        return self._potentials[g]

    @cached_property
    def _potentials(self) -> tuple[Factor, ...]:
        return tuple(product(own, self.shared) for own in self.own)

    def only_masks(self, g: int) -> bool:
        """Whether nothing weighs problem `g` but constraints that mask, and accept all that they let through."""
        factors = list_factors(self.find_potential(g))
        return all(isinstance(each, TokenConstraint) and not has(each, Checks) for each in factors)

    def weigh(self) -> Factor:
        """The potential of the whole batch. One that several problems have is asked about all their rows at once."""
        if len(self) == 1:
            return self.find_potential(0)
        found: dict[tuple[int, int], tuple[Potential, list[int]]] = {}
        for g, own in enumerate(self.own):
            times: dict[int, int] = {}
            for factor in list_factors(own):
                n = times[id(factor)] = times.get(id(factor), 0) + 1
                found.setdefault((id(factor), n), (factor, []))[1].append(g)
        assigned = [
            factor if len(members) == len(self) else Assigned(factor, members) for factor, members in found.values()
        ]
        return product(*assigned, self.shared)

    def join(self, *, guided: bool = True) -> Model:
        """One model of all problems, whose proposals obey their constraints and follow what guides.

        Without `guided` it is the models as they stand.
        """
        models = [prepare(model, own) if guided else model for model, own in zip(self.models, self.own, strict=True)]
        first, *others = models
        if others:
            alone = f"{type(first).__name__} cannot run with others in one batch; steer them one by one"
            first = call(require(first, Joins, alone, ArgumentError).join, others, of=first, what="join")
        return prepare(first, self.shared) if guided else first

    def take(self, *numbers: int) -> Problems:
        """Some of the problems by themselves; one may be taken more than once."""
        places = tuple(numbers if self.places is None else (self.places[g] for g in numbers))
        return Problems(
            tuple(self.models[g] for g in numbers), tuple(self.own[g] for g in numbers), self.shared, places
        )


class Assigned(Factor):
    """A potential of some problems of a batch; it is 1 for the others."""

    def __init__(self, factor: Potential, members: Sequence[int]) -> None:
        self.name, self.hard = name_of(factor), is_hard(factor)
        self._factor, self._members = factor, np.array(members)

    def level(self, t: int, state: Any, rows: Rows) -> LogW:
        """(R,) nats, as the potential has it."""
        return self._ask(state, rows, lambda asked: self._factor.level(t, state, asked))

    def final(self, state: Any, rows: Rows) -> LogW:
        """(R,) nats, as the potential has it."""
        return self._ask(state, rows, lambda asked: self._factor.final(state, asked))

    def _ask(self, state: Any, rows: Rows, ask: Any) -> Any:
        alone = f"{type(state).__name__} does not tell the problems of a batch apart (it has no `group`)"
        grouped = require(state, Grouped, f"{alone}; steer those with potentials of their own one by one")
        here = np.flatnonzero(np.isin(grouped.group[rows], self._members))
        if len(here) == len(rows):
            return ask(rows)
        values = np.zeros(len(rows))
        if len(here):
            values[here] = ask(rows[here])
        return values


def prepare(model: Any, potential: Any) -> Any:
    """`model`, whose proposal obeys those factors that can mask tokens, and follows those that guide."""
    factors = list_factors(potential)
    masks = [factor for factor in factors if isinstance(factor, TokenConstraint)]
    if masks and isinstance(model, Masks):
        model = call(model.constrain, masks, of=model, what="constrain")
    guides = [factor for factor in factors if has(factor, Guides)]
    return call(model.heed, guides, of=model, what="heed") if guides and isinstance(model, Heeds) else model


def read_problems(source: Any, potentials: Sequence[Any]) -> Problems:
    """The problems that are meant by the first argument of `steer`, and the potentials of all of them.

    `source`: a model, or a list of models and of tuples (model, potential, ...). Raises ArgumentError for others.
    """
    entries = as_sequence(source) if isinstance(source, list | tuple) else [source]
    if not entries:
        raise ArgumentError("an empty list of models; give at least one")
    if isinstance(source, tuple) and isinstance(entries[0], Model) and any(_is_weight(each) for each in entries[1:]):
        raise ArgumentError(
            "a tuple of a model and potentials; write steer(model, potential, ...), or, for several problems, "
            "steer([(model, potential, ...), (other, ...)])"
        )
    pairs = [each if isinstance(each, tuple) else (each,) for each in entries]
    models = tuple(_check(pair[0] if pair else pair) for pair in pairs)
    return Problems(models, tuple(product(*pair[1:]) for pair in pairs), product(*potentials))


def name_problem(g: int, n: int) -> str:
    """How an error about problem `g` of `n` begins; where there is one only, nobody need be told."""
    return f"problem {g + 1} of {n}: " if n > 1 else ""


def _is_weight(thing: Any) -> bool:
    return not isinstance(thing, Model | tuple) and (isinstance(thing, Potential) or callable(thing))


def _check(model: Any) -> Any:
    if isinstance(model, type) or not isinstance(model, Model):
        raise ArgumentError(
            f"{quote(model)} is no model; steer a prompt, as in lm.prompt('...'), or an object with init, step and done"
        )
    return model
