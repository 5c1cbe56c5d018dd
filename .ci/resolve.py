"""Does pip find releases for each supported Python: the newest of everything, and of Python 3.11 the lowest allowed?

Nothing is installed, and only metadata is fetched. Wheels alone count: what a user would have to build is not there.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def resolve(python: str, *options: str) -> str:
    """What pip says is wrong; an empty text if all is found."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [each for name, group in project["optional-dependencies"].items() if name != "dev" for each in group]
    command = [
        sys.executable,
        "-m",
        "pip",
        "-qq",
        "--disable-pip-version-check",
        "install",
        "--dry-run",
        "--target",
        "x",
    ]
    command += ["--ignore-installed", "--only-binary", ":all:", "--python-version", python, *options]
    done = subprocess.run([*command, *project["dependencies"], *extras], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def main() -> None:
    """Try all, and say which are not found."""
    lowest = subprocess.run([sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True)
    constraints = Path(sys.argv[1])
    constraints.write_text(lowest.stdout)
    tried = [(f"newest, Python {python}", resolve(python)) for python in PYTHONS]
    tried.append((f"lowest, Python {PYTHONS[0]}", resolve(PYTHONS[0], "--constraint", str(constraints))))
    for name, wrong in tried:
        print(f"{name}: {'not found' if wrong else 'found'}\n{wrong}".rstrip())
    sys.exit(any(wrong for _, wrong in tried))


if __name__ == "__main__":
    main()
