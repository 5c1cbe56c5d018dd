"""Constraints for pip: each requirement in pyproject.toml, to build, run or develop feynkac, at its lowest version."""

import re
import sys
import tomllib
from pathlib import Path

pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
project = pyproject["project"]
groups = [pyproject["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
lowest = {}
for requirement in sorted({requirement for group in groups for requirement in group}):
    found = re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)(?:,<[\w.]+)?(?:; .*)?", requirement)
    if found is None:
        sys.exit(f"{requirement!r} in pyproject.toml gives no lowest version; write name>=version")
    name, version = found.groups()
    if lowest.setdefault(name, version) != version:
        sys.exit(f"{name} has two lowest versions in pyproject.toml, {lowest[name]} and {version}; write one")
for name, version in lowest.items():
    print(f"{name}=={version}")
