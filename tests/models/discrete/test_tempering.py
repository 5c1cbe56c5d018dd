"""Tempering on canvases: the target stays, and lambda is where the effective sample size says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feynkac.base.errors import PotentialError
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import LocallyOptimal
from feynkac.potentials.base import Factor
from feynkac.potentials.discrete import tempered
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, never, ssp
from feynkac.smc.rng import Streams

K, LENGTH, N = 3, 8, 64
_rng = np.random.default_rng(2)
CHAIN = ChainDenoiser(_rng.dirichlet(np.ones(K)), _rng.dirichlet(np.ones(K), K))
STRONG = 1.5


class Count(Factor):
    """A multiple of the number of 0s, expected until the canvas is finished."""

    name = "count"

    def level(self, t: int, state: Any, rows: np.ndarray) -> np.ndarray:
        return STRONG * np.exp(state.clean(rows))[..., 0].sum(axis=1)

    def final(self, state: Any, rows: np.ndarray) -> np.ndarray:
        return STRONG * (state.tokens_now[rows] == 0).sum(axis=1)


def log_z(scale: float) -> float:
    """log E[exp(scale #0)] of the chain, by recursion."""
    bonus = np.array([np.exp(scale), 1.0, 1.0])
    mass = CHAIN.initial * bonus
    for _ in range(LENGTH - 1):
        mass = mass @ CHAIN.transition * bonus
    return float(np.log(mass.sum()))


def model() -> DiscreteDiffusion:
    return DiscreteDiffusion(CHAIN, K, LENGTH, Unmask(LENGTH))


def lam(potential: Any, state: Any) -> np.ndarray:
    return np.array([entry[0] for entry in state.memory.array(potential, (0.0, 0.0)).tolist()])


def test_lambda_rises_to_where_the_effective_sample_size_stands_at_its_bound() -> None:
    potential, lambdas = tempered(Count(), ess=0.8), []
    for step in smc(model(), potential, n=N, resample=never, rng=Streams(0)):
        if step.done.any():
            break
        lambdas.append(lam(potential, step.state))
        assert np.ptp(lambdas[-1]) == 0.0
        if len(lambdas) == 1:
            assert 0.0 < lambdas[0][0] < 1.0
            assert step.ess == pytest.approx(0.8 * N, rel=1e-6)
    assert len(lambdas) == LENGTH - 1
    assert (np.diff([each[0] for each in lambdas]) >= 0.0).all()


def test_after_a_resampling_the_weights_begin_anew() -> None:
    potential, raised, before = tempered(Count() ** 2, ess=0.7), [], 0.0
    for step in smc(model(), potential, n=N, resample=ssp, rng=Streams(1)):
        if step.done.any():
            break
        now = lam(potential, step.state)[0]
        if step.resampled[0] and before < now < 1.0:
            raised.append(step.ess)
        before = now
    assert len(raised) > 1
    np.testing.assert_allclose(raised, 0.7 * N, rtol=1e-6)


def test_each_problem_has_a_lambda_of_its_own() -> None:
    potential, kernel = tempered(Count(), ess=0.8), Unmask(LENGTH)
    two = [DiscreteDiffusion(CHAIN, K, LENGTH, kernel, given=[first, *[-1] * (LENGTH - 1)]) for first in (0, 1)]
    steps = smc(two[0].join(two[1:]), potential, n=[N, N], resample=adaptive(ssp), rng=Streams(2))
    together = [[lam(potential, step.state)[part][0] for part in step.groups] for step in steps]
    for g, alone in enumerate(two):
        rng = Streams(2, group=g)
        own = [lam(potential, step.state)[0] for step in smc(alone, potential, n=N, resample=adaptive(ssp), rng=rng)]
        np.testing.assert_allclose(own, [both[g] for both in together], atol=1e-9)


@pytest.mark.parametrize("proposal", [None, LocallyOptimal(Count())], ids=["base", "locally optimal"])
def test_the_evidence_is_that_of_the_whole_potential(proposal: Any) -> None:
    # A mean of 40 independent estimates, at 4 standard errors: one false alarm in 16,000.
    potential = tempered(Count(), ess=0.5)
    steered = model() if proposal is None else model().with_proposal(proposal)
    ratios = np.array([
        np.exp(last.log_z - log_z(STRONG))
        for seed in range(40)
        for last in [list(smc(steered, potential, n=32, resample=adaptive(ssp), rng=Streams(seed)))[-1]]
    ])  # fmt: skip
    assert abs(ratios.mean() - 1.0) < 4.0 * ratios.std(ddof=1) / np.sqrt(len(ratios))


def test_a_state_without_weights_is_refused() -> None:
    class Plain:
        memory = None

    with pytest.raises(
        PotentialError, match=r"looks at the weights so far, which Plain does not keep; give a schedule"
    ):
        tempered(Count(), ess=0.5).level(0, Plain(), np.arange(1))
