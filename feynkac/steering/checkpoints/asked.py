"""What a run was asked, in plain values, and how what it is now asked differs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from feynkac.base.capabilities import Saves, SavesPaths, require
from feynkac.base.errors import ArgumentError, quote
from feynkac.results.files import map_numbers, write_number
from feynkac.steering.algorithms import Plan
from feynkac.steering.checkpoints.places import describe_potentials
from feynkac.steering.problems import Problems

_NO_PATHS = (
    "checkpoint= with algorithm='gibbs': a {} has paths that cannot be written, as those of prompts, samplers and "
    "canvases can; take another algorithm, or leave checkpoint= out"
)
_MOST = 3
"""Differences that an error names."""


def check_plan(plan: Plan, models: Sequence[Any], executor: Any) -> None:
    """Raises ArgumentError for a way of sampling that cannot be saved, before anything is written."""
    if plan.algorithm == "exact":
        raise ArgumentError(
            "checkpoint= with algorithm='exact': it is one listing, with nothing to go on from; leave checkpoint= out"
        )
    for model in models if plan.algorithm == "gibbs" else ():
        require(model, SavesPaths, _NO_PATHS.format(type(model).__name__), ArgumentError)
    if executor is not None:
        raise ArgumentError(
            "checkpoint= with executor=: the pieces of a run are not saved; steer them one by one, or leave one of the "
            "two out"
        )


def describe_run(problems: Problems) -> dict[str, Any]:
    """What must be the same where a run goes on. Raises ArgumentError for a model that cannot be saved."""
    models = [_require(model).identify() for model in problems.models]
    whole = {
        "feynkac": _find_version(),
        **{_name("model", g, len(models)): dict(said) for g, said in enumerate(models)},
        "potentials": describe_potentials(problems),
    }
    return map_numbers(json.loads(json.dumps(whole, default=repr)), write_number)


def _require(model: Any) -> Saves:
    refusal = (
        f"checkpoint= needs a model whose populations can be written, and {type(model).__name__} cannot: give it the "
        "methods prepare_saving, identify, save and load of feynkac.base.capabilities.Saves, or leave checkpoint= out"
    )
    return require(model, Saves, refusal, ArgumentError)


def _find_version() -> str:
    try:
        return version("feynkac")
    except PackageNotFoundError:
        return "not installed"


def _name(what: str, g: int, n: int) -> str:
    return what if n == 1 else f"{what} {g + 1}"


def check_same(path: Any, was: Any, now: Any) -> None:
    """Raises ArgumentError that names where a run differs from what is asked now."""
    found = list(_list_differences(was, now, ""))
    if found:
        more = f", and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise ArgumentError(
            f"the checkpoint '{path}' is of another run: {'; '.join(found[:_MOST])}{more}. Give fk.resume what the run "
            "was started with"
        )


def _list_differences(was: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(name for name in now if name not in was)]:
            inner = f"{where}, {name}" if where else name
            if name in was and name in now:
                yield from _list_differences(was[name], now[name], inner)
            elif not _is_setting(was, now):
                missing = "is missing" if name in was else "was not there"
                yield f"{inner} {missing} ({_show(was.get(name, now.get(name)))})"
    elif _differ(was, now) and not (_is_nan(was) and _is_nan(now)):
        yield f"{where} is {quote(now, 80)}, and was {quote(was, 80)}"


def _is_setting(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether these are the settings of a potential, which may know more of itself once it has been used."""
    return "is" in was and "is" in now


def _show(value: Any) -> str:
    return quote(value["is"] if isinstance(value, dict) and "is" in value else value, 80)


def _differ(was: Any, now: Any) -> bool:
    """Whether they are not equal, as an array is not that nobody can tell in one word."""
    try:
        return bool(was != now)
    except Exception:
        return True


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
