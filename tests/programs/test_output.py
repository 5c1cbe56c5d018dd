"""What programs print: lines are whole and say whose they are, and `sys.stdout` is the user's own again afterwards."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator

import pytest

import feynkac as fk
from feynkac.base.errors import ProgramError
from feynkac.programs import Bernoulli, program
from feynkac.programs.runtime.output import Tagged, tag_lines


@contextlib.contextmanager
def replaced_stream() -> Iterator[io.StringIO]:
    """In the test itself, since pytest assigns `sys.stdout` between the parts of a test."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        yield stream


@program
def talk(p):
    print("one", end=" ")
    p.sample(Bernoulli(0.5))
    print("line")
    print("two\nlines", end="")
    return 0


def test_a_line_is_written_when_it_is_whole() -> None:
    with replaced_stream() as stream:
        fk.steer(talk(), particles=2, seed=0, algorithm="importance", progress=False)
        assert stream.getvalue().splitlines() == [
            f"[particle {i}, step 0] {text}" for i in range(2) for text in ("one line", "two", "lines")
        ]
        assert sys.stdout is stream


def test_the_lines_of_a_program_that_fails_are_written() -> None:
    with replaced_stream() as stream:

        @program
        def fails(p):
            print("before", end="")
            raise ValueError

        with pytest.raises(ProgramError, match="ValueError"):
            fk.steer(fails(), particles=1, seed=0, progress=False)
        assert stream.getvalue() == "[particle 0, step 0] before\n" and sys.stdout is stream


def test_whoever_comes_first_installs_and_whoever_goes_last_removes() -> None:
    with replaced_stream() as stream:
        with tag_lines():
            installed = sys.stdout
            assert isinstance(installed, Tagged) and installed.stream is stream
            second = tag_lines()
            second.__enter__()
            assert sys.stdout is installed
        assert sys.stdout is installed  # the second one still needs it
        second.__exit__(None, None, None)
        assert sys.stdout is stream


def test_a_stream_that_somebody_assigns_meanwhile_stays() -> None:
    with replaced_stream():
        other = io.StringIO()
        with tag_lines():
            sys.stdout = other
            with tag_lines():
                assert isinstance(sys.stdout, Tagged) and sys.stdout.stream is other
            assert sys.stdout is other
        assert sys.stdout is other


def test_a_stream_that_was_put_back_too_late_is_found_again() -> None:
    """As `redirect_stdout` does that began during a step and ended after it."""
    with replaced_stream() as stream:
        redirection = contextlib.redirect_stdout(io.StringIO())
        with tag_lines():
            redirection.__enter__()
        redirection.__exit__(None, None, None)
        assert isinstance(sys.stdout, Tagged)
        print("not of a program")
        fk.steer(talk(), particles=1, seed=0, progress=False)
        assert sys.stdout is stream and stream.getvalue().startswith(
            "not of a program\n[particle 0, step 0] one line\n"
        )


def test_a_stream_of_ours_that_was_wrapped_tags_once() -> None:
    with replaced_stream() as stream:

        class Twice:
            def __init__(self, inner):
                self.inner = inner

            def write(self, text):
                return self.inner.write(text)

        with tag_lines():
            sys.stdout = Twice(sys.stdout)
        fk.steer(talk(), particles=1, seed=0, progress=False)
        assert all(re.fullmatch(r"\[particle 0, step 0\] [^\[]*", line) for line in stream.getvalue().splitlines())


def test_without_a_stream_nothing_is_written(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert fk.steer(talk(), particles=2, seed=0, progress=False).complete
    assert sys.stdout is None
