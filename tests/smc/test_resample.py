"""Every scheme and combinator: exactly unbiased, by enumeration, and safe on hostile weights."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from feynkac.base.errors import ArgumentError, WeightError
from feynkac.smc import resample as r
from feynkac.smc.rng import Streams
from feynkac.smc.testing import enumerate_runs, expectation
from feynkac.smc.unequal import _make_distinct
from feynkac.smc.weights import effective_sample_size, log_sum_exp

LAST = 1 - 2.0**-53
DEAD = np.full(4, -np.inf)
EQUAL = [r.multinomial, r.residual, r.stratified, r.systematic, r.ssp, r.killing]
RESAMPLERS = [
    *EQUAL,
    *(r.optimal(n) for n in (1, 2, 3, 5)),
    *(r.chopthin(eta, n) for eta in (4.0, 3 + math.sqrt(8), 40.0) for n in (None, 1, 2, 6)),
    *(r.mean_partition(scheme) for scheme in (r.systematic, r.ssp)),
    r.adaptive(r.ssp, 0.7),
    r.adaptive(r.systematic, 0.7, measure="max"),
    r.split(3),
    *(r.shrink(scheme, n) for scheme in EQUAL[:-1] for n in (2, 5)),
    r.then(r.split(2), r.optimal(3)),
    r.then(r.optimal(2), r.systematic),
    r.islands(r.adaptive(r.ssp, 0.9), 1),
    r.never,
]
VECTORS = [
    np.log([0.2, 0.5, 0.3]),
    np.array([0.0, 5.0]),
    np.array([-1.0, -np.inf, 2.0, -3.0]),
    np.array([-np.inf, -1.0, -np.inf]),
    np.array([-1.0, -1.1, -0.9, 3.0]),
    np.zeros(3),
    np.array([-30.0, 0.0, -1.0, 7.0]),
]


class Fixed:
    """Uniforms told in advance."""

    def __init__(self, *values: float) -> None:
        self._values = itertools.cycle(values)

    def uniform(self, n: int) -> np.ndarray:
        return np.array([next(self._values) for _ in range(n)])


@st.composite
def log_weights(draw: st.DrawFn) -> np.ndarray:
    """Log-weights with ratios far beyond 1e300, dead rows anywhere, and any common factor."""
    values = st.sampled_from([-np.inf, -np.inf, 0.0, 1e-16, -36.0, -700.0, -744.0, -1e4]) | st.floats(-5, 5)
    result = np.array(draw(st.lists(values, min_size=1, max_size=10)))
    result[draw(st.integers(0, len(result) - 1))] = 0.0
    return result + draw(st.sampled_from([0.0, -1e3, 1e3]))


streams = st.builds(Fixed, st.sampled_from([0.0, LAST, 0.5]) | st.floats(0, LAST), st.floats(0, LAST))
unhurried = settings(deadline=None)


@pytest.mark.parametrize("log_weight", VECTORS, ids=lambda v: str(np.round(v, 2).tolist()))
@pytest.mark.parametrize("scheme", RESAMPLERS, ids=lambda s: s.__name__)
def test_weights_are_kept_in_expectation_exactly(scheme, log_weight) -> None:
    top = log_weight.max()

    def carried(rng):
        rows, new = scheme(log_weight, rng)
        if rows is None:
            assert new is log_weight
            return np.exp(log_weight - top)
        rows, new = r.put_in_place(rows, new, len(log_weight))
        return np.bincount(rows, np.exp(new - top), minlength=len(log_weight))

    assert expectation(carried) == pytest.approx(np.exp(log_weight - top), abs=1e-12, rel=1e-12)


def test_islands_are_exact_and_independent() -> None:
    log_weight = np.array([0.0, 1.0, -1.0, 3.0])
    scheme = r.islands(r.ssp, 2)

    def counts(rng):
        rows, new = scheme(log_weight, rng)
        carried = np.bincount(rows, np.exp(new), minlength=4)
        return np.concatenate([carried, np.outer(carried[:2], carried[2:]).ravel()])

    weight = np.exp(log_weight)
    assert expectation(counts) == pytest.approx([*weight, *np.outer(weight[:2], weight[2:]).ravel()], rel=1e-12)


@unhurried
@given(log_weights(), streams, st.sampled_from(RESAMPLERS))
def test_hostile_weights(log_weight, rng, scheme) -> None:
    before = log_weight.copy()
    rows, new = scheme(log_weight, rng)
    assert np.array_equal(log_weight, before)
    if rows is None:
        assert new is log_weight
        return
    assert rows.dtype == np.int64 and new.dtype == np.float64 and rows.shape == new.shape
    assert rows.min() >= 0 and rows.max() < len(log_weight)
    assert not np.isnan(new).any() and (new < np.inf).all()
    assert (new[log_weight[rows] == -np.inf] == -np.inf).all()


@unhurried
@given(log_weights(), streams, st.sampled_from(EQUAL))
def test_equal_weights_keep_the_total(log_weight, rng, scheme) -> None:
    rows, new = scheme(log_weight, rng)
    assert len(rows) == len(log_weight) and np.ptp(new) == 0.0
    assert (log_weight[rows] > -np.inf).all()
    assert log_sum_exp(new) == pytest.approx(log_sum_exp(log_weight), rel=1e-12, abs=1e-12)


@unhurried
@given(log_weights(), streams, st.sampled_from([r.systematic, r.ssp, r.mean_partition(r.ssp)]))
def test_offspring_is_the_floor_or_the_ceiling(log_weight, rng, scheme) -> None:
    rows, _ = scheme(log_weight, rng)
    expected = len(log_weight) * np.exp(log_weight - log_sum_exp(log_weight))
    assert (np.abs(np.bincount(rows, minlength=len(log_weight)) - expected) < 1 + 1e-9).all()


@unhurried
@given(log_weights(), streams)
def test_residual_gives_the_whole_part_for_certain(log_weight, rng) -> None:
    rows, _ = r.residual(log_weight, rng)
    expected = len(log_weight) * np.exp(log_weight - log_sum_exp(log_weight))
    assert (np.bincount(rows, minlength=len(log_weight)) >= np.floor(expected - 1e-9)).all()


def test_residual_leaves_nothing_to_chance_where_all_expectations_are_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(1, 6, size=rng.integers(1, 40))
        rows, _ = r.residual(np.log(counts / counts.sum()), Fixed(0.9, 0.1), n=int(counts.sum()))
        assert np.array_equal(rows, np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("scheme", EQUAL, ids=lambda s: s.__name__)
def test_large_populations(scheme) -> None:
    rng = np.random.default_rng(1)
    log_weight = np.where(rng.random(5000) < 0.3, -np.inf, 2 * rng.standard_normal(5000))
    rows, new = scheme(log_weight, Streams(3).at("resample", 2))
    assert len(rows) == 5000 and (log_weight[rows] > -np.inf).all()
    assert log_sum_exp(new) == pytest.approx(log_sum_exp(log_weight), rel=1e-12)
    again, _ = scheme(log_weight, Streams(3).at("resample", 2))
    assert np.array_equal(rows, again)


def test_multinomial_rows_are_independent_and_in_order_of_drawing() -> None:
    weight = np.array([0.2, 0.5, 0.3])
    joint = np.zeros((3, 3, 3))
    for p, rows in enumerate_runs(lambda rng: r.multinomial(np.log(weight), rng)[0]):
        joint[tuple(rows)] += p
    assert joint == pytest.approx(np.einsum("i,j,k->ijk", weight, weight, weight), abs=1e-12)


def test_killing_keeps_the_rows_it_can() -> None:
    log_weight = np.log([0.5, 1.0, 0.25, 1.0])
    rows, _ = r.killing(log_weight, Fixed(0.49))
    assert rows[[0, 1, 3]].tolist() == [0, 1, 3]
    rows, _ = r.killing(np.zeros(4), Fixed(LAST))
    assert rows.tolist() == [0, 1, 2, 3]


@unhurried
@given(log_weights(), streams, st.integers(1, 8))
def test_optimal(log_weight, rng, n) -> None:
    rows, new = r.optimal(n)(log_weight, rng)
    if len(log_weight) <= n:
        assert rows is None
        return
    assert len(rows) == n and len(set(rows.tolist())) == n
    assert log_sum_exp(new) == pytest.approx(log_sum_exp(log_weight), rel=1e-12, abs=1e-12)
    live = np.isfinite(log_weight).sum()
    assert np.isfinite(new).sum() == min(n, live)
    changed = new != log_weight[rows]
    if changed.any():
        # 1/c: the one weight at which the survival probabilities min(1, c w) add up to n.
        level = new[changed][0]
        assert (new[changed] == level).all()
        assert np.exp(np.minimum(log_weight - level, 0.0)).sum() == pytest.approx(n, rel=1e-9)
        kept = np.flatnonzero(log_weight > level + 1e-9)
        assert np.isin(kept, rows).all()


def test_a_survivor_doubled_by_rounding_gives_way_to_the_heaviest_row_left() -> None:
    weight = np.array([1.0, 0.25, 0.0, 0.75, 0.5])
    assert sorted(_make_distinct(np.array([0, 0, 4]), weight)) == [0, 3, 4]


@unhurried
@given(log_weights(), streams, st.sampled_from([4.0, 5.8, 100.0]), st.none() | st.integers(1, 20))
def test_chopthin_bounds_the_ratio(log_weight, rng, eta, n) -> None:
    rows, new = r.chopthin(eta, n)(log_weight, rng)
    target = len(log_weight) if n is None else n
    assert len(new) == target
    if log_weight.max() > -np.inf:
        assert np.ptp(new) <= math.log(eta) + 1e-9
        assert effective_sample_size(new) >= target * 4 * eta / (1 + eta) ** 2 - 1e-9
    if rows is not None:
        counts = np.bincount(rows, minlength=len(log_weight))
        chopped = np.flatnonzero(counts > 1)
        total = np.bincount(rows, np.exp(new - new.max()), minlength=len(log_weight))
        assert total[chopped] == pytest.approx(np.exp(log_weight[chopped] - new.max()), rel=1e-9)


def test_chopthin_leaves_even_weights_alone() -> None:
    log_weight = np.log([1.0, 1.9, 1.5, 2.0])
    rows, new = r.chopthin(4.0)(log_weight, Fixed(0.5))
    assert rows is None and new is log_weight


def test_chopthin_on_many_rows() -> None:
    log_weight = 3 * np.random.default_rng(0).standard_cauchy(3000).clip(-200, 200)
    rows, new = r.chopthin()(log_weight, Streams(0).at("resample", 1))
    assert len(rows) == 3000 and np.ptp(new) <= math.log(3 + math.sqrt(8)) + 1e-9


def test_mean_partition_shows_the_light_rows_first() -> None:
    seen = []

    def spy(log_weight, rng):
        seen.append(log_weight)
        return np.array([0, 0, 3, 2]), np.arange(4.0)

    log_weight = np.log([5.0, 1.0, 6.0, 2.0])
    rows, new = r.mean_partition(spy)(log_weight, Fixed(0.5))
    assert np.array_equal(seen[0], np.log([1.0, 2.0, 5.0, 6.0]))
    assert rows.tolist() == [1, 1, 2, 0] and new.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("measure", ["ess", "max"])
def test_adaptive_triggers_below_the_threshold(measure) -> None:
    weight = np.array([0.6, 0.25, 0.1, 0.05])
    share = {"ess": 1 / (weight @ weight) / 4, "max": 1 / weight.max() / 4}[measure]
    for ess, resampled in ((share * 0.999, False), (share * 1.001, True)):
        rows, _ = r.adaptive(r.ssp, ess, measure=measure)(np.log(weight) + 7, Fixed(0.3, 0.8))
        assert (rows is not None) == resampled


def test_adaptive_leaves_equal_weights_alone() -> None:
    assert all(r.adaptive(r.ssp, 0.99)(np.full(n, -math.log(n)), Fixed(0.5))[0] is None for n in range(1, 50))


def test_islands_resample_apart() -> None:
    scheme = r.islands(r.adaptive(r.systematic, 0.9), 3)
    log_weight = np.array([0.0, 0.0, 0.0, 9.0, -np.inf, -np.inf])
    rows, new = scheme(log_weight, Fixed(0.5))
    assert rows.tolist() == [0, 1, 3, 3, 4, 5]
    assert new[:2].tolist() == [0.0, 0.0] and (new[4:] == -np.inf).all()
    assert scheme(np.zeros(6), Fixed(0.5))[0] is None
    with pytest.raises(ArgumentError, match="such as 6 or 9"):
        scheme(np.zeros(7), Fixed(0.5))


@unhurried
@given(st.integers(0, 2**32))
def test_islands_stay_apart_in_place(seed) -> None:
    log_weight = 3 * np.random.default_rng(seed).standard_normal(12)
    rows, new = r.islands(r.multinomial, 3)(log_weight, Streams(seed).at("resample", 1))
    rows, _ = r.put_in_place(rows, new, 12)
    assert np.array_equal(rows // 4, np.arange(12) // 4)


def test_then_composes_rows() -> None:
    scheme = r.then(r.split(2), r.optimal(3))
    rows, new = scheme(np.log([4.0, 1.0]), Fixed(0.3))
    assert rows.tolist() == [0, 0, 1]
    assert new == pytest.approx(np.log([2.0, 2.0, 1.0]))
    assert r.then(r.never, r.never)(np.zeros(2), Fixed(0.5))[0] is None


@pytest.mark.parametrize("scheme", [s for s in RESAMPLERS if s is not r.never], ids=lambda s: s.__name__)
def test_no_mass_and_bad_weights(scheme) -> None:
    rows, new = scheme(DEAD, Fixed(0.5))
    assert rows is None and new is DEAD
    for bad in (np.nan, np.inf):
        with pytest.raises(WeightError, match="row 1"):
            scheme(np.array([0.0, bad, -np.inf, 1.0]), Fixed(0.5))


def test_names() -> None:
    assert repr(r.islands(r.adaptive(r.ssp, 0.5), 8)) == "islands(adaptive(ssp, ess=0.5), 8)"
    assert repr(r.then(r.split(4), r.optimal(16))) == "then(split(4), optimal(16))"
    assert repr(r.mean_partition(r.shrink(r.systematic, 3))) == "mean_partition(shrink(systematic, 3))"
    assert repr(r.adaptive(r.chopthin(4), 0.25, measure="max")) == "adaptive(chopthin(eta=4), ess=0.25, measure=max)"
    for name, scheme in r.SCHEMES.items():
        assert r.by_name(name) is scheme and scheme.__name__.startswith(name)
    with pytest.raises(ArgumentError, match="multinomial, residual, stratified, systematic, ssp"):
        r.by_name("sytematic")
    for value in (bytearray(b"ssp"), ["ssp"], np.array(["ssp", "never"]), None):
        with pytest.raises(ArgumentError, match="no resampler is called"):
            r.by_name(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: r.adaptive(r.ssp, -0.1),
        lambda: r.adaptive(r.ssp, 1.5),
        lambda: r.adaptive(r.ssp, math.nan),
        lambda: r.adaptive(r.ssp, measure="entropy"),
        lambda: r.adaptive(r.ssp, measure=np.array(["ess", "max"])),
        lambda: r.adaptive("ssp"),
        lambda: r.then(r.ssp, None),
        lambda: r.during(int, [1]),
        lambda: r.mean_partition(0.5),
        lambda: r.islands(r.ssp, 0),
        lambda: r.islands(r.ssp, 2.0),
        lambda: r.optimal("4"),
        lambda: r.split(10**30),
        lambda: r.chopthin("8"),
        lambda: r.split(0),
        lambda: r.optimal(0),
        lambda: r.shrink(r.ssp, 0),
        lambda: r.shrink(r.killing, 3),
        lambda: r.shrink(r.adaptive(r.ssp), 3),
        lambda: r.chopthin(3.9),
        lambda: r.chopthin(math.nan),
        lambda: r.chopthin(n=0),
        lambda: r.systematic(np.zeros(3), Fixed(0.5), n=0),
    ],
)
def test_bad_arguments(make) -> None:
    with pytest.raises(ArgumentError):
        make()


@unhurried
@given(st.integers(1, 12), st.data())
def test_in_place(n, data) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=12)))
    log_weight = np.arange(len(rows), dtype=float)
    placed, new = r.put_in_place(rows, log_weight, n)
    assert sorted(zip(placed, new, strict=True)) == sorted(zip(rows, log_weight, strict=True))
    for i in set(rows.tolist()):
        assert i >= len(rows) or placed[i] == i


def test_in_place_on_many_rows() -> None:
    rows = np.random.default_rng(0).integers(0, 5000, size=5000)
    placed, new = r.put_in_place(rows, rows.astype(float), 5000)
    assert np.array_equal(placed, new.astype(int)) and np.array_equal(np.sort(placed), np.sort(rows))
    assert (placed[np.unique(rows)] == np.unique(rows)).all()


@pytest.mark.parametrize("rows", [[0, 3], [-1, 0], [0, 1, 1], []])
def test_in_place_refuses_parents_that_do_not_exist(rows) -> None:
    with pytest.raises(ArgumentError, match="a resampler returned"):
        r.put_in_place(np.array(rows, dtype=np.int64), np.zeros(2), 3)


def test_a_window_resamples_before_its_steps_and_before_no_others() -> None:
    log_weight = np.log([0.7, 0.1, 0.1, 0.1])
    window = r.during(r.systematic, [4, 2])
    schemes = [
        window, r.adaptive(window, 1.0), r.islands(r.adaptive(window, 1.0), 2), r.mean_partition(window),
        r.then(r.split(2), r.then(window, window)), r.during(window, range(1, 9)),
    ]  # fmt: skip
    for scheme in schemes:
        drawn = [r.at_step(scheme, t)(log_weight, Streams(0).at("resample", t))[0] for t in range(6)]
        moved = [rows is not None and list(rows) != sorted([0, 1, 2, 3] * (len(rows) // 4)) for rows in drawn]
        assert moved == [False, False, True, False, True, False], scheme
    assert repr(r.islands(window, 2)) == "islands(during(systematic, (2, 4)), 2)"
    assert r.at_step(r.ssp, 3) is r.ssp


def test_a_window_that_is_not_told_the_step_says_so() -> None:
    with pytest.raises(ArgumentError, match=r"during\(ssp, range\(2, 5\)\) must be told the step; ask its at\(t\)"):
        r.adaptive(r.during(r.ssp, range(2, 5)), 1.0)(np.log([0.9, 0.1]), Streams(0).at("resample", 1))


@pytest.mark.parametrize("steps", [[], [0, 2], 3, "2", [1.5], range(0), None, [True]])
def test_what_are_no_numbers_of_steps_is_refused(steps) -> None:
    with pytest.raises(ArgumentError, match=r"during: steps is .*such as range\(20, 81, 20\)"):
        r.during(r.ssp, steps)
