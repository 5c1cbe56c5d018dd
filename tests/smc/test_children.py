"""The choice among all children, without a model: which are kept, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from feynkac.smc.children import choose
from feynkac.smc.rng import Streams
from feynkac.smc.unequal import optimal
from feynkac.smc.weights import log_sum_exp


@dataclass(frozen=True)
class Table:
    """Children as a table (J, V) of log-probabilities."""

    log_p: np.ndarray
    history: Any = None

    @property
    def log_mass(self) -> np.ndarray:
        return np.array([log_sum_exp(row) for row in self.log_p])

    def among(self, histories: Any) -> Table:
        return Table(self.log_p[histories])

    def above(self, bound: np.ndarray) -> Any:
        return np.nonzero(self.log_p > bound[:, None])

    def without(self, at: Any, chosen: Any) -> Table:
        log_p = self.log_p.copy()
        log_p[at, chosen] = -np.inf
        return replace(self, log_p=log_p)

    def draw(self, at: Any, uniforms: Any) -> Any:
        cdf = {j: np.cumsum(np.exp(self.log_p[j] - self.log_mass[j])) for j in set(at.tolist())}
        return np.array([np.searchsorted(cdf[j], u, side="right") for j, u in zip(at, uniforms, strict=True)], int)

    def weigh(self, at: Any, chosen: Any) -> Any:
        return self.log_p[at, chosen], self.log_p[at, chosen]


def make(seed: int, histories: int, tokens: int, spread: float) -> tuple[Table, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = spread * random.normal(size=(histories, tokens))
    return Table(logits - np.logaddexp.reduce(logits, 1)[:, None]), random.normal(size=histories)


@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0, 60.0])
@pytest.mark.parametrize("n", [1, 3, 16, 200])
def test_as_many_distinct_children_are_kept_as_may_be_and_the_total_is_theirs(n: int, spread: float) -> None:
    for seed in range(5):
        table, log_weight = make(seed, 4, 300, spread)
        chosen = choose(table, log_weight, n, Streams(seed).at("resample", 0))
        assert len(chosen.at) == n == len({*zip(chosen.at.tolist(), chosen.child.tolist(), strict=True)})
        assert log_sum_exp(chosen.log_weight) == pytest.approx(log_sum_exp(log_weight), abs=1e-10)


@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0, 60.0])
def test_those_that_are_certain_are_those_of_fearnhead_and_clifford(spread: float) -> None:
    """`optimal` on the list of all children keeps the same ones with their weight, and the others with the same."""
    for seed in range(5):
        table, log_weight = make(seed, 4, 300, spread)
        chosen = choose(table, log_weight, 16, Streams(seed).at("resample", 0))
        rows, weights = optimal(16)((log_weight[:, None] + table.log_p).ravel(), Streams(seed).at("resample", 0))
        assert rows is not None
        np.testing.assert_allclose(np.sort(chosen.log_weight), np.sort(weights), rtol=0, atol=1e-9)
        certain = (chosen.at * 300 + chosen.child)[~chosen.by_chance]
        assert set(certain.tolist()) <= set(rows.tolist())


def test_beside_what_has_ended_little_is_kept() -> None:
    """Children are no lighter than the floor; of those that are together, one is kept, or none, with their weight."""
    table, _ = make(0, 2, 50, 0.1)
    for share, most in ((0.1, 1), (3.5, 4), (1000.0, 64)):
        log_weight, floor = np.full(2, np.log(0.5 * share)), 0.0
        found = [choose(table, log_weight, 64, Streams(seed).at("resample", 0), floor) for seed in range(300)]
        assert {len(each.at) for each in found} == ({0, 1} if share < 1.0 else {most})
        totals = np.array([np.exp(each.log_weight).sum() for each in found])
        if share < 1.0:
            assert set(totals.round(9)) == {0.0, 1.0}
            assert abs(totals.mean() - share) < 4.5 * np.sqrt(share * (1.0 - share) / 300)  # false alarm: 1e-5
        else:
            np.testing.assert_allclose(totals, share, rtol=1e-10)


@pytest.mark.parametrize("running", [0.0, 1e-3, 1e-12, 1e-20, 1e-300, 7.9, 8.0, 8.1, 1e5])
@pytest.mark.parametrize("floor", [1e-16, 1.0 - 1e-15, 1.0, 1.0 + 1e-15, 10.0])
def test_there_is_never_a_row_too_many(running: float, floor: float) -> None:
    for seed in range(10):
        table, _ = make(seed, 2, 50, 3.0)
        with np.errstate(divide="ignore"):
            log_weight = np.full(2, np.log(running / 2))
        chosen = choose(table, log_weight, 8, Streams(seed).at("resample", 0), np.log(floor))
        assert len(chosen.at) <= 8
        assert abs(np.exp(chosen.log_weight).sum() - running) <= floor + 1e-9 * running


def test_nothing_is_chosen_of_nothing() -> None:
    table, log_weight = make(0, 2, 5, 1.0)
    assert len(choose(table, np.full_like(log_weight, -np.inf), 4, Streams(0).at("resample", 0)).at) == 0
    assert len(choose(table.among(np.empty(0, int)), np.empty(0), 4, Streams(0).at("resample", 0)).at) == 0
