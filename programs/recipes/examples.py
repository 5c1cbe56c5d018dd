"""Examples for prompts: turns of a chat, and which of many examples are nearest to a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from feynkac.base.errors import ArgumentError, FeynkacError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import read_whole
from feynkac.programs.recipes.asking import read_texts

T = TypeVar("T")


def write_turns(pairs: Sequence[tuple[str, str]], last: str) -> list[dict[str, str]]:
    """The messages of a chat in which each (user, assistant) pair has been said before the user says `last`."""
    said = [("user", last)]
    for user, assistant in reversed(pairs):
        said[:0] = [("user", user), ("assistant", assistant)]
    return [{"role": role, "content": content} for role, content in said]


def find_nearest(
    text: str,
    examples: Sequence[T],
    embed: Callable[[list[str]], Any],
    shots: int = 3,
    key: Callable[[T], str] | None = None,
) -> list[T]:
    """The `shots` examples that are nearest to `text` in meaning, the nearest one last, where a model heeds it most.

        from sentence_transformers import SentenceTransformer
        find_nearest(question, examples, SentenceTransformer("all-MiniLM-L6-v2").encode)

    `embed` maps K texts to (K, d) numbers, which are compared by their cosine. `key` gives the text of an example; by
    default it is its first field (or the example, if that is a text). Raises ArgumentError for what is no such array,
    and for rows that are zero or not finite.
    """
    shots = read_whole("shots", shots, 0)
    given = as_list(examples)
    if given is None or not callable(embed) or not (key is None or callable(key)):
        raise ArgumentError(
            f"find_nearest(examples={quote(examples, 40)}, embed={quote(embed, 40)}, key={quote(key, 40)}): give a "
            "list of examples, and functions"
        )
    read = key or (lambda example: example if isinstance(example, str) else example[0])  # pyright: ignore[reportIndexIssue]
    if not given or not shots:
        return []
    examples = given
    try:
        texts = read_texts("find_nearest", [text, *map(read, examples)])
        rows = np.asarray(embed(texts), np.float64)
    except FeynkacError:
        raise
    except Exception as cause:
        raise ArgumentError(
            f"find_nearest: {type(cause).__name__}: {cause}; embed gives (K, d) numbers of K texts"
        ) from cause
    if rows.ndim != 2 or len(rows) != 1 + len(examples):
        raise ArgumentError(f"embed gave numbers of shape {rows.shape} for {1 + len(examples)} texts; give (K, d)")
    norms = np.linalg.norm(rows, axis=1)
    if bad := [i for i, norm in enumerate(norms) if not 0.0 < norm < np.inf]:
        raise ArgumentError(
            f"embed gave row {bad[0]} the norm {norms[bad[0]]}; a cosine needs finite numbers, not all 0"
        )
    nearness = rows[1:] @ rows[0] / norms[1:]
    return [examples[i] for i in np.argsort(-nearness, kind="stable")[:shots][::-1]]
