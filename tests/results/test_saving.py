"""Image samples as files, beside an index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from feynkac import ArgumentError, History, Result, Timing


def result(samples: list) -> Result:
    log_weights = np.log(np.linspace(0.1, 0.4, len(samples)))
    history = History([2.0], [0.0], [len(samples)], [], [list(range(len(samples)))])
    return Result(samples, log_weights, 0.0, None, history, Timing(1.0, 0.5, 0.5), seed=3)


def grid(*shape: int) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_written_beside_an_index_that_is_read_again(tmp_path, channels) -> None:
    made = result([grid(channels, 4, 5), 1.0 - grid(channels, 4, 5)])
    paths = made.save_images(tmp_path / "new" / "images")
    assert [path.name for path in paths] == ["particle_000.png", "particle_001.png"]
    for path, sample in zip(paths, made.samples, strict=True):
        pixels = np.asarray(Image.open(path)).reshape(4, 5, channels)
        assert np.abs(pixels / 255 - sample.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    index = Result.from_json(tmp_path / "new" / "images" / "index.json")
    assert index.samples == [path.name for path in paths] and index.seed == 3
    assert np.array_equal(index.log_weights, made.log_weights)


def test_videos_numpy_and_pictures_of_pil_are_written_too(tmp_path) -> None:
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    paths = result([grid(3, 3, 4, 5), grid(3, 4, 5).numpy(), picture]).save_images(tmp_path)
    assert [path.suffix for path in paths] == [".gif", ".png", ".png"]
    with Image.open(paths[0]) as video:
        assert video.n_frames == 3
    assert np.array_equal(np.asarray(Image.open(paths[2])), np.asarray(picture))


@pytest.mark.parametrize("sample", ["a text", 3.0, torch.zeros(2), torch.zeros(5, 4, 4)])
def test_samples_that_are_no_images_are_refused_before_anything_is_written(tmp_path, sample) -> None:
    with pytest.raises(ArgumentError, match=r"the sample of row 1 is no image.*to_json"):
        result([grid(3, 4, 4), sample]).save_images(tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"cannot write to .*file"):
        result([grid(3, 4, 4)]).save_images(tmp_path / "file")


def test_the_error_of_json_says_how_images_are_written(tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"cannot be written as JSON: .*save_images\(folder\)"):
        result([grid(3, 4, 4)]).to_json(tmp_path / "result.json")
