"""The program `feynkac`: demo, generate, run, diffuse and doctor."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from feynkac import __version__
from feynkac.base.errors import FeynkacError
from feynkac.base.escaping import escape
from feynkac.commands.diffuse import diffuse
from feynkac.commands.doctor import doctor
from feynkac.commands.generate import generate
from feynkac.commands.options import Particles
from feynkac.commands.run import run_program
from feynkac.commands.signals import STOP

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"feynkac {__version__}")
        raise typer.Exit


@app.callback()
def read_common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Exact steering of language and diffusion models with sequential Monte Carlo."""


@app.command()
def demo(
    particles: Particles = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same demo.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model: hub id or folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write an interactive page of all runs to this .html file.")] = None,
) -> None:
    """Watch a real language model obey a pattern, a schema and a reward (under two minutes on 2 cores)."""
    from feynkac.commands.demo import run

    run(particles, seed, model, out)


app.command()(generate)
app.command("run")(run_program)
app.command()(diffuse)
app.command()(doctor)


def main() -> None:
    """The command `feynkac`: errors of ours are one line, not a traceback; `Stop.exit_code` tells of signals."""
    if sys.stdout is None:  # closed by the shell, as by `>&-`
        sys.stdout = io.StringIO()
    code: str | int | None = 0
    with STOP:
        try:
            app()
        except FeynkacError as error:
            _tell(error)
            code = 1
        except SystemExit as left:  # by this typer ends, after a wrong option as well
            code = left.code
        if STOP.signal is not None and code and not STOP.kept:
            _say("stopped before there was a result")
    raise SystemExit(STOP.exit_code or code)


def _tell(error: FeynkacError) -> None:
    """One line, and the particles there are."""
    _say(f"error: {error}")
    if error.partial is not None:
        for result in error.partial if isinstance(error.partial, list) else [error.partial]:
            result.show()


def _say(message: str) -> None:
    typer.secho(escape(" ".join(message.split())), fg=typer.colors.RED, err=True)
