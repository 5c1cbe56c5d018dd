"""A draw is a function of (seed, stream, group, step, slot), and of nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from feynkac.base.errors import ArgumentError
from feynkac.smc.rng import KeyedRng, Streams

STREAMS = ("init", "propose", "resample", "move", "output")


def draws(rng: KeyedRng, n: int) -> list[np.ndarray]:
    """One draw of each kind, in a fixed order."""
    log_p = np.log(np.array([0.2, 0.5, 0.3]))
    return [rng.uniform(n), rng.normal((n, 2)), rng.categorical(np.tile(log_p, (n, 1))), rng.uniform(n)]


@pytest.mark.parametrize("n", [1, 2, 5, 63])
def test_entry_i_does_not_depend_on_n(n: int) -> None:
    many = draws(Streams(7).at("propose", 3), 64)
    for part, whole in zip(draws(Streams(7).at("propose", 3), n), many, strict=True):
        np.testing.assert_array_equal(part, whole[:n])


def test_groups_draw_what_each_draws_alone() -> None:
    sizes = [3, 1, 4]
    together = draws(Streams(7).at("propose", 3, sizes), 8)
    ends = np.cumsum(sizes)
    for g, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        by_number = draws(Streams(7).at("propose", 3, group=g), size)
        alone = draws(Streams(7, group=g).at("propose", 3, [size]), size)
        for whole, named, own in zip(together, by_number, alone, strict=True):
            np.testing.assert_array_equal(whole[end - size : end], named)
            np.testing.assert_array_equal(named, own)


def test_every_key_gives_other_numbers() -> None:
    values = [
        Streams(seed, group=0).child(child).at(stream, step, group=group).uniform(1)[0]
        for seed in (0, 1, 2**32, 2**32 + 1, 3 * 2**32)
        for child in (0, 1)
        for stream in STREAMS
        for step in (0, 1, 2)
        for group in (0, 1)
    ]
    values += [Streams(seed).at(stream, 0).uniform(1)[0] for seed in (0, 1, 2**32, 2**32 + 1) for stream in STREAMS]
    # 53-bit numbers: a chance agreement among 320 has probability 6e-12.
    assert len(set(values)) == len(values)


def test_a_long_seed_does_not_run_into_the_number_of_a_stream() -> None:
    # SeedSequence([5, 3]) and SeedSequence([5 + 3 * 2**32, 0]) are one: entropy must be padded before the stream.
    a = Streams(5).at("move", 0).uniform(4)
    b = Streams(5 + 3 * 2**32).at("init", 0).uniform(4)
    assert not np.any(a == b)


def test_a_seed_repeats_a_run_and_is_kept_when_it_is_drawn() -> None:
    streams = Streams()
    np.testing.assert_array_equal(
        streams.at("resample", 9).uniform(5), Streams(streams.seed).at("resample", 9).uniform(5)
    )
    assert Streams().seed != streams.seed


def test_calls_of_one_stream_are_fresh_and_slots_independent() -> None:
    rng = Streams(11).at("propose", 0)
    a, b = rng.uniform(20_000), rng.uniform(20_000)
    for left, right in [(a, b), (a[:-1], a[1:])]:
        # Under independence sqrt(n) times the correlation is standard normal: |z| < 4.42 fails once in 100 000.
        z = math.sqrt(len(left)) * np.corrcoef(left, right)[0, 1]
        assert abs(z) < 4.42


def test_a_draw_for_another_number_of_rows_is_refused() -> None:
    with pytest.raises(ArgumentError, match="5 rows from a stream over groups of"):
        Streams(0).at("propose", 0, [2, 2]).uniform(5)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ArgumentError, match="seed -1"):
        Streams(-1)


# --- categorical ----------------------------------------------------------------------------------------------------


class Scripted(KeyedRng):
    """Draws with given uniforms."""

    def __init__(self, *u: float) -> None:
        self.u = np.array(u)

    def uniform(self, n: int) -> np.ndarray:
        assert n == len(self.u)
        return self.u


NEAR_ONE = 1 - 2**-53


def assert_never_without_mass(rng_class: type[Scripted]) -> None:
    """No uniform, not even at its very edges, picks a category of probability zero."""
    rows = [[0, 0.3, 0.7, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1e-300, 1, 1e-300]]
    rows += [[0, 1 / 3, 1 / 3, 1 / 3], [0.1] * 4, [0, 0.1, 0.2, 0.7], [5e-324, 0, 0, 5e-324]]
    with np.errstate(divide="ignore"):
        log_p = np.log(np.array(rows))
    for u in (0.0, 5e-324, 2**-53, 0.25, 1 / 3, 0.5, 2 / 3, NEAR_ONE - 2**-53, NEAR_ONE):
        drawn = rng_class(*[u] * len(rows)).categorical(log_p)
        assert np.isfinite(log_p[np.arange(len(rows)), drawn]).all(), f"u = {u} picked {drawn}"


def test_categorical_never_picks_what_has_no_mass() -> None:
    assert_never_without_mass(Scripted)


def test_mutant_compares_with_less_than() -> None:
    class Mutant(Scripted):
        def categorical(self, log_p: np.ndarray) -> np.ndarray:
            cdf = np.cumsum(np.exp(log_p - log_p.max(axis=1, keepdims=True)), axis=1)
            return (cdf < self.uniform(len(log_p))[:, None] * cdf[:, -1:]).sum(axis=1)

    with pytest.raises(AssertionError, match=r"u = 0\.0"):
        assert_never_without_mass(Mutant)


def test_mutant_sets_the_last_sum_to_one() -> None:
    class Mutant(Scripted):
        def categorical(self, log_p: np.ndarray) -> np.ndarray:
            p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
            cdf = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
            cdf[:, -1] = 1.0
            return (cdf <= self.uniform(len(log_p))[:, None]).sum(axis=1)

    rows = np.array([[0.1] * 10 + [0.0]])  # ten tenths add up to 1 - 2^-53
    with np.errstate(divide="ignore"):
        log_p = np.log(rows)
    assert Mutant(NEAR_ONE).categorical(log_p)[0] == 10, "the dead last category is revived"
    assert Scripted(NEAR_ONE).categorical(log_p)[0] == 9


def test_categorical_has_the_right_law() -> None:
    p = np.array([0.05, 0.0, 0.6, 0.35])
    with np.errstate(divide="ignore"):
        log_p = np.tile(np.log(p) + 3.0, (100_000, 1))
    counts = np.bincount(Streams(5).at("propose", 0).categorical(log_p), minlength=4)
    assert counts[1] == 0
    expected = 100_000 * p[p > 0]
    chi2 = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert chi2 < 23.03  # 2 degrees of freedom: exceeded once in 100 000


def test_a_row_without_mass_draws_zero_and_nan_is_named() -> None:
    log_p = np.array([[0.0, 0.0], [-np.inf, -np.inf]])
    assert Streams(0).at("propose", 0).categorical(log_p)[1] == 0
    log_p[1] = [0.0, np.nan]
    with pytest.raises(ArgumentError, match="nan in row 1"):
        Streams(0).at("propose", 0).categorical(log_p)
