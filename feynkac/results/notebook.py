"""A result as a notebook shows it: a small table without scripts, in which nothing is markup but ours."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from feynkac.results.ranking import rank_samples
from feynkac.results.summary import has_pictures, tell_course, tell_evidence
from feynkac.results.text import shorten, write_sample

if TYPE_CHECKING:
    from feynkac.results.result import Result

ROWS = 10
"""Distinct samples that are shown."""
WIDTH = 240
"""Characters of a sample that are shown."""
_CELL = "text-align:left;vertical-align:top"


def write_html(result: Result) -> str:
    """The posterior, how the run went, and what to doubt."""
    parts = [_write_posterior(result), *(f"<div>{_show(line)}</div>" for line in _list_lines(result))]
    parts += [f'<div style="color:#b45309"><b>warning:</b> {_show(said)}</div>' for said in result.warnings]
    return f"<div>{''.join(parts)}</div>"


def _list_lines(result: Result) -> list[str]:
    return [tell_evidence(result), *tell_course(result)]


def _write_posterior(result: Result) -> str:
    if has_pictures(result):
        shape = " x ".join(map(str, result.samples[0].shape))
        return f"<div>{len(result.samples)} samples of {shape}: see .plot()</div>"
    shown = rank_samples(result.samples, result.weights)
    lines = [
        f'<tr><td style="text-align:right;vertical-align:top">{share:.1%}</td>'
        f'<td style="{_CELL};white-space:pre-wrap">{_show(shorten(write_sample(sample), WIDTH))}</td></tr>'
        for sample, share in shown[:ROWS]
    ]
    if len(shown) > ROWS:
        lines.append(f'<tr><td></td><td style="{_CELL}">and {len(shown) - ROWS} more</td></tr>')
    head = f'<tr><th>probability</th><th style="{_CELL}">sample</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


def _show(text: str) -> str:
    """A text as it reads: nothing in it is markup, moves the cursor or turns the direction of writing."""
    return html.escape(shorten(text, 10 * WIDTH))
