"""The page of a result as a file: what is in it, what can never be, how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from made_runs import drop_details, make_run

import feynkac as fk
from feynkac import ArgumentError
from feynkac.base.escaping import escape

EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;title\x07",
    "null \x00 byte",
    "lone \ud800 surrogate",
    "\u202eturned\u2066 round",
    "line\u2028and\u2029paragraph",
    "&lt;&amp;]]>",
    "' onload='alert(1)",
]
"""What a model may write."""


def read_page(path: Path) -> tuple[str, list[dict]]:
    """The page, and the data in it."""
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return page, json.loads(data)["results"]


def unpack(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<{packed['kind']}")


def test_a_page_holds_what_the_result_tells(tmp_path) -> None:
    made = make_run(islands=2, warnings=["the evidence may be far off"])
    made.to_html(tmp_path / "page.html")
    _, (told,) = read_page(tmp_path / "page.html")
    texts = [each["text"] for each in told["samples"]]
    assert [texts[i] for i in unpack(told["sample_of"])] == made.samples
    np.testing.assert_array_equal(unpack(told["weights"]), made.weights)
    pieces = [told["pieces"]["words"][i] for i in unpack(told["pieces"]["which"])]
    assert pieces == [piece for each in made.history.pieces for piece in each]
    np.testing.assert_allclose(unpack(told["log_probs"]), np.ravel(made.history.log_probs), rtol=1e-6)
    assert told["prompt"] == [{"role": "", "text": made.prompt}] and told["warnings"] == made.warnings
    assert {"name": "seconds", "value": "1.25", "note": "model 1.00, potentials 0.25"} in told["facts"]
    assert "8 particles, 12 steps" in told["title"] and "seed 0" in told["title"]


@pytest.mark.parametrize("evil", EVIL)
def test_what_a_model_writes_stays_a_string_of_json(tmp_path, evil) -> None:
    chat = [{"role": evil, "content": evil}, {"role": "user", "content": [{"type": "text", "text": evil}]}]
    made = make_run(words=[evil, " harmless"], warnings=[evil], prompt=chat)
    made.to_html(tmp_path / "page.html")
    page, (told,) = read_page(tmp_path / "page.html")
    harmless = make_run()
    harmless.to_html(tmp_path / "harmless.html")
    plain = read_page(tmp_path / "harmless.html")[0]
    assert {mark: page.count(mark) for mark in "<>"} == {mark: plain.count(mark) for mark in "<>"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028-\u202e\u2066-\u2069]", page)
    shown = escape(evil, keep="\n\t")
    assert shown in told["pieces"]["words"] and told["warnings"] == [shown] and told["prompt"][0]["text"] == shown


def test_the_policy_names_the_only_script_and_style_by_their_hashes(tmp_path) -> None:
    make_run().to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    (policy,) = re.findall(rb'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    for tag, end in ((rb"<style>", rb"</style>"), (rb"<script>", rb"</script>")):
        (body,) = re.findall(tag + rb"(.*?)" + end, page, re.DOTALL)
        assert b"sha256-" + base64.b64encode(hashlib.sha256(body).digest()) in policy
    assert b"default-src 'none'" in policy and b"unsafe" not in policy and b"http" not in policy


def test_a_page_names_no_place_of_the_network(tmp_path) -> None:
    make_run().to_html(tmp_path / "page.html")
    assert not re.search(
        r"(?:https?:)?//[a-z0-9]+\.|@import|url\(", (tmp_path / "page.html").read_text(encoding="utf-8")
    )


def test_the_page_of_a_large_run_is_small_and_soon_written(tmp_path) -> None:
    made = make_run(256, 200, words=[f" word{i}" for i in range(5000)])
    begun = time.perf_counter()
    made.to_html(tmp_path / "page.html")
    assert time.perf_counter() - begun < 2.0
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_a_result_of_an_older_version_has_a_page_too(tmp_path) -> None:
    made = drop_details(make_run())
    made.to_json(tmp_path / "old.json")
    fk.Result.from_json(tmp_path / "old.json").to_html(tmp_path / "page.html")
    _, (told,) = read_page(tmp_path / "page.html")
    assert told["pieces"] is None and "log_probs" not in told and len(unpack(told["changed"])) > 0


def test_several_results_share_a_page(tmp_path) -> None:
    fk.write_page([make_run(), make_run(seed=1)], tmp_path / "page.html")
    assert [told["title"][-6:] for told in read_page(tmp_path / "page.html")[1]] == ["seed 0", "seed 1"]
    with pytest.raises(ArgumentError, match="no result to show"):
        fk.write_page([], tmp_path / "none.html")


def test_a_page_that_cannot_be_written_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ArgumentError, match="cannot be written"):
        make_run().to_html(tmp_path)
    with pytest.raises(ArgumentError, match="to_html\\(kind='movies'\\): choose one of"):
        make_run().to_html(tmp_path / "page.html", kind="movies")  # type: ignore[arg-type]
