"""The tables and the picture of what was saved, and where they are put."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers.cases import Case
from peers.registry import PEERS, ROOT
from peers.tables import describe, number, write_evidence, write_figures, write_laws, write_lazy, write_speed

PICTURE = ROOT / "docs" / "peers.png"
PAGES: dict[Path, dict[str, Callable[[dict[str, Any]], str]]] = {}
"""What is written between the markers of each page."""


def describe_all(told: dict[str, Any]) -> str:
    """The machine and the versions, in a sentence."""
    machine, versions = told["machine"], {"transformers": told["machine"]["transformers"]}
    for row in told["rows"]:
        if (own := row.get("versions")) and (package := PEERS[row["peer"]].package) in own:
            other = own["transformers"] != machine["transformers"]
            versions[package] = own[package] + (f" (on transformers {own['transformers']})" if other else "")
    dates = sorted({row["date"] for row in told["rows"]})
    packages = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads in all, "
        f"{machine['memory GiB']:g} GiB; torch {machine['torch']}; {packages}; {when}."
    )


def write_all(told: dict[str, Any]) -> str:
    """All tables, each below its heading."""
    parts = [
        ("### Figures to reach", write_figures(told)), ("### Time, positions, memory", write_speed(told)),
        ("### Log evidence over seeds", write_evidence(told)), ("### Checks of one text at a time", write_lazy(told)),
        ("### The laws", write_laws(told)),
    ]  # fmt: skip
    return "\n\n".join([describe_all(told), *(f"{head}\n\n{body}" for head, body in parts if body)])


def write_short(told: dict[str, Any]) -> str:
    """For the README: what was to be reached, and the machine."""
    picture = f"![Tokens a second of each library at each task](docs/{PICTURE.name})"
    return f"{write_figures(told)}\n\n{picture}\n\n{describe_all(told)}"


PAGES[ROOT / "benchmarks" / "README.md"] = {"peers": write_all}
PAGES[ROOT / "README.md"] = {"peers, in short": write_short}


def put(text: str, name: str, page: str) -> str:
    """`page` with `text` between the two markers of `name`. Raises ValueError where it has not got them."""
    begin, end = f"<!-- {name}: written by make bench-peers -->", f"<!-- {name}: end -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for {name!r}: it needs the lines {begin} and {end}")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def write_report(results: Path) -> None:
    """Put the tables into their pages, and draw the picture."""
    told = json.loads(results.read_text())
    for page, parts in PAGES.items():
        text = page.read_text(encoding="utf-8")
        for name, write in parts.items():
            text = put(write(told), name, text)
        page.write_text(text, encoding="utf-8")
    from peers.picture import draw

    draw(told, PICTURE)


def show_case(case: Case, rows: list[dict[str, Any]]) -> str:
    """A case as it is printed while the rest still runs."""
    lines = [describe(vars(case))]
    for row in rows:
        told = f"failed: {row['error']}" if "error" in row else "{:>9} s {:>9} tokens/s {:>10} positions".format(
            *(number(row[name]) for name in ("seconds", "tokens/s", "positions"))
        )  # fmt: skip
        lines.append(f"    {row['peer']:18}{told}")
    return "\n".join(lines)
