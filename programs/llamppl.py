"""The modules of `feynkac.programs.compat.llamppl` by a shorter path: each is the one there, under a second name."""

import importlib
import pkgutil
import sys

from feynkac.programs.compat import llamppl

sys.modules[__name__] = llamppl
for _found in pkgutil.walk_packages(llamppl.__path__, f"{llamppl.__name__}."):
    sys.modules[_found.name.replace(llamppl.__name__, __name__, 1)] = importlib.import_module(_found.name)
