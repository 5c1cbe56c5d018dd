"""`feynkac.check` on samplers and pipelines: ours are right, and what goes by all particles is none of its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import feynkac as fk
import feynkac.models.diffusion as fd
from feynkac.base.capabilities import Adapts, has
from feynkac.potentials.diffusion import tempered

PRIOR = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], 0.2)
SUM = fk.reward(lambda x: x.flatten(1).sum(1), scale=3.0, batch=True)


def sampler(**options: Any) -> Any:
    return fd.DiffusionSampler(PRIOR, fd.ddpm(4), (2,), **options)


def pipeline(**options: Any) -> Any:
    pytest.importorskip("diffusers")
    return fk.Diffusion.from_pipeline(fk.Diffusion.demo().pipe, 3, **options)


@pytest.mark.parametrize("make", [sampler, pipeline])
@pytest.mark.parametrize(
    "potential",
    [SUM, fk.reward(lambda x: float(x.sum()), kind="max", every=2), tempered(SUM, "signal", ess=0.9)],
    ids=["reward", "max", "tempered"],
)
def test_ours_is_right(make: Callable[..., Any], potential: Any) -> None:
    report = fk.check(make(), potential, particles=2)
    assert report.faults == []
    assert any("weighs by all rows, by intent" in note for note in report.notes) == has(potential, Adapts)


@pytest.mark.parametrize("make", [sampler, pipeline])
def test_a_proposal_that_goes_by_all_particles_is_noted(make: Callable[..., Any]) -> None:
    report = fk.check(make(proposal=fd.Guided(SUM)), SUM, particles=2)
    assert report.faults == [] and any("depends on all others, by intent" in note for note in report.notes)


def test_a_potential_that_looks_at_the_row_beside_is_told() -> None:
    class Beside:
        def level(self, t: int, state: Any, rows: Any) -> Any:
            return self.final(state, rows)

        def final(self, state: Any, rows: Any) -> Any:
            worth = state.x[:, 0].double().numpy()
            return worth[rows] - worth[rows].mean()

    assert any("must not depend on the rows beside it" in fault for fault in fk.check(sampler(), Beside()).faults)


def test_a_potential_that_writes_to_the_latents_is_told() -> None:
    class Writing:
        def level(self, t: int, state: Any, rows: Any) -> Any:
            state.x += 0.1
            return np.zeros(len(rows))

        def final(self, state: Any, rows: Any) -> Any:
            return np.zeros(len(rows))

    assert any("wrote to the `x` of the state" in fault for fault in fk.check(sampler(), Writing()).faults)
