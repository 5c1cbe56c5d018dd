"""What a function of the sample takes: the sample alone, or also the problem that it scores. All else is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from feynkac.base.errors import ArgumentError
from feynkac.base.problems import Problem

_OURS = "feynkac.potentials."
"""Where the functions live that make potentials."""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def name_function(what: str, f: Any) -> str:
    """How errors and results name f as the potential `what`, which is "" of a plain function."""
    inner = getattr(f, "__name__", None) or type(f).__name__
    return f"{what}({inner})" if what else inner


def is_async(f: Any) -> bool:
    """Whether f, or its `__call__`, was defined by `async def`."""
    return inspect.iscoroutinefunction(f) or inspect.iscoroutinefunction(type(f).__call__)


def find_problem(f: Callable[..., Any], what: str, batch: bool) -> str | None:
    """The name by which f is given its problem, "" for its second place; None where it takes the sample alone.

    `what` begins an error, "reward: " or "". Raises ArgumentError for a function that can be called in neither way, and
    for one that yields.
    """
    name = name_function("", f)
    if (getattr(f, "__module__", None) or "").startswith(_OURS) and inspect.isfunction(f):
        raise ArgumentError(f"{what}'{name}' makes a potential, and is none itself; call it: {name}(...)")
    if any(map(inspect.isasyncgenfunction, (f, type(f).__call__))):
        raise ArgumentError(
            f"{what}'{name}' is an async generator: it yields, and a score is returned. Write return instead of yield"
        )
    try:
        signature = inspect.signature(f)
    except (ValueError, TypeError):  # functions written in C may not tell
        return None
    told = _find_parameter(signature)
    try:
        signature.bind(None, *([None] if told == "" else []), **({told: None} if told else {}))
    except TypeError as cause:
        if isinstance(f, type):
            raise ArgumentError(f"{what}{name} is a class; give an instance: {name}(...)") from None
        many = "s" if batch else ""
        raise ArgumentError(
            f"{what}'{name}' takes {signature}, and is called with one argument, the sample{many} ({cause}). Fix the "
            f"others: lambda sample{many}: {name}(..., sample{many}). To be told the prompt, name the second one "
            f"problem{many}: def f(text{many}, problem{many}), where {'each ' if batch else ''}problem.prompt is the "
            "prompt"
        ) from None
    return told


def _find_parameter(signature: inspect.Signature) -> str | None:
    for i, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in _POSITIONAL and i == 1 and _means_problem(parameter):
            return ""
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and _means_problem(parameter):
            return parameter.name
    return None


def _means_problem(parameter: inspect.Parameter) -> bool:
    said = parameter.annotation
    written = said if isinstance(said, str) else ""  # as "fk.Problem" or "list[Problem]"
    annotated = said is Problem or written.rstrip("]").rsplit(".", 1)[-1].rsplit("[", 1)[-1] == "Problem"
    return parameter.name in ("problem", "problems") or annotated
