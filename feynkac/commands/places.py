"""Where names on the command line come from: the file or the module that the user names, and nothing else.

A folder may hold anything: a `torch.py`, or a `triton.py` that a library would try to import. So no folder is ever put
on the path of the interpreter. What lies beside a named file is seen by the code of that folder alone, and only where
no installed module has the name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

_MACHINERY = ("<frozen importlib", f"{os.path.dirname(importlib.__file__)}{os.sep}")
"""Whose frames stand between the line that imports and the finder that is asked."""


class Beside:
    """Finds the modules that lie in one folder, for who was loaded from there, and those that were `named`."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.named: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`; asked last, when no other finder knows the name."""
        if path is not None or not (name in self.named or self._contains(_find_importer())):
            return None
        return PathFinder.find_spec(name, [self.folder], target)

    def _contains(self, file: str) -> bool:
        """Whether a file is code of this folder, and not of an environment that is kept in it."""
        real = Path(os.path.realpath(file))
        inner = [each for each in map(os.path.realpath, sys.path) if each != self.folder]
        apart = any(real.is_relative_to(each) for each in inner if Path(each).is_relative_to(self.folder))
        return os.path.isabs(file) and real.is_relative_to(self.folder) and not apart


def load_file(place: str) -> ModuleType:
    """The module of a Python file, loaded once. Raises what the file raises, and OSError where there is none."""
    file = Path(place).resolve()
    name = f"file_{file.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    _find_beside(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_module(place: str) -> ModuleType:
    """A module by its dotted name: an installed one, or else one of the folder that one is in.

    Raises ImportError where there is none, and what the module raises.
    """
    _find_beside(Path.cwd()).named.add(place.partition(".")[0])
    return importlib.import_module(place)


def _find_beside(folder: Path) -> Beside:
    """The finder of a folder; there is one for each."""
    real = Path(os.path.realpath(folder))
    for each in sys.meta_path:
        if isinstance(each, Beside) and each.folder == str(real):
            return each
    made = Beside(real)
    sys.meta_path.append(made)
    return made


def _find_importer() -> str:
    """The file whose code asks for a module."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_MACHINERY):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_filename
