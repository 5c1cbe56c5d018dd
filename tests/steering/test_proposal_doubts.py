"""What a run says of a proposal that costs more than it gives, against sums over the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models.edits import Add


def wild(lm: Any, size: float) -> Any:
    head = lm.model.lm_head.weight.detach()
    return lm.edited(Add(size * (head[1] - head[0]), layer=1))


def test_a_proposal_far_from_the_target_is_named(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    far = fk.steer(lm.prompt("a", max_tokens=12, proposal=wild(lm, 100.0).prompt("a"), mix=0.02), particles=32, seed=0)
    assert any("its ratios alone leave" in warning and "raise mix=" in warning for warning in far.warnings)
    near = fk.steer(lm.prompt("a", max_tokens=12, proposal=lm.prompt("a")), particles=32, seed=0)
    assert not any("its ratios alone" in warning for warning in near.warnings)


def test_the_share_is_the_second_moment_of_the_ratio(tiny_lm: Any) -> None:
    """One token: log E_q[(p / q)^2], by hand."""
    lm = tiny_lm("a", "b")
    other = wild(lm, 100.0)
    ids = lm.begin("a")
    p, q = (torch.softmax(each.open([ids], 2).start()[0].double(), 0) for each in (lm, other))
    mixed = 0.9 * q + 0.1 * p
    wanted = float((p**2 / mixed).sum())
    task = lm.prompt("a", max_tokens=1, proposal=other.prompt("a"))
    seen: list[Any] = []
    fk.steer(task, particles=4, seed=0, observers=[lambda step: seen.append(step.state)])
    assert np.exp(seen[-1].companions["spent", 0]) == pytest.approx(wanted, rel=1e-6)
