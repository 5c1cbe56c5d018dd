"""Every error of feynkac: each says what was wrong, where, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from feynkac.base.escaping import escape

_LONG = 1_500
"""Characters of a message beyond which its middle is left out: what is long there was given, not said."""
_BREAK = re.compile(r"\s*\n\s*")
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip


class FeynkacError(Exception):
    """Base of all errors raised by feynkac.

    `partial` holds the `Result` of the particles computed before the error, where there were any; `step` is the step of
    the run at which it came about, if it came about in one. What a model, a potential or an observer raised is in
    `__cause__`. Of the texts that a message quotes, nothing reaches a terminal that it would obey.
    """

    partial: Any = None
    step: int | None = None

    def __str__(self) -> str:
        said = _cut_middle(escape(super().__str__(), keep="\n\t"), _LONG)
        return said if self.step is None or f"step {self.step}" in said else f"{said} (at step {self.step})"


class ArgumentError(FeynkacError, ValueError):
    """An argument of a public function cannot be used."""


class UnknownArgument(ArgumentError, TypeError):
    """A call has an argument that the function has not, or lacks one; the message says which was meant."""


class MissingExtra(FeynkacError, ImportError):
    """What was asked for needs a package that is not installed; the message says what to install."""


class ModelError(FeynkacError):
    """A model, its tokenizer or its cache cannot do what was asked."""


class ModelLost(ModelError):
    """What a model draws from is out of reach. In the middle of a run `steer` returns the particles there are."""


class ConstraintError(FeynkacError, ValueError):
    """A constraint is invalid, unsupported, or can be met by no text."""


class PotentialError(FeynkacError):
    """A potential raised, or returned something that is no log-weight."""


class WeightError(FeynkacError):
    """A model returned an increment that is no log-weight."""


class AllParticlesDied(FeynkacError):
    """Every particle has weight zero: the estimate of the evidence is 0."""


class Contradiction(ConstraintError, AllParticlesDied):
    """No text meets several constraints at once, which is known before the run: every particle would die."""


class ProgramError(FeynkacError):
    """A generation program does something that no program may, or does not stop."""


class ReplayDiverged(ProgramError):
    """A program made other requests when it was run again: it depends on more than its arguments and its choices."""


def shorten(name: str, length: int = 60) -> str:
    """A name fit for a line of an error message."""
    return name if len(name) <= length else f"{name[: length - 5]}...{name[-2:]}"


def quote(value: Any, length: int = 120) -> str:
    """A value of the user's for a message: as Python writes it, in one line of at most `length` characters.

    It never raises, and of what is large it writes no more than it shows. What cannot be written, as its `__repr__`
    raises, is told by its type.
    """
    try:
        written = _write(value, length)
    except Exception:
        written = object.__repr__(value)
    return shorten(escape(_BREAK.sub(" ", shorten(written, length))), length)


def _write(value: Any, length: int) -> str:
    """`repr(value)`, or what is shown of a longer one."""
    if type(value) in (str, bytes, bytearray) and len(value) > 2 * length:
        value = value[:length] + value[-length:]
    if type(value) not in _BRACKETS or not value:
        return "".join([repr(value)])  # a str, and of no class of the user's
    written, (_, closing) = "", _BRACKETS[type(value)]
    for piece in _list_pieces(value, length):
        written += piece
        if len(written) > length:
            return f"{written[: length - 4]}...{closing[-1]}"
    return written


def _list_pieces(value: Any, length: int, around: tuple[int, ...] = ()) -> Iterator[str]:
    """What `repr(value)` is made of, entry by entry: nobody waits for those that are not shown."""
    if type(value) not in _BRACKETS or not value:
        yield quote(value, length)
        return
    opening, closing = _BRACKETS[type(value)]
    if id(value) in around:
        yield f"{opening}...{closing}"
        return
    yield opening
    for i, entry in enumerate(value.items() if type(value) is dict else zip(value)):
        yield ", " if i else ""
        for j, part in enumerate(entry):
            yield ": " if j else ""
            yield from _list_pieces(part, length, (*around, id(value)))
    yield f",{closing}" if type(value) is tuple and len(value) == 1 else closing


def shorten_report(text: str, width: int = 120) -> str:
    """The report of a parser, its long lines cut; of a line with a mark such as ^ below it, what is around the mark."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and (mark := re.fullmatch(r"( *)\^[ ^]*", lines[i + 1])) and len(line) > width:
            start = max(0, len(mark[1]) - width // 2)
            before = "..." if start else ""
            lines[i] = f"{before}{line[start : start + width]}..."
            lines[i + 1] = " " * len(before) + mark[0][start : start + width].rstrip()
        else:
            lines[i] = _cut_middle(line, 2 * width)
    return _cut_middle("\n".join(lines), 8 * width)


def _cut_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: 2 * most // 3]} ... {text[len(text) - most // 3 :]}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` says that memory ran out, on the host or on a device."""
    said = f"{type(error).__name__} {error}".lower()  # torch has a class for devices only, and base knows no torch
    signs = ("outofmemory", "out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in said for sign in signs))
