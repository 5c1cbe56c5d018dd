"""What pyproject.toml cannot say: the README as an index of packages shows it, away from the files it points to."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def show_readme() -> str:
    """README.md with relative links made absolute by the project's `Repository`; without one they cannot be followed.

    A link is then its text alone, and a picture is left out.
    """
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if base := urls.get("Repository"):
        return LINK.sub(lambda m: f"{m[1]}[{m[2]}]({base}/{'raw' if m[1] else 'blob'}/main/{m[3]})", text)
    return LINK.sub(lambda m: "" if m[1] else m[2], text)


setup(long_description=show_readme(), long_description_content_type="text/markdown")
