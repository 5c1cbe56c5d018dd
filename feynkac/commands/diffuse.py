"""`feynkac diffuse`: reward-guided sampling from a pipeline folder of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feynkac.base.errors import ArgumentError
from feynkac.commands.options import (
    DEMO,
    Algorithm,
    Arg,
    Device,
    Dtype,
    EssThreshold,
    Islands,
    Out,
    Particles,
    Report,
    Resampler,
    Seed,
    Sweeps,
    find_function,
    parse_arguments,
    read_options,
    steer_and_report,
    tell_written,
)
from feynkac.results.outputs import check_folder, check_outputs, write_outputs

if TYPE_CHECKING:
    from feynkac.results.result import Result


def diffuse(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE_FOLDER", help="As save_pretrained writes it; or demo.")],
    reward: Annotated[
        list[str] | None, typer.Option(help="module:function or file.py:function of an image (C, H, W) from 0 to 1.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Leave it out for unconditional ones.")] = None,
    scale: Annotated[float, typer.Option(help="Nats for each unit of reward.")] = 10.0,
    potential_kind: Annotated[
        str, typer.Option(help="How rewards on the way guide: difference, max or sum. The target is the same.")
    ] = "difference",
    every: Annotated[str, typer.Option(help="Ask the reward every so many steps, or at the end only.")] = "1",
    pil: Annotated[bool, typer.Option("--pil", help="The reward takes a PIL image instead.")] = False,
    batch: Annotated[bool, typer.Option("--batch", help="The reward takes all images at once.")] = False,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    eta: Annotated[float | None, typer.Option(help="Noise of the sampler; flow models need it.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance, if not the default.")] = None,
    arg: Arg = None,
    particles: Particles = 8,
    algorithm: Algorithm = "smc",
    resampler: Resampler = "ssp",
    ess_threshold: EssThreshold = 0.5,
    islands: Islands = 1,
    sweeps: Sweeps = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = None,
    out: Out = None,
    samples: Annotated[Path | None, typer.Option(help="Write every image to this folder.")] = None,
) -> None:
    """Sample images from a diffusion pipeline, steered by a reward of your own, and picture how it went.

    Without --out the picture (particles, family tree, effective sample size) is grid.png.
    """
    import feynkac as fk
    from feynkac.models.diffusion.folder import DEMO as DIGITS, open_pipeline

    out = out or [Path("grid.png")]
    check_outputs(out)
    if samples is not None:
        check_folder(samples, "--samples")
    if not reward:
        raise ArgumentError("--reward is missing: name a function of an image, as module:function or file.py:function")
    options = read_options(
        algorithm=algorithm, particles=particles, islands=islands, resampler=resampler, ess_threshold=ess_threshold,
        sweeps=sweeps, seed=seed,
    )  # fmt: skip
    kind: Any = potential_kind  # checked, with advice, by fk.reward
    potentials = [fk.reward(_make_scorer(name, pil), scale, kind, _parse_every(every), batch) for name in reward]
    call = parse_arguments(arg or []) | ({} if guidance_scale is None else {"guidance_scale": guidance_scale})
    pipe = open_pipeline(DIGITS if pipeline == DEMO else pipeline, "float32" if dtype == "auto" else dtype, device)
    _check_prompt(pipe, prompt)
    model = fk.Diffusion.from_pipeline(pipe, steps, eta).prompt(prompt, **call)
    if algorithm != "gibbs":  # which counts sweeps by itself
        options |= {"progress": False, "observers": [_make_bar(steps)]}
    steer_and_report(model, *potentials, report=_show_and_write(out, samples), **options)


def _show_and_write(out: list[Path], samples: Path | None) -> Report:
    """A report that says how it went, and writes what was asked for, whatever becomes of the terminal."""
    from feynkac.results.pictures.saving import save_samples

    def report(result: Result) -> None:
        try:
            result.show()
        finally:
            names = None if samples is None else save_samples(result.samples, samples)
            write_outputs(result, out, names)
        tell_written([*out, samples])

    return report


def _make_scorer(name: str, pil: bool) -> Any:
    from feynkac.models.diffusion.decoding import on_pil

    f = find_function(name)
    return on_pil(f) if pil and callable(f) else f


def _parse_every(text: str) -> Any:
    return int(text) if text.isdecimal() else text  # checked, with advice, by fk.reward


def _check_prompt(pipe: Any, prompt: str | None) -> None:
    """Refuse a prompt that would not be heard, and a prompt that is missing."""
    from feynkac.models.diffusion.pipeline_arguments import list_names

    hears, name = "prompt" in (list_names(pipe) or ["prompt"]), type(pipe).__name__
    if prompt is not None and not hears:
        raise ArgumentError(f"{name} is unconditional: it takes no prompt; leave --prompt out")
    if prompt is None and hears:
        raise ArgumentError(f"{name} needs --prompt; an empty one will do: --prompt ''")


def _make_bar(steps: int) -> Any:
    from feynkac.smc.progress import Progress

    return Progress(steps)
