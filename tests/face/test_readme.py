"""The README's first five minutes, typed as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from feynkac.cli import app

README = Path(__file__).parents[2] / "README.md"


def test_the_first_five_minutes(smollm2, capsys) -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text.split("## The first five minutes")[1].split("\n## ")[0], re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert "log evidence" in capsys.readouterr().out
    assert names["result"].log_evidence > -50 and len(names["two"].samples) == 16


def test_the_shell_line_is_a_command(smollm2) -> None:
    line = re.search(r"`feynkac (generate[^`]*)`", README.read_text(encoding="utf-8"))
    assert line is not None
    arguments = [str(smollm2) if word == "MODEL" else word for word in shlex.split(line.group(1))]
    done = CliRunner().invoke(app, [*arguments, "--max-tokens", "4"])
    assert done.exit_code == 0, done.output
