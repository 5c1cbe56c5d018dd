"""Packages of extras: whoever needs one says which extra has it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import feynkac as fk
from feynkac.base.errors import FeynkacError, MissingExtra
from feynkac.base.extras import needing
from tests.house.test_imports import MODULES, running

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"scikit-learn": "sklearn"}
WITH_OTHERS = {"PIL": {"plot", "diffusion"}}
"""What the packages of an extra bring along."""


def read_extras() -> dict[str, set[str]]:
    """The names by which optional packages are imported, each with the extras that have it."""
    core = {re.split(r"[^\w.-]", each)[0] for each in PROJECT["dependencies"]}
    found = dict(WITH_OTHERS)
    for extra in PROJECT["optional-dependencies"].keys() - {"dev", "docs", "browser"}:
        wanted = {re.split(r"[^\w.-]", each)[0] for each in PROJECT["optional-dependencies"][extra]}
        for package in wanted - core:
            found.setdefault(IMPORTED_AS.get(package, package), set()).add(extra)
    return found


OPTIONAL = read_extras()
BEHIND = {
    # These run only where another module has asked, or go on without.
    "feynkac.models.language.kernels.decode": "triton",
    "feynkac.models.language.kernels.draws": "triton",
    "feynkac.models.language.kernels.trial": "triton",
    "feynkac.models.language.demo": "gguf",
    "feynkac.models.diffusion.pipeline_source": "diffusers",
    "feynkac.models.served.client": "httpx2",
    "feynkac.programs.recipes.syllables": "pronouncing",
    "feynkac.results.pictures.lineage": "matplotlib",
    "feynkac.results.pictures.style": "matplotlib",
    "feynkac.steering.executors.culprits": "cloudpickle",
    "feynkac.steering.executors.packing": "cloudpickle",
    "feynkac.steering.executors.ray_worker": "ray",
}


def list_unguarded(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The optional packages that `tree` imports outside of `with needing(extra, ...)` of one of their extras."""
    guarded = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and (extra := read_extra(node.items[0].context_expr)):
            guarded |= {each for each in ast.walk(node) if extra in OPTIONAL.get(name_of(each), ())}
    for node in running(tree):
        if name_of(node) in OPTIONAL and node not in guarded:
            yield name_of(node), getattr(node, "lineno", 0)


def read_extra(call: ast.expr) -> str | None:
    """The extra of a call of `needing`; None for anything else."""
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "needing":
        return ast.literal_eval(call.args[0])
    return None


def name_of(node: ast.AST) -> str:
    """The package that a statement imports from; an empty text for other statements."""
    if isinstance(node, ast.Import):
        return node.names[0].name.split(".")[0]
    return (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) and not node.level else ""


@pytest.mark.parametrize("module", MODULES)
def test_an_optional_package_is_imported_by_whoever_says_which_extra_has_it(module: str) -> None:
    found = list(list_unguarded(ast.parse(MODULES[module].read_text(encoding="utf-8"))))
    assert [each for each in found if BEHIND.get(module) != each[0]] == []
    assert (module in BEHIND) <= bool(found), "the list of exceptions has one that is none"


def test_the_walk_sees_what_is_not_guarded() -> None:
    source = """
if TYPE_CHECKING:
    import matplotlib
with needing("plot", "x"):
    from matplotlib.figure import Figure
    import rdkit
def f():
    from sklearn.datasets import load_digits
"""
    assert sorted(list_unguarded(ast.parse(source))) == [("rdkit", 6), ("sklearn", 8)]


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Have `package` not be installed."""
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)


def make_result(sample: Any) -> fk.Result:
    @fk.program
    def returns(p):
        p.sample(fk.Bernoulli(0.5))
        return sample

    return fk.steer(returns(), particles=2, seed=0)


def read_peft() -> Any:
    from feynkac.models.edits.adapters import Adapter

    return Adapter(SimpleNamespace(peft_config={"one": None}, active_adapters=["one"])).matrices


def load_gguf(tmp_path: Path) -> Any:
    from feynkac.models.edits import Direction

    (tmp_path / "d.gguf").touch()
    return Direction.load(tmp_path / "d.gguf")


def score_molecule() -> Any:
    from feynkac.models.discrete import chemistry

    chemistry._rdkit.cache_clear()
    chemistry._molecule.cache_clear()
    return chemistry.valid("C")


def draw_molecule() -> Any:
    return make_result("CCO").plot("molecules")


def find_sentiment() -> Any:
    from feynkac.commands.demo import _sentiment

    return _sentiment()


def classify_digits() -> Any:
    from feynkac.programs.recipes.diffusion.classes import digit_classifier

    return digit_classifier()


def read_digit() -> Any:
    from feynkac.programs.recipes.diffusion.inpainting import digit

    return digit()


def make_pil() -> Any:
    import torch

    from feynkac.models.diffusion import on_pil

    return on_pil(lambda image: 0.0)(torch.zeros(3, 4, 4))


def save_images(tmp_path: Path) -> Any:
    import numpy as np

    return make_result(np.zeros((1, 2, 2))).save_images(tmp_path / "images")


NEEDS: list[tuple[str, str, Callable[..., Any]]] = [
    ("plot", "matplotlib", lambda: make_result("a").plot()),
    ("plot", "PIL", save_images),
    ("pandas", "pandas", lambda: make_result("a").to_pandas()),
    ("molecules", "rdkit", score_molecule),
    ("molecules", "rdkit", draw_molecule),
    ("diffusion", "diffusers", lambda: fk.Diffusion.demo()),
    ("diffusion", "PIL", make_pil),
    ("digits", "sklearn", classify_digits),
    ("digits", "sklearn", read_digit),
    ("served", "httpx2", lambda: fk.ServedLM("http://localhost:1/v1", "model")),
    ("types", "pydantic", lambda: fk.json_schema(list[int])),
    ("adapters", "peft", read_peft),
    ("demo", "gguf", load_gguf),
    ("demo", "vaderSentiment", find_sentiment),
    ("ray", "ray", lambda: fk.RayExecutor(workers=1)),
    ("ray", "cloudpickle", lambda: fk.RayExecutor(workers=1)),
]
WITHOUT_CALLS = {
    "programs": "without it syllables are counted by vowels",
    "kernels": "without it torch computes the same",
    "quantised": "transformers reads such models, and names the package",
    "serving": "for the tests of served models",
    "dev": "for those who work on feynkac",
    "docs": "for those who write its documentation",
    "browser": "for the tests of pages",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("extra", "package", "call"), NEEDS)
def test_a_missing_package_is_told_with_its_extra(monkeypatch, tmp_path, extra, package, call) -> None:
    hide(monkeypatch, package)
    with pytest.raises(MissingExtra, match=re.escape(f"pip install 'feynkac[{extra}]'")) as caught:
        call(tmp_path) if call in (load_gguf, save_images) else call()
    assert isinstance(caught.value, FeynkacError) and isinstance(caught.value, ImportError)


def test_every_extra_is_tried() -> None:
    assert {extra for extra, _, _ in NEEDS} | WITHOUT_CALLS.keys() == PROJECT["optional-dependencies"].keys()


def test_a_package_that_is_there_and_broken_is_told_with_its_reason() -> None:
    told = r"installed and cannot be imported \(no symbol\); install it anew: pip"
    with pytest.raises(MissingExtra, match=told), needing("plot", "pictures are drawn by matplotlib"):
        raise ImportError("no symbol")
