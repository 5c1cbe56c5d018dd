"""The ready programs for diffusion, on the models that come with the repository, at few steps."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.programs.recipes import diffusion as programs
from feynkac.programs.recipes.diffusion import drug_like, inpaint, of_class, rewarded
from feynkac.programs.recipes.diffusion.__main__ import main
from feynkac.programs.recipes.diffusion.classes import digit_classifier
from feynkac.programs.recipes.diffusion.inpainting import digit, left_half, photo
from feynkac.programs.recipes.diffusion.rewards import brightness, symmetry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TRAINED = Path(__file__).parents[2] / "benchmarks" / "train"
STEPS, PARTICLES = 6, 16
DOC = re.compile(r"^ {4}(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def pipe():
    pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
    from feynkac.models.diffusion.folder import open_pipeline

    return open_pipeline(TRAINED / "digits")


def mean(task, f, seed: int = 0) -> tuple[float, float]:
    """The posterior mean of `f` under a program, and its mean under the model alone."""
    model, potential = task
    steered = fk.steer(model, potential, particles=PARTICLES, seed=seed)
    plain = fk.steer(model, particles=PARTICLES, seed=seed)
    return float(steered.expectation(f)), float(plain.expectation(f))


@pytest.mark.parametrize("reward", [brightness, symmetry])
def test_a_reward_is_raised(pipe, reward) -> None:
    steered, plain = mean(rewarded(pipe, reward, scale=100.0, steps=STEPS), reward)
    assert steered > plain + 0.05


def test_rewards_of_known_images() -> None:
    image = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    assert brightness(image) == 0.5 and symmetry(image) == -0.5 and symmetry(image[:, 1:]) == 0.0


def test_a_class_is_found(pipe) -> None:
    pytest.importorskip("sklearn")
    classify = digit_classifier()
    probability = lambda image: classify(image[None])[0, 3].exp()  # noqa: E731
    steered, plain = mean(of_class(pipe, classify, 3, steps=STEPS), probability)
    assert steered > 0.5 > plain


def test_the_evidence_of_a_class_is_its_share(pipe) -> None:
    """Without resampling one seed makes the same images for every label, over which the classes' shares add up to 1."""
    pytest.importorskip("sklearn")
    classify, total = digit_classifier(), 0.0
    for label in range(10):
        model, likelihood = of_class(pipe, classify, label, steps=2)
        total += np.exp(fk.steer(model, likelihood, particles=8, seed=0, algorithm="importance").log_evidence)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_the_classifier_knows_digits() -> None:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.as_tensor(data.images[:200] / 16, dtype=torch.float32)[:, None]
    log_p = digit_classifier()(images)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(200))
    assert (log_p.argmax(1).numpy() == data.target[:200]).mean() > 0.95


def test_what_was_seen_is_completed(pipe) -> None:
    pytest.importorskip("sklearn")
    image = digit(2)
    mask = left_half(image)
    off = lambda sample: ((sample - image)[mask] ** 2).mean()  # noqa: E731
    steered, plain = mean(inpaint(pipe, image, mask, steps=STEPS), off)
    assert steered < 0.5 * plain
    with pytest.raises(ArgumentError, match="mask"):
        inpaint(pipe, image, mask[:, 1:])


def test_a_photo_is_read(tmp_path) -> None:
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(np.full((2, 3, 3), 51, dtype=np.uint8)).save(tmp_path / "a.png")
    torch.testing.assert_close(photo(str(tmp_path / "a.png")), torch.full((3, 2, 3), 0.2))
    with pytest.raises(ArgumentError, match="cannot read"):
        photo(str(tmp_path / "b.png"))


def test_molecules_are_valid_and_like_drugs() -> None:
    pytest.importorskip("rdkit")
    from feynkac.models.discrete.chemistry import qed, valid

    model, target = drug_like(TRAINED / "molecules.safetensors")
    result = fk.steer(model, target, particles=24, seed=0)
    plain = fk.steer(model, particles=24, seed=0)
    assert all(valid(text) for text in result.posterior())
    assert result.expectation(qed) > plain.expectation(qed) + 0.2


@pytest.mark.parametrize("name", ["rewarded", "of_class", "inpaint"])
def test_the_example_runs_as_typed(pipe, name: str) -> None:
    """But for fewer steps and particles."""
    pytest.importorskip("sklearn")
    example = re.sub(
        r"particles=\d+", "particles=4", "\n".join(DOC.findall(inspect.getdoc(getattr(programs, name)) or ""))
    )
    assert "feynkac.steer" in example
    image = digit()
    known = {"feynkac": fk, "pipe": pipe, "image": image, "mask": left_half(image), "symmetry": symmetry}
    few = {name: lambda *args, **options: getattr(programs, name)(*args, steps=3, **options)}
    exec(example, {**known, "digit_classifier": digit_classifier, **few})


@pytest.mark.parametrize(
    "arguments",
    [
        ["rewarded", "digits", "--reward", "brightness"],
        ["of-class", "digits", "--label", "7"],
        ["inpaint", "digits"],
    ],
)
def test_commands_save_a_picture(tmp_path, capsys, arguments: list[str]) -> None:
    for package in ("diffusers", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    name, model, *rest = arguments
    out = tmp_path / "out.png"
    main([name, str(TRAINED / model), *rest, "--steps", "3", "-n", "4", "--islands", "2", "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "log evidence" in said and f"wrote {out}" in said


@pytest.mark.slow
def test_the_command_for_molecules(tmp_path) -> None:
    pytest.importorskip("rdkit")
    main(["drug-like", str(TRAINED / "molecules.safetensors"), "-n", "16", "--out", str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").exists()


def test_mistakes_are_one_line(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as stop:
        main(["rewarded", str(tmp_path)])
    assert stop.value.code == 1 and "model_index.json" in capsys.readouterr().err


def test_folders_that_hold_no_pipeline(tmp_path) -> None:
    from feynkac.models.diffusion.folder import open_pipeline

    with pytest.raises(ModelError, match="no folder"):
        open_pipeline(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="float31"):
        open_pipeline(TRAINED / "digits", dtype="float31")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load"):
        open_pipeline(tmp_path)
