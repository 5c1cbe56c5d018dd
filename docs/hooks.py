"""What `mkdocs build` does beside the pages of docs/: pages that stand elsewhere in the repository, and notebooks.

Links in all pages are written as they are followed in the repository, and are turned into those of the site here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the navigation that docs/ does not hold, and what the notebooks become when they are run."""
    for source in _list_pages(config.nav):
        if source.endswith(".ipynb"):
            for file in _run_notebook(files, source, config):
                files.append(file)
        elif files.get_file_from_path(source) is None:
            files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    config.nav = _rename(config.nav)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has what they name; what it does not have is named only."""
    here = page.file.src_uri
    in_docs = (ROOT / "docs" / here).exists() or here.startswith("notebooks/")
    folder = posixpath.dirname(posixpath.join("docs", here) if in_docs else here)

    def lead(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match.group()
        path, hash_, anchor = target.partition("#")
        repository = posixpath.normpath(posixpath.join(folder, path))
        source = _as_page(repository.removeprefix("docs/"))
        if files.get_file_from_path(source) is None:
            return label
        return f"{image}[{label}]({posixpath.relpath(source, posixpath.dirname(here) or '.')}{hash_}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


def _list_pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _list_pages(entry)]


def _rename(nav: Any) -> Any:
    """The navigation with what notebooks become."""
    if isinstance(nav, str):
        return _as_page(nav)
    if isinstance(nav, dict):
        return {title: _rename(entry) for title, entry in nav.items()}
    return [_rename(entry) for entry in nav]


def _as_page(source: str) -> str:
    return source.removesuffix(".ipynb") + ".md" if source.endswith(".ipynb") else source


def _run_notebook(files: Files, source: str, config: MkDocsConfig) -> list[File]:
    """The page of a notebook, and its pictures."""
    name = posixpath.basename(source).removesuffix(".ipynb")
    notebook: Any = nbformat.read(ROOT / "docs" / source, as_version=4)
    private = Config(KernelManager={"transport": "ipc"})  # else the kernel warns that others may listen
    runner = ExecutePreprocessor(timeout=900, kernel_name="python3", config=private)
    runner.preprocess(notebook, {"metadata": {"path": str(ROOT)}})
    kept: dict[str, Any] = {"unique_key": name, "output_files_dir": name}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources=kept)
    pictures = {posixpath.join(posixpath.dirname(source), path): data for path, data in made["outputs"].items()}

    def make(path: str, content: str | bytes) -> File:
        return File.generated(config, path, content=content)

    return [make(_as_page(source), text), *(make(path, data) for path, data in pictures.items())]
