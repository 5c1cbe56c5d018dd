"""Triton that is missing, or fails: torch's operators take its place, and the reason is told."""

from __future__ import annotations

import pytest
import torch

from feynkac.models.language.kernels import availability

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forget():
    availability.has_kernels.cache_clear()
    yield
    availability.has_kernels.cache_clear()


def test_a_trial_runs_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    from feynkac.models.language.kernels.trial import count_up

    assert count_up(torch.device("cpu")) == [1, 2, 3, 4]


def test_a_triton_that_fails_is_told_once_and_not_used(monkeypatch, caplog) -> None:
    """As on a machine without a C compiler."""
    pytest.importorskip("triton")
    from feynkac.models.language.kernels import trial

    def fail(device: torch.device) -> list[int]:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(trial, "count_up", fail)
    assert not availability.has_kernels(CUDA) and not availability.has_kernels(CUDA)
    assert [record.getMessage() for record in caplog.records] == [
        "Triton does not run on cuda:0 (Failed to find C compiler. Please specify via CC environment variable.); "
        "torch's operators take its place, and are slower"
    ]


def test_where_nothing_is_tried(monkeypatch, caplog) -> None:
    assert not availability.has_kernels(torch.device("cpu"))
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    assert not availability.has_kernels(CUDA)
    assert not caplog.records
