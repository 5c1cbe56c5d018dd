"""`feynkac demo`: a real language model, a pattern, a schema and a reward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

import feynkac as fk
from feynkac.base.escaping import escape as escape_controls
from feynkac.base.extras import needing
from feynkac.commands.options import DEMO, load_model, tell_written
from feynkac.results.outputs import PAGE, check_outputs
from feynkac.results.result import Result

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "city": {"type": "string", "maxLength": 20},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
OPENING = "It was a dark and windy night, and"
PATTERN = r"[^eE\n]{80,}"
ISLANDS = 4
TOKENS = 30


def run(particles: int, seed: int, model: str | None, out: Path | None = None) -> None:
    """Show the three acts, one after the other, and write the page `out` of their runs."""
    if out is not None:
        check_outputs([out])
        if out.suffix.lower() != PAGE:
            raise fk.ArgumentError(f"--out {out}: the demo writes a page of its runs, and its ending must be .html")
    console = Console(highlight=False)
    particles = max(particles // ISLANDS, 1) * ISLANDS
    sentiment = _sentiment()  # what is missing is told before the first act
    lm = load_model(model or DEMO, "auto", None)
    options = {"particles": particles, "islands": ISLANDS, "seed": seed}
    acts = [_pattern(console, lm, options), _schema(console, lm, options), _reward(console, lm, sentiment, options)]
    if out is not None:
        fk.write_page(acts, out)
        tell_written([out])
    console.print("\nEvery figure above can be had for a task of your own: see the README's first five minutes.")


def _pattern(console: Console, lm: fk.CausalLM, options: dict[str, Any]) -> Result:
    _title(
        console, "1. At least 80 characters without the letter e",
        f'fk.steer(lm.prompt("{OPENING}", max_tokens={TOKENS}), fk.regex(r"{PATTERN}"))',
    )  # fmt: skip
    result = fk.steer(lm.prompt(OPENING, max_tokens=TOKENS), fk.regex(PATTERN), **options)
    _show(console, result)
    odds = np.exp(min(-result.log_evidence, 700.0))
    console.print(f"[dim]The model alone writes such a text about once in {odds:,.0f} tries.[/dim]")
    return result


def _schema(console: Console, lm: fk.CausalLM, options: dict[str, Any]) -> Result:
    _title(
        console, "2. A JSON object under a schema",
        'fk.steer(lm.prompt(chat="Invent a person, as JSON.", max_tokens=60), fk.json_schema(schema))',
    )  # fmt: skip
    task = lm.prompt(chat="Invent a person with name, age and city. Answer with one JSON object.", max_tokens=60)
    result = fk.steer(task, fk.json_schema(SCHEMA), **options)
    _show(console, result)
    parsed = [json.loads(text) for text in result.posterior()]
    console.print(f"[dim]All {len(parsed)} distinct samples parse, e.g. {escape(str(parsed[0]))}[/dim]")
    return result


def _reward(console: Console, lm: fk.CausalLM, sentiment: Callable[[str], float], options: dict[str, Any]) -> Result:
    _title(
        console, "3. A reward: sentiment, against plain sampling at the same cost",
        'fk.steer(lm.prompt("When I think about my day, I feel", max_tokens=30), fk.reward(sentiment, scale=4))',
    )  # fmt: skip
    task = lm.prompt("When I think about my day, I feel", max_tokens=TOKENS)
    steered = fk.steer(task, fk.reward(sentiment, scale=4.0, every="word"), **options)
    plain = fk.steer(task, **options)
    _show(console, steered)
    table = Table("", "mean sentiment (-1 to 1)", "tokens forwarded", "seconds")
    for name, result in (("plain sampling", plain), ("steered", steered)):
        mean = f"{result.expectation(sentiment):+.2f}"
        table.add_row(name, mean, str(result.forwarded_tokens), f"{result.timing.total:.1f}")
    console.print(table)
    return steered


def _title(console: Console, title: str, code: str) -> None:
    console.print()
    console.print(Panel(f"[cyan]{escape(code)}[/cyan]", title=f"[bold]{title}[/bold]", title_align="left"))


def _show(console: Console, result: Result) -> None:
    console.print(escape(escape_controls(result.summary(5), keep="\n")), soft_wrap=True)


def _sentiment() -> Callable[[str], float]:
    with needing("demo", "the demo's reward is vaderSentiment"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    analyzer = SentimentIntensityAnalyzer()
    return lambda text: analyzer.polarity_scores(text)["compound"]
