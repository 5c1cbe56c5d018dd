"""The face: what `import feynkac` loads, and that every public name says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

import feynkac as fk

HEAVY = set(
    [
        "torch",
        "transformers",
        "numba",
        "llvmlite",
        "numpy",
        "scipy",
        "pandas",
        "matplotlib",
        "PIL",
        "sklearn",
        "diffusers",
        "llguidance",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "jsonschema",
        "pydantic",
        "greenlet",
        "tqdm",
        "typer",
        "rich",
        "ray",
        "cloudpickle",
        "rdkit",
        "peft",
        "httpx2",
        "asyncio",
        "concurrent.futures",
        "multiprocessing",
    ]
)
"""What `import feynkac` must not load: it waits until something is asked for."""
IMPORT_SECONDS = 0.5


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(("module", "light"), [("feynkac", set()), ("feynkac.commands.cli", {"typer", "rich"})])
def test_importing_loads_nothing_heavy(module: str, light: set[str]) -> None:
    before = set(run("import sys; print(*sys.modules)"))
    found = set(run(f"import sys, {module}; print(*sys.modules)")) - before
    if module != "feynkac":  # typer brings some of its own
        light = light | set(run("import sys, typer.testing; print(*sys.modules)"))
    assert HEAVY & found - light == set()


def test_importing_takes_less_than_half_a_second() -> None:
    """The best of three, beside that of Python itself: what else the machine does is no fault of ours."""
    begin = "import time; start = time.perf_counter(); import feynkac; print(time.perf_counter() - start)"
    assert min(float(run(begin)[0]) for _ in range(3)) < IMPORT_SECONDS


def test_a_name_that_is_not_there_is_told_with_the_closest() -> None:
    """Python's own hint, in the traceback."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import feynkac as fk; fk.ster"], capture_output=True, text=True, check=False
    )
    assert "module 'feynkac' has no attribute 'ster'. Did you mean: 'steer'?" in done.stderr


def list_members(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties of a class of ours, inherited ones included."""
    for name in dir(kind):
        found = inspect.getattr_static(kind, name)
        found = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        owned = found.fget if isinstance(found, property) else found
        if not name.startswith("_") and inspect.isfunction(owned) and owned.__module__.startswith("feynkac"):
            yield f"{kind.__name__}.{name}", found


MEMBERS = sorted(
    {(name, getattr(fk, name)) for name in fk.__all__ if name != "__version__"}
    | {each for name in fk.__all__ if inspect.isclass(getattr(fk, name)) for each in list_members(getattr(fk, name))},
    key=lambda each: each[0],
)


@pytest.mark.parametrize(("name", "value"), MEMBERS, ids=[name for name, _ in MEMBERS])
def test_every_public_name_is_documented(name: str, value: object) -> None:
    said = inspect.getdoc(value)
    assert (said and said[0].isupper()) or (said or "").startswith(("(", "`")), name
    assert said is not None and said.split("\n\n")[0].rstrip().endswith((".", ":", "?", "`")), said


def test_every_public_name_is_known_to_type_checkers() -> None:
    """Names are loaded on first use, which type checkers do not see: each stands in `if TYPE_CHECKING`, too."""
    source = inspect.getsource(fk).partition("if TYPE_CHECKING:")[2].partition("\ndef ")[0]
    assert {name for name in fk.__all__ if f"{name} as {name}" not in source} == {"__version__"}
