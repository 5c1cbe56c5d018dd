"""The model without a forward pass that `benchmarks/steps.py` measures with: it is a model, and copies no logits."""

from __future__ import annotations

import numpy as np
import pytest

import feynkac as fk


@pytest.fixture(scope="module")
def mock(smollm2):
    from steps import Mock

    return Mock(rows=8)


def test_it_is_steered_like_any_other(mock) -> None:
    result = fk.steer(mock.prompt("The weather", max_tokens=3), fk.regex("[^eE]*"), particles=4, seed=0)
    assert not any("e" in text.lower() for text in result.texts) and len(set(result.texts)) == 4
    assert result.log_evidence < 0


def test_its_rows_lie_in_its_table(mock) -> None:
    contexts = mock.open([[5], [6, 7]], 2)
    assert contexts.start().data_ptr() == mock.logits.data_ptr()
    for _ in range(5):
        rows = contexts.extend(np.array([0, 0, 1]), np.array([3, 4, -1]))
        assert rows.shape == (2, mock.n_logits)
        assert rows.untyped_storage().data_ptr() == mock.logits.untyped_storage().data_ptr()
    assert contexts.lengths.tolist() == [6, 6, 5] and contexts.forwarded == 10
