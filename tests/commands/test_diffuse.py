"""`feynkac diffuse` on the trained digits, at few steps."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from feynkac.commands.cli import app, main
from feynkac.results.result import Result

pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
pytest.importorskip("matplotlib", reason="pip install 'feynkac[plot]'")
Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

DIGITS = "demo"
FAST = ["-n", "4", "--steps", "3", "--seed", "0"]
REWARDS = """
import os
import signal
from pathlib import Path

calls = 0

def bright(image):
    assert image.shape == (1, 8, 8) and 0 <= image.min() and image.max() <= 1
    return image.mean()

def of_pil(image):
    assert image.size == (8, 8) and image.mode == "L"
    return image.getpixel((0, 0)) / 255

def of_all(images):
    assert images.shape[1:] == (1, 8, 8)
    return images.mean((1, 2, 3))

def stops(image):
    global calls
    calls += 1
    if calls > 6:
        raise KeyboardInterrupt
    return 0.0

def breaks(image):
    global calls
    calls += 1
    return float("nan") if calls > 6 else 0.0

def is_told(image):
    global calls
    calls += 1
    if calls == 6:  # in the second step
        signal.raise_signal(int(os.environ["NUMBER"]))
    return 0.0

def swallows(image):
    try:
        return is_told(image)
    except:
        return 0.0

def blocks(image):
    Path("images").touch()
    return 0.0

def kills(image):
    return float("-inf")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with rewards.py."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["diffuse", DIGITS, *FAST, *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def run_main(*arguments: str) -> None:
    before, sys.argv = sys.argv, ["feynkac", "diffuse", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def test_everything_at_once(folder) -> None:
    said = invoke(
        "--reward", "rewards.py:bright", "--scale", "30", "--potential-kind", "max", "--every", "2", "--islands", "2",
        "--eta", "1.0", "--out", "picture.pdf", "--out", "page.html", "--out", "result.json", "--samples", "images",
    )  # fmt: skip
    assert "log evidence" in said and "wrote picture.pdf, page.html, result.json, images" in said
    assert (folder / "picture.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "page.html").read_text(encoding="utf-8").count("data:image/png") == 4
    result = Result.from_json(folder / "result.json")
    assert result.samples == [f"particle_{i:03d}.png" for i in range(4)] and len(result.history.levels) == 3
    # The last levels are 30 times the brightness of the images that were saved, to 8 bits.
    images = [np.asarray(Image.open(folder / "images" / name)) for name in result.samples]
    bright = 30 * np.array([image.mean() for image in images]) / 255
    np.testing.assert_allclose(result.history.levels[-1], bright, atol=30 * 0.5 / 255)
    assert [image.shape for image in images] == [(8, 8)] * 4


@pytest.mark.parametrize("more", [["rewards.py:of_pil", "--pil"], ["rewards.py:of_all", "--batch"]])
def test_what_the_reward_is_given(folder, more: list[str]) -> None:
    assert "wrote grid.png" in invoke("--reward", *more)
    with Image.open("grid.png") as image:
        assert image.format == "PNG" and min(image.size) > 500


def test_a_batch_scores_as_one_by_one(folder) -> None:
    invoke("--reward", "rewards.py:of_all", "--batch", "--out", "batch.json")
    invoke("--reward", "rewards.py:bright", "--out", "one.json")
    batch, one = Result.from_json("batch.json"), Result.from_json("one.json")
    np.testing.assert_allclose(batch.log_weights, one.log_weights, atol=1e-5)
    assert batch.samples == [None] * 4


@pytest.mark.parametrize("algorithm", ["importance", "beam", "gibbs"])
def test_algorithms(folder, algorithm: str) -> None:
    assert "wrote grid.png" in invoke("--reward", "rewards.py:bright", "--algorithm", algorithm)


def test_ctrl_c_keeps_what_there_is(folder) -> None:
    said = invoke("--reward", "rewards.py:stops", "--out", "result.json", "--samples", "images")
    assert "stopped after step 0" in said and "wrote result.json, images" in said
    result = Result.from_json("result.json")
    assert not result.complete and len(list((folder / "images").iterdir())) == 4


@pytest.mark.parametrize("reward", ["breaks", "kills"])
def test_an_error_keeps_what_there_is(folder, capsys, reward: str) -> None:
    with pytest.raises(SystemExit):
        run_main(DIGITS, *FAST, "--reward", f"rewards.py:{reward}")
    said = capsys.readouterr()
    assert said.err.count("error: ") == 1 and "Traceback" not in said.err
    assert said.out.count("log evidence") == 1 and (folder / "grid.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DIGITS], "--reward is missing"),
        (["nowhere", "--reward", "rewards.py:bright"], "nowhere is no folder"),
        ([".", "--reward", "rewards.py:bright"], "no model_index.json"),
        ([DIGITS, "--reward", "rewards.py:nothing"], "nothing"),
        ([DIGITS, "--reward", "rewards.py"], "module:function"),
        ([DIGITS, "--reward", "rewards.py:calls"], "function of the sample"),
        ([DIGITS, "--reward", "rewards.py:bright", "--prompt", "a cat"], "takes no prompt"),
        ([DIGITS, "--reward", "rewards.py:bright", "--scale", "nan"], "scale"),
        ([DIGITS, "--reward", "rewards.py:bright", "--potential-kind", "mean"], "'difference', 'max', 'sum'"),
        ([DIGITS, "--reward", "rewards.py:bright", "--every", "never"], "never"),
        ([DIGITS, "--reward", "rewards.py:bright", "--eta", "0"], "noise"),
        ([DIGITS, "--reward", "rewards.py:bright", "--steps", "0"], "steps is 0; it must be an integer of at least 1"),
        ([DIGITS, "--reward", "rewards.py:bright", "--steps", "2000"], "cannot be set to 2000 steps"),
        ([DIGITS, "--reward", "rewards.py:bright", "--guidance-scale", "3"], "guidance_scale"),
        ([DIGITS, "--reward", "rewards.py:bright", "-n", "0"], "at least 1"),
        ([DIGITS, "--reward", "rewards.py:bright", "--dtype", "float31"], "float31"),
        ([DIGITS, "--reward", "rewards.py:bright", "--device", "moon"], "moon"),
        ([DIGITS, "--reward", "rewards.py:bright", "--out", "grid.doc"], "ending"),
        ([DIGITS, "--reward", "rewards.py:bright", "--out", "no/grid.png"], "no folder no"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main(*arguments)
    shown = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1
    assert [line for line in shown if line.startswith("error: ") and message in line]
    assert not any("Traceback" in line for line in shown) and not (folder / "grid.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "rewards.py"], "--samples rewards.py: "),
        (["--samples", "rewards.py/in/it"], "rewards.py is no folder; name a folder"),
        (["--samples", "locked/new"], "permission denied"),
        (["--out", "."], "--out . is a folder; name a file in it"),
        (["--out", "no/result.json"], "--out no/result.json: there is no folder no"),
        (["--out", "locked/result.json"], "--out locked/result.json cannot be written: permission denied"),
        (["--out", "dir.png"], "--out dir.png is a folder; name a file in it"),
        (["--out", "rewards.py/grid.png"], "there is no folder rewards.py"),
        (["--out", "one.svg", "--out", "./one.svg"], "--out one.svg is given twice; leave one out"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_run(folder, capsys, monkeypatch, arguments, message) -> None:
    (folder / "dir.png").mkdir()
    (folder / "locked").mkdir()
    # As it is where the user is not root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK or "locked" not in str(path))
    with pytest.raises(SystemExit) as stop:
        run_main(DIGITS, *FAST, "--reward", "rewards.py:is_never_asked", *arguments)
    said = capsys.readouterr()
    assert stop.value.code == 1 and said.err.startswith("error: ") and message in said.err
    assert said.err.count("\n") == 1 and "log evidence" not in said.out


def test_a_folder_that_is_missing_is_made(folder) -> None:
    invoke("--reward", "rewards.py:bright", "--samples", "new/images")
    assert len(list((folder / "new" / "images").iterdir())) == 4


def test_what_can_no_longer_be_written_is_told_after_the_figures(folder, capsys) -> None:
    with pytest.raises(SystemExit):
        run_main(DIGITS, *FAST, "--reward", "rewards.py:blocks", "--samples", "images")
    said = capsys.readouterr()
    assert "log evidence" in said.out and "error: cannot write" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("reward", ["is_told", "swallows"])
@pytest.mark.parametrize("algorithm", ["smc", "gibbs"])
def test_a_run_that_is_stopped_keeps_what_there_is_and_says_so(
    folder, capsys, monkeypatch, number, code, reward, algorithm
) -> None:
    monkeypatch.setenv("NUMBER", str(int(number)))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, format: file.write(b"a picture"))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        run_main(DIGITS, *FAST, "--reward", f"rewards.py:{reward}", "--algorithm", algorithm, "--out", "result.json",
                 "--out", "grid.png", "--samples", "images")  # fmt: skip
    said = capsys.readouterr()
    assert stop.value.code == code and "Traceback" not in said.err and "stopped after step" in said.out
    result = Result.from_json("result.json")
    assert not result.complete and len(result.history.ess) == (1 if reward == "is_told" else 2)
    assert len(list((folder / "images").iterdir())) == 4 and (folder / "grid.png").exists()
    assert signal.getsignal(number) is before


def test_prompt_and_arguments_reach_the_pipeline(folder, capsys, monkeypatch) -> None:
    from diffusers import DDIMPipeline

    from feynkac.models.diffusion import folder as folders

    heard = []

    class Prompted(DDIMPipeline):
        def __call__(self, prompt, guidance_scale=7.5, style="", batch_size=1, generator=None, num_inference_steps=50,
                     output_type="pil"):  # fmt: skip
            heard.append((prompt, guidance_scale, style))
            return super().__call__(batch_size, generator, 0.0, num_inference_steps, None, output_type)

    pipe = folders.open_pipeline(folders.DEMO)
    monkeypatch.setattr(folders, "open_pipeline", lambda *_: Prompted(pipe.unet, pipe.scheduler))
    invoke("--reward", "rewards.py:bright", "-p", "a cat", "--guidance-scale", "3", "-a", "style=plain")
    assert heard == [("a cat", 3.0, "plain")]
    with pytest.raises(SystemExit):
        run_main(DIGITS, *FAST, "--reward", "rewards.py:bright")
    assert "Prompted needs --prompt" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "extra"), [("diffusers", "diffusion"), ("matplotlib", "plot")])
def test_missing_packages_are_named(folder, capsys, monkeypatch, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit):
        run_main(DIGITS, *FAST, "--reward", "rewards.py:bright")
    assert f"pip install 'feynkac[{extra}]'" in capsys.readouterr().err
