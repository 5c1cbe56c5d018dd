"""The example of the room's README, as it stands, on a server whose steps are good or bad."""

from __future__ import annotations

import math
import re
from pathlib import Path

from fake_server import END, FakeServer

README = Path(__file__).parents[3] / "models" / "served" / "README.md"
NAME = "Qwen/Qwen2.5-1.5B-Instruct"
STEP = {"good": 0.3, "bad": 0.6, END: 0.1}


def test_particle_filtering_with_a_process_reward_model_in_ten_lines(capsys) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    program = block.split("@fk.program\n")[1].strip().splitlines()
    assert len([line for line in program if line]) == 10
    asked = []

    def prm(texts):
        asked.append(len(texts))
        return [-math.inf if "bad" in text else text.count("good") for text in texts]

    names = {"prm": prm}
    with FakeServer({"\n\n": STEP, "good": {"\n\n": 1.0}, "bad": {"\n\n": 1.0}}, name=NAME) as server:
        exec(compile(block.replace("http://localhost:8000/v1", server.url), str(README), "exec"), names)
        assert {body["temperature"] for body in server.asked} == {0.8}
        names["lm"].close()
    assert "good" in capsys.readouterr().out and max(asked) > 1  # the verifier sees many texts at once
