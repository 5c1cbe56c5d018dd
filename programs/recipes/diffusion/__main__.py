"""Ready programs for diffusion models, from the shell: each steers, prints what came out and saves a picture.

python -m feynkac.programs.recipes.diffusion inpaint demo --out completed.png
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feynkac.base.errors import FeynkacError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one program. Errors of ours are one line."""
    import feynkac
    from feynkac.results.outputs import check_outputs, write_outputs

    parser = _parser()
    args = parser.parse_args(arguments)
    out = args.out or [Path("out.png")]
    try:
        check_outputs(out)
        (model, potential), drawing = args.task(args)
        options = {"particles": args.particles, "islands": args.islands, "seed": args.seed}
        result = feynkac.steer(model, potential, **options)
        result.show(5)
        write_outputs(result, out, **drawing)
    except FeynkacError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"wrote {', '.join(map(str, out))}")


def rewarded(args: Namespace) -> Any:
    """Images that a reward likes."""
    from feynkac.programs.recipes.diffusion import rewards

    reward = {"brightness": rewards.brightness, "symmetry": rewards.symmetry}[args.reward]
    return rewards.rewarded(_pipeline(args), reward, args.scale, args.steps), {}


def of_class(args: Namespace) -> Any:
    """One class of digits, by a classifier."""
    from feynkac.programs.recipes.diffusion import classes

    return classes.of_class(_pipeline(args), classes.digit_classifier(), args.label, args.scale, args.steps), {}


def inpaint(args: Namespace) -> Any:
    """The right half of an image, given the left half."""
    from feynkac.programs.recipes.diffusion import inpainting

    image = inpainting.digit(args.digit) if args.image is None else inpainting.photo(args.image)
    mask = inpainting.left_half(image)
    return inpainting.inpaint(_pipeline(args), image, mask, args.noise, args.steps), {"reference": image * mask}


def drug_like(args: Namespace) -> Any:
    """Molecules that are like drugs."""
    from feynkac.programs.recipes.diffusion import molecules

    return molecules.drug_like(args.model, scale=args.scale), {"kind": "molecules"}


def _pipeline(args: Namespace) -> Any:
    from feynkac.models.diffusion.folder import DEMO, open_pipeline

    return open_pipeline(DEMO if args.model == Path("demo") else args.model)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "python -m feynkac.programs.recipes.diffusion", description=(__doc__ or "").partition("\n")[0]
    )
    programs = parser.add_subparsers(required=True, metavar="PROGRAM")
    command = _command(programs, rewarded)
    command.add_argument("--reward", choices=("brightness", "symmetry"), default="symmetry")
    command.add_argument("--scale", type=float, default=100.0, help="nats for each unit of reward")
    command = _command(programs, of_class)
    command.add_argument("--label", type=int, choices=range(10), default=3, metavar="DIGIT")
    command.add_argument("--scale", type=float, default=2.0, help="the power of p(label | image)")
    command = _command(programs, inpaint)
    command.add_argument("--image", help="a file; one of scikit-learn's digits if left out")
    command.add_argument("--digit", type=int, default=2, help="its number, from 0 to 1796")
    command.add_argument("--noise", type=float, default=0.25, help="standard deviation, of pixels from 0 to 1")
    command = _command(programs, drug_like, model="the file of a model of molecules", steps=False)
    command.add_argument("--scale", type=float, default=20.0, help="nats for each unit of drug-likeness, from 0 to 1")
    return parser


def _command(
    programs: Any, task: Any, model: str = "the folder of a pipeline, or demo", steps: bool = True
) -> ArgumentParser:
    """A command with the options that all have."""
    command = programs.add_parser(task.__name__.replace("_", "-"), help=task.__doc__, description=task.__doc__)
    command.set_defaults(task=task)
    command.add_argument("model", type=Path, help=model)
    command.add_argument("-n", "--particles", type=int, default=32)
    command.add_argument("--islands", type=int, default=4, help="populations that never mix")
    if steps:
        command.add_argument("--steps", type=int, default=50, help="denoising steps")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, action="append", help="a picture, or all of the result to .json; out.png")
    return command


if __name__ == "__main__":
    main()
