"""`feynkac generate`: continue a prompt under constraints and rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from feynkac.base.errors import ArgumentError
from feynkac.commands.edits import edit_model
from feynkac.commands.options import (
    Algorithm,
    Device,
    Dtype,
    EssThreshold,
    Islands,
    Out,
    Particles,
    Resampler,
    Seed,
    Sweeps,
    find_function,
    load_model,
    read_options,
    show_and_write,
    steer_and_report,
)
from feynkac.results.outputs import check_outputs


def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id or folder of a causal language model, or demo.")],
    regex: Annotated[str | None, typer.Option(help="The generated text matches this regular expression.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="It is valid under the JSON Schema in this file.")] = None,
    grammar: Annotated[
        Path | None, typer.Option(help="It is in the language of the Lark grammar in this file.")
    ] = None,
    reward: Annotated[list[str] | None, typer.Option(help="module:function or file.py:function of the text.")] = None,
    scale: Annotated[float, typer.Option(help="Nats for each unit of reward.")] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message to a chat model.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Generated tokens at most.")] = 100,
    at_limit: Annotated[str, typer.Option(help="What the limit means: truncate or end.")] = "truncate",
    stop: Annotated[list[str] | None, typer.Option(help="End the text with this string.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the model's law, as are the next five.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="So many of the likeliest tokens are left.")] = None,
    top_p: Annotated[float | None, typer.Option(help="The likeliest tokens that have this mass are left.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Tokens are left with this share of the likeliest one's probability.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1, a token comes again less often.")] = None,
    no_repeat_ngram_size: Annotated[int | None, typer.Option(help="No sequence of so many tokens comes twice.")] = None,
    power: Annotated[float | None, typer.Option(help="The target is the law of whole texts to this power.")] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(help="Edit the model by a file of save_edits or of a Direction: FILE, or FILE:STRENGTH."),
    ] = None,
    emphasis: Annotated[list[str] | None, typer.Option(help="Attention is drawn to this part of the prompt.")] = None,
    particles: Particles = 16,
    algorithm: Algorithm = "smc",
    resampler: Resampler = "ssp",
    ess_threshold: EssThreshold = 0.5,
    islands: Islands = 1,
    sweeps: Sweeps = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = None,
    out: Out = None,
) -> None:
    """Continue a prompt under constraints and rewards, and show the posterior."""
    import feynkac as fk
    from feynkac.base.numbers import read_whole
    from feynkac.models.language.laws.law import read_law

    check_outputs(out or [])
    potentials: list[Any] = []
    if regex is not None:
        potentials.append(fk.regex(regex))
    if json_schema is not None:
        potentials.append(fk.json_schema(_read(json_schema)))
    if grammar is not None:
        potentials.append(fk.grammar(_read(grammar)))
    if power is not None:
        potentials.append(fk.power(power))
    read_whole("max_tokens", max_tokens, 1)  # as is all below, before a model is loaded
    potentials += [fk.reward(find_function(name), scale=scale) for name in reward or []]
    options = read_options(
        algorithm=algorithm, particles=particles, islands=islands, resampler=resampler, ess_threshold=ess_threshold,
        sweeps=sweeps, seed=seed,
    )  # fmt: skip
    limit: Any = at_limit  # checked, with advice, by CausalLM.prompt
    law: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    law |= {"repetition_penalty": repetition_penalty, "no_repeat_ngram_size": no_repeat_ngram_size}
    read_law(**law, logits_processor=())
    lm = edit_model(load_model(model, dtype, device), edit or [], emphasis or [])
    text, message = (None, prompt) if chat else (prompt, None)
    task = lm.prompt(text, chat=message, max_tokens=max_tokens, stop=stop or (), at_limit=limit, **law)
    steer_and_report(task, *potentials, report=show_and_write(out or []), **options)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors may put a byte order mark before it
    except (OSError, UnicodeDecodeError) as cause:
        raise ArgumentError(f"cannot read {path}: {cause}") from cause
