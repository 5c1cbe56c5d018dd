"""What a page knows: samples of every kind, runs that stopped or died, populations of particle Gibbs."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_runs import drop_details, make_run
from PIL import Image

from feynkac import ArgumentError, Result
from feynkac.results.pages.telling import LONGEST, tell_result
from feynkac.smc.diagnostics import Diagnostics


def open_picture(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def of(samples: list, **changes) -> Result:
    return drop_details(make_run(len(samples), 4, samples=samples, **changes))


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (1.5, "1.5"),
        (np.float64(2.0), "2"),
        (torch.tensor(0.25), "0.25"),
        (np.array([1.0, -2.5]), "1, -2.5"),
        (torch.tensor([1.0, 3.0], dtype=torch.bfloat16), "1, 3"),
        (True, "True"),
        (None, "None"),
        (("a", 1), "('a', 1)"),
        ({"name": "Ada"}, "{'name': 'Ada'}"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_samples_of_any_kind_are_shown(sample, text) -> None:
    told = tell_result(of([sample] * 3), None)
    assert {each["text"] for each in told["samples"]} == {text}


def test_equal_samples_are_one() -> None:
    told = tell_result(of(["a", "b", "a", "a"]), None)
    assert [each["text"] for each in told["samples"]] == ["a", "b"] and told["sample_of"]["kind"] == "u1"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (4, 5, 5), (5, 3, 4, 4)])
def test_images_and_videos_are_small_pictures(shape) -> None:
    told = tell_result(of([torch.full(shape, i / 4) for i in range(4)]), None)
    assert told["kind"] == "images"
    for i, each in enumerate(told["samples"]):
        picture = open_picture(each["picture"])
        assert picture.size == shape[:-3:-1]
        assert np.asarray(picture).ravel()[0] == round(255 * i / 4)


def test_large_images_are_made_smaller_the_more_there_are() -> None:
    made = [Image.effect_noise((600, 300), 50.0) for _ in range(3)]
    assert open_picture(tell_result(of(made), None)["samples"][0]["picture"]).size == (128, 64)
    many = [np.full((1, 600, 300), i / 400) for i in range(400)]
    assert open_picture(tell_result(of(many), None)["samples"][0]["picture"]).size == (24, 48)


def test_latents_are_stretched_to_their_range() -> None:
    told = tell_result(of([np.full((1, 2, 2), -3.0), np.full((1, 2, 2), 5.0)]), None)
    assert [np.asarray(open_picture(each["picture"])).max() for each in told["samples"]] == [0, 255]


def test_molecules_are_drawn_where_one_says_so() -> None:
    pytest.importorskip("rdkit")
    told = tell_result(of(["CCO", "no molecule"]), "molecules")
    assert open_picture(told["samples"][0]["picture"]).size[0] > 64 and told["samples"][1]["picture"] is None


def test_samples_that_are_none_of_that_kind_are_refused() -> None:
    with pytest.raises(ArgumentError, match="cannot be drawn as images"):
        tell_result(of(["text", "text"]), "images")
    with pytest.raises(ArgumentError, match="cannot be drawn as numbers"):
        tell_result(of(["text", "text"]), "numbers")


def test_a_run_that_died_has_a_page() -> None:
    n = 4
    dead = make_run(n, 6, log_weights=np.full(n, -np.inf), log_evidence=-math.inf, warnings=["every particle died"])
    told = tell_result(dead, None)
    assert told["facts"][0]["value"] == "−inf" and told["warnings"] == ["every particle died"]


def test_a_run_that_was_stopped_says_so_and_which_texts_had_ended() -> None:
    made = make_run(4, 6)
    pieces = [*made.history.pieces[:-1], ["", " on", "", " and"]]
    stopped = replace(made, complete=False, history=replace(made.history, pieces=pieces))
    told = tell_result(stopped, None)
    assert told["done"] == [1, 0, 1, 0] and told["facts"][-1]["value"] == "stopped early"
    assert tell_result(made, None)["done"] == [1] * 4


def test_islands_are_counted_where_they_never_mixed() -> None:
    made = make_run(8, 12, islands=2)
    found = Diagnostics([0.0, 0.1], 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 3)
    assert made.history.resampled and tell_result(replace(made, diagnostics=found), None)["islands"] == 2
    apart = replace(made, diagnostics=found, history=replace(made.history, resampled=[]))
    assert tell_result(apart, None)["islands"] == 1


def test_the_longest_samples_are_cut() -> None:
    told = tell_result(of(["x" * (LONGEST + 1500), "y"]), None)
    assert told["samples"][0]["text"] == "x" * LONGEST + " … and 1,500 more characters"


def test_a_result_without_a_history_has_its_samples() -> None:
    made = make_run(4, 3)
    bare = replace(made, history=replace(drop_details(made).history, rows=[], levels=[], ess=[4.0]))
    told = tell_result(bare, None)
    assert told["populations"] == [] and len(told["samples"]) == 4
