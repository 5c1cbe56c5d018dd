"""What the calls are about, and what one call is."""

from __future__ import annotations

import functools
import inspect
import io
import string
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feynkac as fk


@dataclass(frozen=True)
class Call:
    """A function, arguments with which it works, and what its value is then used for."""

    function: Callable[..., Any]
    valid: Mapping[str, Any] = field(default_factory=dict)
    use: Callable[[Any], Any] = lambda value: None
    many: str | None = None
    """The parameter that takes any number of arguments, if one does: its entry in `valid` is a list."""

    @property
    def names(self) -> list[str]:
        """The parameters that a hostile value may be given to."""
        known = inspect.signature(self.function).parameters.values()
        taken = [each.name for each in known if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        return [name for name in dict.fromkeys([*taken, *self.valid]) if name != self.many]

    def make(self, given: Mapping[str, Any]) -> Any:
        """Call it with `given` in the place of what works, and use the value."""
        arguments = {**self.valid, **given}
        several = arguments.pop(self.many, []) if self.many else []
        first = [arguments.pop(name) for name in list(self._positional) if name in arguments]
        value = self.function(*first, *several, **arguments)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            self.use(value)
        return value

    @property
    def _positional(self) -> list[str]:
        known = inspect.signature(self.function).parameters.values()
        first = [each for each in known if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        return [each.name for each in first] if self.many else [e.name for e in first if e.kind is e.POSITIONAL_ONLY]


class World:
    """What the calls are about: one tiny model, a task, a result."""

    def __init__(self, make_lm: Callable[..., Any]) -> None:
        self.lm = make_lm("a", "b", "e", '"')
        self.speaker = make_lm(*string.printable[:95], "\n")
        """A chat is its contents, one after the other."""
        self.speaker.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        self.task = self.lm.prompt("a", max_tokens=3)
        self.one = fk.regex("[ab]*")
        self.score = fk.reward(len, every="end")
        self.result = fk.steer(self.task, self.one, particles=4, seed=0)
        self.folder = Path(tempfile.mkdtemp(prefix="feynkac-fuzz-"))

    def run(self, potential: Any) -> None:
        """Steer with a potential, and look at the result."""
        if isinstance(potential, fk.Result | str | float | int):
            return
        look(fk.steer(self.task, potential, particles=2, seed=0, on_death="return"))

    def write(self, result: Any) -> None:
        """Look at a result, and write it in every form."""
        look(result)
        result.to_pandas()
        result.to_json(self.folder / "any.json")
        result.to_html(self.folder / "any.html")

    def run_task(self, task: Any) -> None:
        """Steer a prompt."""
        look(fk.steer(task, particles=2, seed=0, on_death="return"))

    def in_program(self, act: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """A function of what `act(p, text)` is given besides, as a program's only line."""

        @functools.wraps(act)
        def call(**given: Any) -> Any:
            @fk.program(max_steps=12, max_tokens=20)
            def fuzzed(p: Any, lm: Any) -> Any:
                text = lm.context("a")
                value = act(p, text, **given)
                return "" if value is None else value

            return fk.steer(fuzzed(self.lm), particles=2, seed=0, on_death="return")

        own = list(inspect.signature(act).parameters.values())[2:]
        call.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in own])  # type: ignore[attr-defined]
        del call.__wrapped__  # type: ignore[attr-defined]
        return call


def look(result: Any) -> None:
    """All that a reader does with a result."""
    for each in result if isinstance(result, list) else [result]:
        each.show()
        repr(each)
        each.posterior()
        each.log_evidence_interval()
        if each.log_evidence > float("-inf"):
            each.sample(2, seed=0)
            _ = each.best
