"""`feynkac doctor`: what is there, what is missing, and what does not come out right."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from feynkac.commands import doctor as doctors, selftest
from feynkac.commands.cli import app

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def consult() -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor"])
    return done.exit_code, done.output


def test_what_is_well_is_told_in_full(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEYNKAC_CACHE", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(3 * 2**20))
    code, said = consult()
    assert code == 0 and said.endswith("all is well\n"), said
    assert f"torch {metadata.version('torch')}" in said and f"{os.cpu_count()} cores" in said
    assert f"cache       {tmp_path}, 3 MiB" in said
    assert "the engine, summed over all its runs: right" in said and "a random language model on cpu: right" in said


def test_every_extra_is_told_with_what_it_is_for() -> None:
    assert doctors.EXTRAS.keys() == PROJECT["optional-dependencies"].keys() - {"dev", "docs", "browser"}
    _, said = consult()
    assert all(f"  {extra:<10}{purpose}: " in said for extra, purpose in doctors.EXTRAS.items())


def test_an_extra_that_is_missing_is_told_with_what_installs_it_and_is_no_fault(monkeypatch) -> None:
    version = metadata.version

    def find(name: str) -> str:
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", find)
    code, said = consult()
    assert code == 0 and "pictures of results: missing: pip install 'feynkac[plot]'" in said


@pytest.mark.parametrize(("told", "version"), [("numba MISSING", None), ("numba 0.1 (NEEDED: >=", "0.1")])
def test_a_package_that_everybody_needs_is_a_fault_where_it_is_missing_or_old(monkeypatch, told, version) -> None:
    known = metadata.version

    def find(name: str) -> str:
        if name == "numba" and version is None:
            raise metadata.PackageNotFoundError(name)
        return version if name == "numba" else known(name)

    monkeypatch.setattr(metadata, "version", find)
    code, said = consult()
    assert code == 1 and told in said and "something is wrong" in said


def test_a_cache_that_cannot_be_written_is_a_fault(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEYNKAC_CACHE", str(tmp_path / "file" / "cache"))
    code, said = consult()
    assert code == 1 and "CANNOT BE WRITTEN; set FEYNKAC_CACHE" in said


def test_a_run_that_comes_out_wrong_is_a_fault_and_the_others_are_still_run(monkeypatch) -> None:
    monkeypatch.setattr(selftest.Heads, "final", lambda self, state, rows: 1.01 * state.tossed[rows].sum(axis=1))
    code, said = consult()
    assert code == 1 and "summed over all its runs: WRONG, AssertionError: the mean evidence" in said
    assert "a random language model on cpu: right" in said


def test_the_checks_see_an_evidence_that_is_wrong(monkeypatch) -> None:
    """By a thousandth of a nat: a tenfold of what float32 rounds."""
    selftest.check_language("cpu")
    sums = dict(selftest.sum_texts(selftest.make_tiny("cpu").model))
    for name in sums:
        monkeypatch.setattr(selftest, "sum_texts", lambda model, name=name: {**sums, name: sums[name] + 1e-3}.items())
        with pytest.raises(AssertionError, match="is right"):
            selftest.check_language("cpu")


def test_a_requirement_with_an_extra_is_met_by_what_that_extra_brings(monkeypatch) -> None:
    listed = {"one": ["two; extra == 'more'", "three"], "two": None}
    monkeypatch.setattr(metadata, "requires", lambda name: listed[name])
    assert [each.name for each in doctors.list_requirements("one", "more")] == ["two"]
    assert [each.name for each in doctors.list_requirements("one")] == ["three"]
    there = {"one": "1.0"}

    def find(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(metadata, "version", find)
    assert doctors._describe(Requirement("one[more]")) == ("one[more] MISSING", False)
    there["two"] = "2.0"
    assert doctors._describe(Requirement("one[more]")) == ("one 1.0", True)
