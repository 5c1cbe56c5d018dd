"""The kernels on hostile weights: exact totals, no dead row chosen, and compiled as undecorated."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.smc import kernels
from feynkac.smc.resample import _assign_slots
from feynkac.smc.schemes import iid_rows, stratified_rows

LAST = 1 - 2.0**-53
"""The largest double below 1."""
uniforms = st.sampled_from([0.0, 2.0**-53, 0.5, LAST]) | st.floats(0, LAST)
light = st.sampled_from([0.0, 0.0, 5e-324, 1e-310, 1e-300, 1e-17, 0.5, 1 - 2**-53, 1.0]) | st.floats(0, 1)


@st.composite
def relative_weights(draw: st.DrawFn, max_size: int = 9) -> np.ndarray:
    """Multiples of the largest weight: denormals, ratios of 1e300, zeros at the ends, a single survivor."""
    weight = np.array(draw(st.lists(light, min_size=1, max_size=max_size)))
    weight[draw(st.integers(0, len(weight) - 1))] = 1.0
    return weight


unhurried = settings(deadline=None)  # the first example may compile


def ints(n: int) -> np.ndarray:
    return np.full(n, -7, dtype=np.int64)  # results must not depend on what was there


@unhurried
@given(relative_weights(), st.integers(1, 12), st.data())
def test_stratified_rows(weight, n, data) -> None:
    u = np.array(data.draw(st.lists(uniforms, min_size=1, max_size=1) | st.lists(uniforms, min_size=n, max_size=n)))
    kernel = kernels.systematic_rows if len(u) == 1 else kernels.stratified_rows
    compiled = kernel.compiled(weight, n / weight.sum(), u, ints(n))
    assert np.array_equal(compiled, kernel.py_func(weight, n / weight.sum(), u, ints(n)))
    for rows in (
        compiled,
        stratified_rows(weight, n, u),
    ):
        assert len(rows) == n and (np.diff(rows) >= 0).all()
        assert (weight[rows] > 0).all()
        if len(u) == 1:
            expected = n * weight / weight.sum()
            assert (np.abs(np.bincount(rows, minlength=len(weight)) - expected) < 1 + 1e-9).all()


@unhurried
@given(relative_weights(), st.integers(1, 12), st.data())
def test_ssp_counts(weight, n, data) -> None:
    u = np.array(data.draw(st.lists(uniforms, min_size=len(weight), max_size=len(weight))))
    scale = n / weight.sum()
    counts = kernels.ssp_counts.compiled(weight, scale, n, u, ints(len(weight)))
    assert counts.sum() == n and (counts >= 0).all()
    assert not counts[weight == 0].any()
    assert (np.abs(counts - weight * scale) < 1 + 1e-9).all()
    in_lists = kernels.ssp_counts.py_func(weight.tolist(), scale, n, u.tolist(), [0] * len(weight))
    assert counts.tolist() == in_lists


@unhurried
@given(relative_weights(), st.lists(uniforms, min_size=1, max_size=9))
def test_locate(weight, u) -> None:
    rows = iid_rows(weight, np.array(u))
    assert (weight[rows] > 0).all()
    cumulative = np.cumsum(weight) / np.cumsum(weight)[-1]
    assert np.array_equal(kernels.locate.compiled(np.array(u), cumulative, ints(len(u))), rows)
    assert np.array_equal(kernels.locate.py_func(np.array(u), cumulative, ints(len(u))), rows)


@unhurried
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any))
def test_rows_of(counts) -> None:
    counts = np.array(counts)
    n = int(counts.sum())
    expected = np.repeat(np.arange(len(counts)), counts)
    assert np.array_equal(kernels.rows_of.compiled(counts, ints(n)), expected)
    assert np.array_equal(kernels.rows_of.py_func(counts, ints(n)), expected)


@unhurried
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_slots_agree_with_numpy(rows) -> None:
    rows = np.array(rows)
    expected = _assign_slots(rows)
    assert np.array_equal(kernels.assign_slots.compiled(rows, ints(len(rows))), expected)
    assert np.array_equal(kernels.assign_slots.py_func(rows, ints(len(rows))), expected)


def _exact_mean(weight: np.ndarray, n: int, rows_of_uniform) -> np.ndarray:
    """E[offspring] over one uniform, exactly: offspring is constant between the fractions of n c_i."""
    steps = n * np.cumsum(weight) / weight.sum()
    edges = np.unique(np.concatenate([[0.0, 1.0], steps - np.floor(steps)]))
    mean = np.zeros(len(weight))
    for low, high in itertools.pairwise(edges):
        mean += (high - low) * np.bincount(rows_of_uniform((low + high) / 2), minlength=len(weight))
    return mean


@unhurried
@given(relative_weights(), st.integers(1, 12))
def test_systematic_and_stratified_means(weight, n) -> None:
    # Row k of a stratified draw depends on uniform k alone, so equal uniforms have the same mean as independent ones.
    for length, kernel in ((1, kernels.systematic_rows), (n, kernels.stratified_rows)):
        for rows_of_uniform in (
            lambda u, length=length: stratified_rows(weight, n, np.full(length, u)),
            lambda u, length=length, kernel=kernel: kernel(weight, n / weight.sum(), np.full(length, u), ints(n)),
        ):
            assert _exact_mean(weight, n, rows_of_uniform) == pytest.approx(n * weight / weight.sum(), abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.37, LAST]))
def test_large(seed, u) -> None:
    rng = np.random.default_rng(seed)
    size, n = 200_000, 150_000
    weight = rng.exponential(size=size) ** 4 * (rng.random(size) < 0.7)
    weight[-1000:] = 0.0
    weight /= weight.max()
    expected = weight * (n / weight.sum())
    for length in (1, n):
        rows = stratified_rows(weight, n, np.full(length, u))
        counts = np.bincount(rows, minlength=size)
        assert len(rows) == n and (np.diff(rows) >= 0).all() and (weight[rows] > 0).all()
        assert (np.abs(counts - expected) < 1 + 1e-6).all()
    counts = kernels.ssp_counts(weight, n / weight.sum(), n, rng.random(size), ints(size))
    assert counts.sum() == n and not counts[weight == 0].any()
    assert (np.abs(counts - expected) < 1 + 1e-6).all()
    assert np.array_equal(kernels.rows_of(counts, ints(n)), np.repeat(np.arange(size), counts))
