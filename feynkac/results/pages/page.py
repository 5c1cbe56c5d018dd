"""One HTML file of results: style, script and data in it, and nothing that a browser would fetch."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import string
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.writing import write_atomically
from feynkac.results.pages.telling import tell_result
from feynkac.results.posterior import Posterior

if TYPE_CHECKING:
    from feynkac.results.pictures.particles import Kind
    from feynkac.results.result import Result

SCRIPTS = ("data", "tree", "text", "view", "paint", "traces", "panels", "main", "events")
"""The parts of the script, in the order of their use."""
ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""What could end the element that the data stand in, or begin another: inside of JSON these stand in strings alone."""


def write_page(results: Sequence[Result], path: str | os.PathLike[str], kind: Kind | None = None) -> None:
    """Write one page of several results, which are chosen from by a list; of each it is what `Result.to_html` writes.

    Raises ArgumentError for what is no list of results, or an empty one, for samples that are not of that `kind`, and
    for a file that cannot be written.
    """
    listed = as_list(results)
    if not listed or not all(isinstance(each, Posterior) for each in listed):
        raise ArgumentError(f"write_page: there is no result to show in {quote(results)}; give a list of at least one")
    page = make_page([tell_result(result, kind) for result in listed])
    write_atomically(path, page)


def make_page(told: Sequence[dict[str, Any]]) -> bytes:
    """The page of what `tell_result` told of each result.

    Its policy lets no script run and no style apply but these two, named by their hashes, and lets it load nothing but
    pictures that stand in the page. So whatever a text may bring about, it cannot act.
    """
    style, script = read_asset("page.css"), join_scripts()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_name_by_hash(script)}",
            f"style-src {_name_by_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    data = json.dumps({"results": list(told)}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    whole = string.Template(read_asset("page.html"))
    page = whole.substitute(policy=policy, style=style, script=script, data=data.translate(ESCAPED))
    return page.encode("utf-8")


@functools.cache
def join_scripts() -> str:
    """The script, in a scope of its own."""
    parts = "\n".join(read_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


@functools.cache
def read_asset(name: str) -> str:
    """A file of `assets`, its line ends as a browser has them, which are those that it hashes."""
    text = files("feynkac.results.pages").joinpath("assets", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _name_by_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
