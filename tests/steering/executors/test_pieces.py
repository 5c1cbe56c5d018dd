"""A call in pieces says what one process says: the same numbers, the same results, the islands combined exactly."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest

import feynkac as fk
from feynkac.smc.engine import Step
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.algorithms import Batch, Plan
from feynkac.steering.executors.merging import merge_islands
from feynkac.steering.executors.pieces import Call, cut
from feynkac.steering.jobs import Control, drive
from feynkac.steering.problems import read_problems
from feynkac.steering.recorder import Recorder
from tests.exact.toys import Problem, TextModel, TextPotential, Texts, chain, text_truth

ALGORITHMS = ("smc", "optimal", "importance", "best_of_n", "beam", "gibbs", "exact")


def score(text: str) -> float:
    return 1.5 * text.count("ab")


def assert_same(one: fk.Result, other: fk.Result) -> None:
    """Two results are equal, bit for bit, in all but the time that they took."""
    for each in fields(fk.Result):
        if each.name not in ("timing", "reader"):
            np.testing.assert_equal(getattr(one, each.name), getattr(other, each.name), each.name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_list_of_problems_in_pieces_is_what_it_is_in_one_batch(tiny_lm, algorithm) -> None:
    lm = tiny_lm()
    tasks = [lm.prompt("a", max_tokens=4), lm.prompt("bba", max_tokens=3), lm.prompt("e", max_tokens=4)]
    reward = fk.reward(lambda text, problem: score(text) + problem.index)
    options = {"particles": 8, "seed": 5, "algorithm": algorithm}
    whole = fk.steer(tasks, reward, **options)
    for jobs in (1, 2, 3, 9):
        found = fk.steer(tasks, reward, executor=fk.LocalExecutor(jobs), **options)
        for one, other in zip(whole, found, strict=True):
            assert one.texts == other.texts and one.history.rows == other.history.rows
            # Logits of another batch are rounded in another way.
            np.testing.assert_allclose(one.log_weights, other.log_weights, atol=1e-5)
            assert one.forwarded_tokens == other.forwarded_tokens and one.warnings == other.warnings


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_islands_are_the_same_however_they_are_cut(tiny_lm, algorithm) -> None:
    task = tiny_lm().prompt("a", max_tokens=5)
    options = {"particles": 16, "islands": 4, "seed": 2, "algorithm": algorithm}
    first, *others = [fk.steer(task, score, executor=fk.LocalExecutor(jobs), **options) for jobs in (1, 2, 3, 4)]
    for other in others:
        assert first.texts == other.texts and first.history.rows == other.history.rows
        np.testing.assert_allclose(first.log_weights, other.log_weights, atol=1e-5)
    assert len(first.samples) == len(fk.steer(task, score, **options).samples)


def test_the_same_pieces_give_the_same_bits(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=5)
    one, other = [
        fk.steer(task, score, particles=8, islands=4, seed=2, executor=fk.LocalExecutor(jobs=2)) for _ in range(2)
    ]
    assert_same(one, other)


@pytest.mark.parametrize("islands", [1, 2])
def test_chains_of_gibbs_have_the_numbers_that_they_have_in_one_process(tiny_lm, islands) -> None:
    lm = tiny_lm()
    tasks = [lm.prompt("a", max_tokens=4), lm.prompt("b", max_tokens=3)]
    options = {"particles": 8, "islands": islands, "seed": 3, "algorithm": "gibbs", "sweeps": 3}
    pairs = zip(
        fk.steer(tasks, score, **options),
        fk.steer(tasks, score, executor=fk.LocalExecutor(3), **options),
        strict=True,
    )
    for one, other in pairs:
        assert one.texts == other.texts and one.history.sweeps == other.history.sweeps
        np.testing.assert_allclose(one.log_weights, other.log_weights, atol=1e-5)
        assert one.log_evidence_se == pytest.approx(other.log_evidence_se, abs=1e-6)


def test_of_chains_of_gibbs_those_count_that_have_ended_a_sweep(tiny_lm) -> None:
    """As in one process: a chain that was stopped in its first sweep knows nothing of the target yet."""
    task = tiny_lm(eos=()).prompt("a", max_tokens=4)
    options = {"particles": 4, "seed": 3, "algorithm": "gibbs", "sweeps": 3}
    early, later = (fk.steer(task, score, budget=fk.Budget(calls=calls), **options) for calls in (2, 9))
    assert not early.history.sweeps and len(later.history.sweeps) == 2
    for parts in ([early, later], [later, early]):
        merged = merge_islands(parts, [None, None])
        assert merged.log_evidence == later.log_evidence and merged.texts == later.texts
        assert merged.history.sweeps == later.history.sweeps and not merged.complete
        np.testing.assert_array_equal(merged.log_weights, later.log_weights)
    assert merge_islands([early, early], [None, None]).log_evidence_interval() == (-math.inf, math.inf)


class Slices:
    """Recorders of the islands of a run, each of which sees its own slice, and one of the whole."""

    def __init__(self, islands: int) -> None:
        self.whole, self.parts = Recorder(0, islands), [Recorder(b, 1) for b in range(islands)]

    def __call__(self, step: Step) -> None:
        self.whole(step)
        size = len(step.rows) // len(self.parts)
        groups = tuple(slice(size * b, size * (b + 1)) for b in range(len(self.parts)))
        moved = tuple(bool((step.rows[part] != np.arange(part.start, part.stop)).any()) for part in groups)
        more = math.log(len(self.parts))
        weights = {"log_weight": step.log_weight + more, "carried": step.carried + more}
        apart = replace(step, **weights, groups=groups, parents=groups, resampled=moved)
        for part in self.parts:
            part(apart)


@pytest.mark.parametrize("algorithm", ["smc", "importance"])
@pytest.mark.parametrize("seed", range(6))
def test_merged_islands_say_what_one_run_of_all_of_them_says(algorithm, seed) -> None:
    from feynkac.base.clock import Stopwatch
    from feynkac.smc.observers import run
    from feynkac.smc.rng import Streams

    slices, toy = Slices(4), chain(6)
    problems = read_problems(toy.model, [toy.potential])
    batch = Batch(problems, Plan(algorithm, 32, 4, "ssp", 0.7, None), Streams(seed), seed)
    run(batch._steps, slices)
    options = {"complete": True, "warnings": [], "algorithm": algorithm}
    whole = slices.whole.make_result(Stopwatch(), seed, **options)
    parts = [part.make_result(Stopwatch(), seed, **options) for part in slices.parts]
    merged = merge_islands(parts, [None] * 4)
    for each in fields(fk.Result):
        one, other = getattr(whole, each.name), getattr(merged, each.name)
        if each.name in ("history", "diagnostics"):
            for inner in fields(one):
                if inner.name in ("pieces", "killers"):
                    assert getattr(one, inner.name) == getattr(other, inner.name)
                    continue
                # Sums of logarithms come in another order: equal to rounding, which of histories is to six decimals.
                least = 1e-6 if inner.name in ("log_weights", "carried") else 1e-9
                np.testing.assert_allclose(
                    getattr(one, inner.name), getattr(other, inner.name), rtol=1e-9, atol=least, err_msg=inner.name
                )
        elif each.name == "samples":
            assert [len(sample) for sample in one] == [len(sample) for sample in other]
        elif each.name == "log_evidence_se":
            assert one == pytest.approx(other, rel=1e-9)
        elif each.name in ("log_weights", "log_evidence"):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
        elif each.name not in ("timing", "reader"):
            assert one == other, each.name


class ShownTexts(Texts):
    def samples(self, rows):
        return [self.texts[row] for row in rows]


class ShownModel(TextModel):
    population = ShownTexts


def test_merged_islands_weigh_properly() -> None:
    problem = Problem(limit=2)
    problems, truth = read_problems(ShownModel([problem]), [TextPotential()]), text_truth(problem)

    def run(rng) -> fk.Result:
        batch = Batch(problems, Plan("smc", 2, 1, "multinomial", 0.7, None), rng, 0)
        drive(batch, Control())
        return batch.collect(True)[0]

    # All runs of one island, then of two: those of equal outcome are one.
    islands: dict[tuple, tuple[float, fk.Result]] = {}
    for p, result in enumerate_runs(run):
        key = (*result.samples, *result.log_weights.round(12))
        islands[key] = (p + islands.get(key, (0.0, result))[0], result)
    mean, whole = dict.fromkeys(truth, 0.0), 0.0
    for (p, one), (q, other) in itertools.product(islands.values(), repeat=2):
        merged = merge_islands([one, other], [None, None])
        whole += p * q
        assert merged.log_evidence == pytest.approx(np.logaddexp.reduce(merged.log_weights))
        for sample, log_w in zip(merged.samples, merged.log_weights, strict=True):
            if log_w > -np.inf:
                mean[sample] += p * q * math.exp(log_w)
    assert whole == pytest.approx(1.0, abs=1e-12)
    for sample, mass in truth.items():
        assert mean[sample] == pytest.approx(mass, abs=1e-12)


def test_a_call_is_cut_into_ranges_that_cover_it() -> None:
    toy = chain()
    call = Call(read_problems([toy.model] * 5, [toy.potential]), Plan("smc", 6, 3, "ssp", 0.5, None), 0)
    for jobs in (1, 4, 15, 40):
        pieces = cut(call, jobs)
        assert [unit for piece in pieces for unit in piece.units] == list(range(15))
        assert {len(piece.units) for piece in pieces} <= {15 // min(jobs, 15), -(-15 // min(jobs, 15))}


def test_islands_of_a_model_that_cannot_join_run_one_by_one() -> None:
    toy = chain(4)
    results = [
        fk.steer(toy.model, toy.potential, particles=8, islands=4, seed=1, executor=fk.LocalExecutor(jobs))
        for jobs in (1, 2, 4)
    ]
    assert np.array_equal(results[0].log_weights, results[1].log_weights)
    assert np.array_equal(results[0].log_weights, results[2].log_weights)
    with pytest.raises(fk.ArgumentError, match="one by one"):
        fk.steer([toy.model] * 2, toy.potential, seed=1, executor=fk.LocalExecutor(2))


def test_waste_free_chains_are_divided_among_the_islands(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=6)
    options = {"particles": 16, "islands": 2, "seed": 1, "moves": fk.redraw(2, chains=4)}
    one, other = (fk.steer(task, score, executor=fk.LocalExecutor(jobs), **options) for jobs in (1, 2))
    assert one.texts == other.texts and len(one.samples) == 16
    with pytest.raises(fk.ArgumentError, match="multiple of the islands"):
        options |= {"moves": fk.redraw(2, chains=1)}
        fk.steer(task, score, executor=fk.LocalExecutor(2), **options)


def test_programs_and_their_tokens_run_in_pieces(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    @fk.program
    def pair(p):
        text = lm.context("a")
        return p.sample(text.next_token())

    one, other = (fk.steer(pair(), particles=8, islands=2, seed=1, executor=fk.LocalExecutor(j)) for j in (1, 2))
    assert one.samples == other.samples
