"""Who runs the code that calls us: a program's particle, or nobody.

`lm.context` and `steer` stand below programs and must not know them, but what they do depends on whether a program
calls. So a program's runtime says so here, for as long as a particle runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from feynkac.base.errors import ProgramError


class Host(Protocol):
    """The particle whose program is running."""

    inside_once: bool
    """Whether `p.once` is running, whose value forks are given: there another run may be started."""

    def open_context(self, lm: Any, prompt: tuple[Any, ...], read: Callable[..., tuple[int, ...]], law: Any) -> Any:
        """A context of this particle behind the token ids `read(*prompt)`, with a law (see `CausalLM.context`)."""
        ...

    def open_served(self, lm: Any, prompt: str, sampling: Any) -> Any:
        """A context of this particle behind a text, of a model that is served (see `ServedLM.context`)."""
        ...


HOST: ContextVar[Host | None] = ContextVar("host", default=None)
"""Set by a program's runtime in the context of each strand; None outside of programs."""


def find_host() -> Host:
    """The particle whose program is running. Raises ProgramError outside of programs."""
    host = HOST.get()
    if host is None:
        raise ProgramError("a context belongs to one particle; open it inside of a program (see feynkac.program)")
    return host


def check_not_forked() -> None:
    """Raises ProgramError inside of a program, unless `p.once` is running: a fork would do the same again."""
    host = HOST.get()
    if host is not None and not host.inside_once:
        raise ProgramError(
            "a program calls steer: each fork of its particle would do so again. Run another program as a part with "
            "p.call(other), or steer once with p.once(feynkac.steer, ..., seed=int(p.rng.integers(2**62)))"
        )
