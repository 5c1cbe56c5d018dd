"""Programs as users meet them: forks, replay, random numbers, contexts, and one clear error for each mistake."""

from __future__ import annotations

import copy
import gc
import random
import re
import time

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ProgramError, ReplayDiverged
from feynkac.programs import Bernoulli, Categorical, Geometric, Normal, Uniform, program
from feynkac.smc.resample import multinomial

# --- forks ---------------------------------------------------------------------------------------------------------


@program
def collector(p, steps):
    items, table, kinds = [], {}, set()
    for i in range(steps):
        x = p.sample(Categorical({"a": 1, "b": 1, "c": 1}))
        items.append(x)
        table[x] = table.get(x, 0) + 1
        kinds.add((i, x))
        p.factor({"a": 0.0, "b": 1.0, "c": -1.0}[x])
    return "".join(items), tuple(sorted(table.items())), tuple(sorted(kinds))


def test_forks_share_nothing_that_can_change() -> None:
    result = fk.steer(collector(12), particles=64, seed=1, resampler=multinomial)
    assert result.history.unique_ancestors[-1] < 64
    for text, table, kinds in result.samples:
        assert len(text) == 12
        assert dict(table) == {letter: text.count(letter) for letter in sorted(set(text))}
        assert kinds == tuple(sorted(enumerate(text)))


def test_a_population_never_changes() -> None:
    from feynkac.potentials import product
    from feynkac.smc.engine import smc
    from feynkac.smc.rng import Streams

    model = collector(5)
    steps = list(smc(model, product(), n=8, resample=multinomial, rng=Streams(3)))
    first = steps[1]
    again, increment = model.step(2, first.state, Streams(7).at("propose", 2, (8,)))
    twice, same = model.step(2, first.state, Streams(7).at("propose", 2, (8,)))
    assert [row.tail[3] for row in again.rows] == [row.tail[3] for row in twice.rows]
    np.testing.assert_array_equal(increment, same)
    assert steps[-1].done.all() and not model.done(first.state).any()


def test_replay_costs_a_microsecond_a_choice_or_so() -> None:
    from feynkac.programs.runtime.execution import Execution
    from feynkac.smc.rng import Streams

    @program
    def coins(p, n):
        for _ in range(n):
            p.sample(Bernoulli(0.5))

    state = coins(1001).init(1, Streams(0).at("init", 0))
    for t in range(1000):
        state, _ = coins(1001).step(t, state, Streams(0).at("propose", t, (1,)))
    row, best = state.rows[0], np.inf
    for _ in range(10):
        began = time.perf_counter()
        twin = Execution(state.run, 0, row.call, row.tail)
        twin.expected = row.request
        twin.resume(None)
        best = min(best, time.perf_counter() - began)
    assert best / 1000 < 5e-6  # the benchmark has the figure; here is room for a busy machine


# --- random numbers ------------------------------------------------------------------------------------------------


@program
def noisy(p, steps):
    total, rng = 0.0, p.rng
    for _ in range(steps):
        p.sample(Bernoulli(0.5))
        total += float(rng.normal())
        p.factor(total)
    return total


def test_a_seed_repeats_a_run_whatever_else_is_in_the_batch() -> None:
    alone = fk.steer(noisy(4), particles=6, seed=5, algorithm="importance")
    many = fk.steer(noisy(4), particles=9, seed=5, algorithm="importance")
    assert alone.samples == many.samples[:6]
    both = fk.steer([noisy(4), noisy(4)], particles=6, seed=5, algorithm="importance")
    assert both[0].samples == alone.samples and both[1].samples != alone.samples


def test_children_of_one_particle_draw_their_own_numbers() -> None:
    result = fk.steer(noisy(6), particles=64, seed=0, resampler=multinomial, ess_threshold=1.0)
    assert len(set(result.samples)) == 64


@pytest.mark.parametrize(
    "dist", [Uniform(-1, 3), Normal(2.0, 0.5), Geometric(0.3), Bernoulli(0.3), Categorical([1, 0, 3])]
)
def test_draws_have_the_moments_of_their_distribution(dist) -> None:
    @program
    def draw(p):
        return float(p.sample(dist))

    values = np.array(fk.steer(draw(), particles=4000, seed=2, algorithm="importance").samples)
    mean = {"Uniform": 1.0, "Normal": 2.0, "Geometric": 1 / 0.3, "Bernoulli": 0.3, "Categorical": 1.5}[dist.key[0]]
    assert abs(values.mean() - mean) < 4.5 * values.std() / np.sqrt(4000)
    assert np.isfinite([dist.log_prob(x) for x in set(values[:50])]).all() or dist.key[0] == "Categorical"


@pytest.mark.parametrize("one", [1, True, 1.0, np.int64(1), np.array([1]), "a tensor"], ids=repr)
def test_a_number_of_any_kind_is_an_outcome(one) -> None:
    torch = pytest.importorskip("torch")
    one = torch.tensor(1) if one == "a tensor" else one
    for law in (Categorical([1, 3]), Categorical({0: 1, 1: 3}), Bernoulli(0.75)):
        assert law.log_prob(one) == pytest.approx(np.log(0.75))


@pytest.mark.parametrize("other", [0.5, np.nan, np.inf, 2, -1, "1", None, np.array([1, 1])], ids=repr)
def test_what_is_no_outcome_has_no_probability(other) -> None:
    assert Categorical([1, 3]).log_prob(other) == -np.inf


def test_a_proposal_of_another_library_is_weighed_by_what_it_drew() -> None:
    torch = pytest.importorskip("torch")

    @program
    def draw(p):
        return int(p.sample(Categorical([1, 3]), proposal=torch.distributions.Categorical(torch.tensor([0.5, 0.5]))))

    result = fk.steer(draw(), particles=16, seed=0, algorithm="importance")
    weights = 16 * np.exp(result.log_weights)
    assert {*result.samples} == {0, 1}
    np.testing.assert_allclose(weights, [[0.5, 1.5][sample] for sample in result.samples], rtol=1e-6)


def test_distributions_of_other_libraries() -> None:
    import torch

    class Fair:
        def sample(self):
            return random.random()

        def log_prob(self, value):
            return 0.0

    @program
    def mixed(p):
        a = p.sample(torch.distributions.Normal(0.0, 1.0))
        b = p.sample(Fair())
        p.observe(torch.distributions.Normal(a, 1.0), torch.tensor(0.5))
        return float(a), b

    before = random.getstate(), torch.get_rng_state()
    first, second = (fk.steer(mixed(), particles=16, seed=3, resampler=multinomial) for _ in range(2))
    assert first.samples == second.samples and len(set(first.samples)) > 4
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_frozen_distributions_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")

    @program
    def mixed(p):
        k = p.sample(stats.binom(5, 0.3))
        x = p.sample(stats.norm(k, 1.0), proposal=Normal(0.0, 3.0))
        p.observe(stats.norm(x, 1.0), 1.0)
        return int(k)

    result = fk.steer(mixed(), particles=400, seed=3)
    exact = [stats.binom(5, 0.3).pmf(k) * stats.norm(k, 2**0.5).pdf(1.0) for k in range(6)]
    assert result.log_evidence == pytest.approx(np.log(sum(exact)), abs=0.3)


def test_sampled_tensors_are_each_forks_own() -> None:
    import torch

    @program
    def summed(p):
        states = []
        for _ in range(5):
            x = p.sample(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1))
            states.append(x)
            for state in states:
                state += 1.0
            p.factor(float(x[0]))
        return [round(float(state[0]) - age, 5) for age, state in zip(range(5, 0, -1), states, strict=True)]

    result = fk.steer(summed(), particles=32, seed=0, resampler=multinomial, ess_threshold=1.0)
    assert all(abs(x) < 6 for sample in result.samples for x in sample)
    first = [sample[0] for sample in result.samples]
    assert len(set(first)) < 32  # there were forks, and no child was given its parent's changes


# --- contexts ------------------------------------------------------------------------------------------------------


def test_a_context_is_its_text(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "ab")

    @program
    def look(p):
        text = lm.context("ab")
        text.append("a")
        text.append([2])
        twin, copied = text.fork(), copy.copy(text)
        twin.append("b")
        assert (str(text), len(text), text.bytes, text.ended) == ("ab", 2, b"ab", False)
        assert [token.id for token in text.tokens] == [1, 2] and str(twin) == "abb" and str(copied) == "ab"
        token = p.sample(text.next_token())
        assert token.is_eos == text.ended and (token.is_eos or str(text).endswith(token))
        p.observe(twin.next_token(), twin.eos)
        assert twin.ended and str(twin) == "abb"
        return str(text)

    assert len(fk.steer(look(), particles=4, seed=0, algorithm="importance").samples) == 4


def test_two_contexts_are_forwarded_together(tiny_lm) -> None:
    lm, calls = tiny_lm("a", "b", eos=()), []
    opened = lm.open

    def counted(*args):
        store = opened(*args)
        extend = store.extend
        store.extend = lambda parents, tokens: calls.append((tokens >= 0).sum()) or extend(parents, tokens)
        return store

    @program
    def both(p):
        first, second = lm.context("ab"), lm.context("b")
        for _ in range(5):
            p.observe(second.next_token(), p.sample(first.next_token()))
        return str(first)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "open", counted)
        fk.steer(both(), particles=4, seed=0, algorithm="importance")
    assert len(calls) == 4  # one prefill, and one pass for each later token of both contexts


def test_units_of_text(tiny_lm) -> None:
    lm = tiny_lm("a", " ", ".", "b ", "a. ")

    @program
    def words(p):
        text = lm.context("a")
        found = []
        while not text.ended and len(found) < 4:
            found.append(p.sample(text.gen(unit="word", max_tokens=6)))
        return tuple(found), str(text), text.ended

    result = fk.steer(words(), particles=200, seed=0, algorithm="importance")
    assert result.log_evidence == pytest.approx(0.0, abs=1e-5)
    for found, text, _ in result.samples:
        assert "".join(found) == text
        assert all(len(word.split()) <= 1 for word in found)


def test_units_of_scripts_without_blanks_end_where_they_do(tiny_lm) -> None:
    lm = tiny_lm("語", "。", "」", "\u3000")

    @program
    def pieces(p):
        text = lm.context("語")
        sentence = p.sample(text.gen(unit="sentence"))
        word = "" if text.ended else p.sample(text.gen(unit="word"))
        return sentence, word, str(text), text.ended

    result = fk.steer(pieces(), particles=100, seed=0, algorithm="importance")
    assert result.log_evidence == pytest.approx(0.0, abs=1e-5)
    for sentence, word, text, ended in result.samples:
        assert sentence + word == text
        if not ended:
            assert re.fullmatch("[^。]*。[。」]*", sentence) and re.fullmatch("\u3000*[語。」]+", word)


def test_a_choice_and_a_schema(tiny_lm) -> None:
    lm = tiny_lm("y", "n", "es", "o", "1", "2")

    @program
    def answer(p):
        text = lm.context("y")
        return p.sample(text.gen(choices=["yes", "no"])), p.sample(
            text.gen(json_schema={"type": "integer"}, max_tokens=3)
        )

    result = fk.steer(answer(), particles=20, seed=0, on_death="return")
    for word, number in (s for s, w in zip(result.samples, result.weights, strict=True) if w > 0):
        assert word in ("yes", "no") and number.isdigit()


def test_prints_say_who_and_when_and_replays_are_silent(capsys) -> None:
    @program
    def talker(p):
        for _ in range(3):
            x = p.sample(Bernoulli(0.5))
            print(f"saw {x}")
            p.factor(2.0 * x)
        return 0

    fk.steer(talker(), particles=8, seed=0, resampler=multinomial, ess_threshold=1.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24 and lines[0].startswith("[particle 0, step 0] saw ")


def test_once_is_called_once() -> None:
    calls = []

    @program
    def judged(p):
        for _ in range(4):
            p.sample(Bernoulli(0.5))
            p.factor(p.once(lambda: calls.append(1) or random.random()))
        return 0

    fk.steer(judged(), particles=16, seed=0, resampler=multinomial, ess_threshold=1.0)
    assert len(calls) == 64


def test_unfinished_particles_show_their_text(tiny_lm) -> None:
    lm = tiny_lm("a", "e")

    @program
    def dies(p):
        text = lm.context("a")
        p.sample(text.next_token())
        p.condition(False)

    result = fk.steer(dies(), particles=4, seed=0, on_death="return")
    assert set(map(str, result.samples)) <= {"a", "e", ""} and result.log_evidence == -np.inf
    with pytest.raises(fk.AllParticlesDied, match="unfinished"):
        fk.steer(dies(), particles=4, seed=0)


def test_gibbs_over_a_program() -> None:
    from feynkac.potentials import product
    from feynkac.smc.conditional import gibbs
    from feynkac.smc.rng import Streams

    chain = gibbs(noisy(3), product(), n=8, sweeps=4, rng=Streams(0), resample=multinomial)
    for sweep in chain:
        assert sweep.step.done.all()


# --- mistakes ------------------------------------------------------------------------------------------------------


def steered(f, *args, **options):
    return fk.steer(program(f)(*args), **{"particles": 16, "seed": 0, "resampler": multinomial, **options})


def test_what_a_program_raises_is_a_program_error_with_the_cause_and_the_line() -> None:
    def faulty(p):
        if p.sample(Bernoulli(0.5)):
            raise ValueError("mine")
        return 1

    with pytest.raises(
        ProgramError, match=r"in program 'faulty', particle \d+, step 0: it raised ValueError in faulty"
    ) as caught:
        steered(faulty)
    assert type(caught.value.__cause__) is ValueError and re.search(r"test_programs\.py:\d+\): mine", str(caught.value))


def test_a_program_that_forgets_to_return(tiny_lm) -> None:
    lm = tiny_lm("a")

    def silent(p):
        p.sample(lm.context("a").next_token())

    with pytest.raises(ProgramError, match=r"returned nothing.*return str\(text\)"):
        steered(silent)


def test_going_on_after_the_end(tiny_lm) -> None:
    lm = tiny_lm("a")

    def goes_on(p):
        text = lm.context("a")
        p.observe(text.next_token(), text.eos)
        p.sample(text.next_token())

    with pytest.raises(ProgramError, match=r"this text has ended.*text\.ended"):
        steered(goes_on)


def test_a_distribution_of_a_context_that_moved_on(tiny_lm) -> None:
    lm = tiny_lm("a")

    def stale(p):
        text = lm.context("a")
        dist = text.next_token()
        text.append("a")
        p.sample(dist)

    with pytest.raises(ProgramError, match="moved on"):
        steered(stale)


@pytest.mark.parametrize("call", ["p.condition(1)", "p.condition(None)", "p.factor(True)", "p.factor('x')",
                                  "p.factor(float('nan'))", "p.twist(float('inf'))", "p.sample(0.5)",
                                  "p.sample(Bernoulli)", "p.sample(Categorical([0, -1]))"])  # fmt: skip
def test_bad_arguments(call: str) -> None:
    def wrong(p):
        eval(call, {"p": p, "Bernoulli": Bernoulli, "Categorical": Categorical})
        return 0

    with pytest.raises(ArgumentError):
        steered(wrong)


@pytest.mark.parametrize("what", [random.random, time.perf_counter_ns])
def test_a_program_that_uses_random_or_the_clock(what) -> None:
    def impure(p):
        for _ in range(8):
            p.sample(Bernoulli(what() % 1))
            p.factor(-0.3 * what() % 1)
        return 0

    with pytest.raises(ReplayDiverged, match=r"request \d+ was .*first time it was .*p\.once"):
        steered(impure, ess_threshold=1.0)


def test_a_program_that_changes_its_arguments() -> None:
    def greedy(p, stack):
        while stack:
            p.sample(Bernoulli(0.5))
            p.factor(float(stack.pop()))
        return 0

    with pytest.raises(ReplayDiverged):
        steered(greedy, list(range(40)), particles=4, ess_threshold=1.0)


def test_a_program_that_never_stops(tiny_lm) -> None:
    lm = tiny_lm("a", eos=())

    @program(max_steps=20)
    def endless(p):
        text = lm.context("a")
        while True:
            p.sample(text.next_token())

    with pytest.raises(ProgramError, match=r"particle 0, does not stop: 20 steps.*'a+'"):
        fk.steer(endless(), particles=2, seed=0)
    with pytest.raises(ProgramError, match=r"more than 5 tokens \(max_tokens\)"):
        fk.steer(endless().limited(max_tokens=5), particles=2, seed=0)


def test_a_proposal_that_misses() -> None:
    def narrow(p):
        return p.sample(Categorical([1, 1]), proposal=Categorical([1, 0]))

    with pytest.raises(ArgumentError, match="never gives 1"):
        steered(narrow)

    def cut(p):
        return p.sample(Normal(), proposal=Uniform())

    with pytest.raises(ArgumentError, match="covers the target"):
        steered(cut)


def test_a_proposal_that_misses_tokens(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    def narrow(p):
        text, other = lm.context("a"), lm.context("b")
        p.observe(other.mask(["a"]), True)
        p.sample(text.next_token(), proposal=other.next_token())

    with pytest.raises(ArgumentError, match="never gives ''"):
        steered(narrow)


def test_a_token_of_another_vocabulary(tiny_lm) -> None:
    one, two = tiny_lm("a", "b"), tiny_lm("b", "a")

    def mixed(p):
        token = p.sample(one.context("a").next_token())
        p.condition(not token.is_eos)
        p.observe(two.context("a").next_token(), token)
        return "x"

    with pytest.raises(ArgumentError, match="another model's vocabulary"):
        steered(mixed)


def test_steering_in_a_program(tiny_lm) -> None:
    def outer(p):
        return fk.steer(collector(2), particles=2, seed=0).best

    with pytest.raises(ProgramError, match=r"p\.call\(other\)"):
        steered(outer)

    def prompted(p):
        p.sample(Bernoulli(0.5))
        return fk.steer(tiny_lm("a").prompt("a", max_tokens=2), particles=2).best

    with pytest.raises(ProgramError, match=r"each fork of its particle would do so again.*p\.once\(feynkac\.steer"):
        steered(prompted)

    def once(p):
        p.sample(Bernoulli(0.5))
        result = p.once(fk.steer, collector(2), particles=2, seed=int(p.rng.integers(2**62)))
        return result.samples[0][0]

    assert all(len(sample) == 2 for sample in steered(once).samples)


def test_a_context_outside_of_a_program(tiny_lm) -> None:
    with pytest.raises(ProgramError, match="inside of a program"):
        tiny_lm("a").context("a")


def test_what_is_no_program() -> None:
    async def waiting(p): ...

    def yielding(p):
        yield 1

    for wrong in (waiting, yielding, 3, int):
        with pytest.raises(ArgumentError):
            program(wrong)
    with pytest.raises(TypeError, match="steps"):
        collector()


# --- texts observed at once ------------------------------------------------------------------------------------------


@program
def at_once(p, lm, start, pieces):
    text = lm.context(start)
    for piece in pieces:
        text.observe_text(piece)
        p.sample(Bernoulli(0.5))
    return str(text), text.ended, len(text)


@program
def one_by_one(p, lm, start, pieces):
    text = lm.context(start)
    for piece in pieces:
        for letter in piece:
            p.observe(text.next_token(), letter)
        p.sample(Bernoulli(0.5))
    return str(text), text.ended, len(text)


def test_a_text_observed_at_once_weighs_as_its_tokens_do(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e")
    for pieces in (["abe"], ["ab", "", "bb"], ["a"]):
        whole, parts = (
            fk.steer(model(lm, "ab", pieces), particles=4, seed=0, resampler=multinomial, on_death="return")
            for model in (at_once, one_by_one)
        )
        assert whole.samples == parts.samples
        np.testing.assert_allclose(whole.log_weights, parts.log_weights, rtol=0, atol=1e-5)
        assert whole.log_evidence < -1.0


def test_a_mask_comes_before_an_observed_text(tiny_lm) -> None:
    @program
    def masked_text(p, lm, allowed):
        text = lm.context("ab")
        p.observe(text.mask(allowed), True)
        text.observe_text("ab")
        return str(text)

    lm = tiny_lm("a", "b", "e")
    free = fk.steer(at_once(lm, "ab", ["ab"]), particles=1, seed=0).log_evidence
    kept = fk.steer(masked_text(lm, ["a", "e"]), particles=1, seed=0).log_evidence
    assert kept == pytest.approx(free, abs=1e-5)
    assert fk.steer(masked_text(lm, ["b"]), particles=1, on_death="return").log_evidence == -np.inf


def test_a_mask_may_hold_the_end(tiny_lm) -> None:
    @program
    def short(p, lm, or_end):
        text = lm.context("ab")
        while not text.ended and len(text) < 3:
            p.observe(text.mask(["a"], or_end=or_end), True)
            p.sample(text.next_token())
        return text.ended

    lm = tiny_lm("a", "b")
    assert not any(fk.steer(short(lm, False), particles=16, seed=0).samples)
    assert any(fk.steer(short(lm, True), particles=16, seed=0).samples)


def test_a_run_leaves_nothing_behind() -> None:
    from feynkac.programs.runtime.execution import Execution
    from feynkac.programs.runtime.strand import Strand

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), (Strand, Execution)) for thing in gc.get_objects())

    before = alive()
    fk.steer(collector(8), particles=16, seed=0, resampler=multinomial)
    assert alive() == before
    with pytest.raises(ProgramError, match="ZeroDivisionError"):
        fk.steer(broken(), particles=16, seed=0)
    assert alive() == before


@program
def broken(p):
    if p.sample(Bernoulli(0.5)):
        p.sample(Bernoulli(1 / 0))
    return p.sample(Bernoulli(0.5))
