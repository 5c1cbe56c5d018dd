"""A call of `steer` as a parcel, and which of its arguments cannot be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feynkac.base.capabilities import list_factors
from feynkac.base.errors import ArgumentError
from feynkac.smc.checks import name_of
from feynkac.steering.executors.packing import Packer, Parcel
from feynkac.steering.executors.pieces import Call
from feynkac.steering.problems import name_problem


def pack_call(packer: Packer, call: Call) -> Parcel:
    """The parcel of a call. Raises ArgumentError that names the argument which cannot be sent, and what to do."""
    try:
        return packer.pack(call, "this call")
    except ArgumentError:
        for what, argument in _list_arguments(call):
            packer.pack(argument, what)
        raise


def _list_arguments(call: Call) -> Iterator[tuple[str, Any]]:
    """All that a call was given, each with what to call it."""
    problems = call.problems
    for g, (model, own) in enumerate(zip(problems.models, problems.own, strict=True)):
        where = name_problem(g, len(problems))
        yield f"{where}the model '{name_of(model)}'", model
        yield from ((f"{where}the potential '{name_of(factor)}'", factor) for factor in list_factors(own))
    yield from ((f"the potential '{name_of(factor)}'", factor) for factor in list_factors(problems.shared))
    yield "the resampler", call.plan.resampler
    yield "moves=", call.plan.moves
