"""The command line: `feynkac demo`, `feynkac generate`, `feynkac run` and `feynkac diffuse`."""

from __future__ import annotations

from typing import Annotated

import typer

from feynkac.base.errors import FeynkacError
from feynkac.commands.diffuse import diffuse
from feynkac.commands.generate import generate
from feynkac.commands.options import Particles
from feynkac.commands.run import run_program

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Exact steering of language and diffusion models with sequential Monte Carlo.",
)  # fmt: skip


@app.command()
def demo(
    particles: Particles = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same demo.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model: hub id or folder.")] = None,
) -> None:
    """Watch a real language model obey a pattern, a schema and a reward (under two minutes on 2 cores)."""
    from feynkac.commands.demo import run

    run(particles, seed, model)


app.command()(generate)
app.command("run")(run_program)
app.command()(diffuse)


def main() -> None:
    """The command `feynkac`: errors of ours are one line, not a traceback."""
    try:
        app()
    except FeynkacError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        if error.partial is not None:
            error.partial.show()
        raise SystemExit(1) from None
