"""Batches of problems with potentials of their own: what is asked of whom, what is said, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import AllParticlesDied, ArgumentError, Contradiction, PotentialError
from feynkac.potentials.base import Factor
from feynkac.steering.problems import read_problems


def test_fifty_problems_with_constraints_of_their_own_share_every_forward_pass(tiny_lm, monkeypatch) -> None:
    lm, sizes = tiny_lm("a", "b", "c"), []
    forward = lm.model.forward

    def watch(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(lm.model, "forward", watch)
    patterns = ["".join("abc"[(k // 3**i) % 3] for i in range(4)) for k in range(50)]
    results = fk.steer([(lm.prompt("a", max_tokens=4), fk.regex(pattern)) for pattern in patterns], particles=3, seed=0)
    assert [result.best for result in results] == patterns
    # Beside the checks of the cache, of 3 rows at most: the prompts, 3 tokens, and 4 of each listed text before.
    assert [size for size in sizes if size > 3] == [50] * 8


def test_a_reward_that_problems_share_is_asked_about_all_of_them_at_once(tiny_lm) -> None:
    lm, sizes = tiny_lm("a", "b"), []

    def score(texts):
        sizes.append(len(texts))
        return [float(text.count("b")) for text in texts]

    reward = fk.reward(score, batch=True, every="end")
    tasks = [lm.prompt("a", max_tokens=1) for _ in range(3)]
    fk.steer([(tasks[0], reward), (tasks[1], fk.regex("a|b"), reward), tasks[2]], particles=4, seed=0)
    assert len(sizes) == 1 and sizes[0] <= 8


def test_a_potential_given_twice_counts_twice(tiny_lm) -> None:
    lm, reward = tiny_lm("a", "b"), fk.reward(lambda text: float(text.count("b")))
    twice, once = fk.steer([(lm.prompt("a", max_tokens=1), reward, reward), (lm.prompt("a", max_tokens=1), reward)],
                           algorithm="best_of_n", particles=64, seed=0)  # fmt: skip
    assert {round(float(w), 6) for w in twice.log_weights + np.log(64)} == {0.0, 2.0}
    assert {round(float(w), 6) for w in once.log_weights + np.log(64)} == {0.0, 1.0}


def test_all_that_weighs_a_problem_is_put_together_once(tiny_lm) -> None:
    a = tiny_lm("a").prompt(tokens=[1], max_tokens=1)
    problems = read_problems([(a, fk.regex("a")), a], [fk.regex("[ab]")])
    assert [problems.find_potential(g) for g in range(2)] == [problems.find_potential(g) for g in range(2)]
    assert problems.find_potential(0) is not problems.find_potential(1)


def test_the_death_of_one_problem_names_its_own_potential(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    tasks = [
        (lm.prompt("a", max_tokens=2), fk.regex("a*")),
        (lm.prompt("a", max_tokens=2), fk.constraint(lambda text: False)),
    ]
    with pytest.raises(AllParticlesDied, match=r"^problem 2 of 2: all 4 particles .*'constraint.* rejects") as caught:
        fk.steer(tasks, particles=4, seed=0)
    alive, dead = caught.value.partial
    assert np.isfinite(alive.log_evidence) and dead.log_evidence == -np.inf


def test_a_contradiction_of_one_problem_of_a_batch_is_refused_before_the_run(tiny_lm) -> None:
    lm, other = tiny_lm("a", "b"), tiny_lm("a", "b")
    forwarded = []
    lm.model.register_forward_pre_hook(lambda *given: forwarded.append(given))
    task, wide, a, b = lm.prompt("a", max_tokens=2), fk.regex("[ab]*"), fk.regex("a"), fk.regex("b")
    first, second, third = (fk.regex(each) for each in ("[ab]|aa", "[ab]b?", "aa|ab"))  # each two share a text
    for own, shared, g, named in [
        ([(a,), (b, a), (wide,)], (), 2, r"'b'.*'a'"),
        ([(a,), (wide,), (b,)], (a,), 3, r"'b'.*'a'"),
        ([(wide,), (second, first)], (third,), 2, r"all of"),
    ]:
        problems = [(task, *mine) for mine in own]
        told = rf"^problem {g} of {len(own)}: no text at all meets .*{named}"
        with pytest.raises(Contradiction, match=told) as caught:
            fk.steer(problems, *shared, particles=4, seed=0)
        assert caught.value.partial is None and not forwarded
    with pytest.raises(Contradiction, match=r"^no text at all"):
        fk.steer([(task, a, b)], particles=4, seed=0)
    dead = fk.steer([(other.prompt("a", max_tokens=2), a), (other.prompt("a", max_tokens=2), a, b)],
                    particles=4, seed=0, on_death="return")  # fmt: skip
    assert np.isfinite(dead[0].log_evidence) and dead[1].log_evidence == -np.inf


def test_constraints_that_problems_share_are_compared_once(tiny_lm, monkeypatch) -> None:
    compared = []
    shares = type(fk.regex("a")).shares_text
    monkeypatch.setattr(type(fk.regex("a")), "shares_text", lambda *given: compared.append(given) or shares(*given))
    lm, a, wide = tiny_lm("a", "b"), fk.regex("ab?"), fk.regex("[ab]*")
    fk.steer([(lm.prompt("a", max_tokens=2), a) for _ in range(6)], wide, particles=2, seed=0)
    assert len(compared) == 1


def test_only_problems_of_nothing_but_masks_have_a_lower_bound(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    task = lm.prompt("a", max_tokens=2)
    masked, rewarded = fk.steer([(task, fk.regex("a*")), (task, lambda text: 1.0 * len(text))], particles=8, seed=0)
    assert masked.lower_bound is not None and rewarded.lower_bound is None


def test_programs_of_one_batch_have_rewards_of_their_own(tiny_lm) -> None:
    lm = tiny_lm("a", "b")

    @fk.program
    def write(p):
        return p.sample(lm.context("a").gen(max_tokens=1))

    is_a, is_b = fk.constraint(lambda text: text == "a"), fk.constraint(lambda text: text == "b")
    results = fk.steer([(write(), is_a), (write(), is_b), write()], particles=32, seed=0)
    assert list(results[0].posterior()) == ["a"]
    assert list(results[1].posterior()) == ["b"]
    assert len(results[2].posterior()) == 3


class Lonely:
    """A model that joins, and does not say which row is whose."""

    def join(self, others):
        return self

    def init(self, n, rng):
        return Numbers(np.zeros(n))

    def step(self, t, state, rng):
        return state, np.zeros(len(state))

    def done(self, state):
        return np.ones(len(state), np.bool_)


class Numbers:
    def __init__(self, x) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def fork(self, rows):
        return Numbers(self.x[rows])


class One(Factor):
    name = "one"

    def final(self, state, rows):
        return np.ones(len(rows))


def test_a_model_that_cannot_tell_its_problems_apart_says_so() -> None:
    with pytest.raises(PotentialError, match="does not tell the problems of a batch apart"):
        fk.steer([(Lonely(), One()), Lonely()], particles=2, seed=0)
    both = fk.steer([Lonely(), Lonely()], One(), particles=2, seed=0)
    assert [result.log_evidence for result in both] == [1.0, 1.0]


def test_batches_that_cannot_be_are_refused_where_they_are_written(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=2)
    for wrong, message in (
        ([], "an empty list of models"),
        ([()], "is no model"),
        ([(fk.regex("a"),)], "is no model"),
        ([(fk.regex("a"), task)], "is no model"),
        ([[task, fk.regex("a")]], "is no model"),
        ((task, fk.regex("a")), "a tuple of a model and potentials; write steer"),
        ((task, len), "a tuple of a model and potentials; write steer"),
        ([(task, "a*")], "for a pattern use regex"),
        ([(task, None)], "None is no potential"),
    ):
        with pytest.raises(ArgumentError, match=message):
            fk.steer(wrong, particles=2)


class Guide(Factor):
    name = "a guide"

    def __init__(self, make) -> None:
        self.make = make

    def final(self, state, rows):
        return np.zeros(len(rows))

    def guide(self, frontier):
        return self.make(frontier)


@pytest.mark.parametrize("make, message", [
    (lambda f: torch.zeros(1), r"guides with a tensor of shape \(1,\).*one number for each next token"),
    (lambda f: torch.full_like(f.logits, torch.nan), "NaN or \\+inf"),
    (lambda f: torch.full_like(f.logits, torch.inf), "NaN or \\+inf"),
    (lambda f: 1 / 0, "a guide.*guide.*ZeroDivisionError"),
])  # fmt: skip
def test_a_guide_that_is_wrong_is_named(tiny_lm, make, message) -> None:
    with pytest.raises(PotentialError, match=message):
        fk.steer(tiny_lm("a", "b").prompt("a", max_tokens=2), Guide(make), particles=2, seed=0)


def test_a_guide_changes_no_evidence_and_is_not_followed_where_a_proposal_is_given(tiny_lm) -> None:
    from feynkac.models.language.proposals import Masked

    lm, asked = tiny_lm("a", "b"), []

    def lead(frontier):
        asked.append(1)
        return torch.tensor([0.0, 1.0, -1.0]).expand_as(frontier.logits)

    result = fk.steer(lm.prompt("a", max_tokens=2), Guide(lead), particles=2000, seed=0)
    assert asked and abs(result.log_evidence) < 0.1
    asked.clear()
    fk.steer(lm.prompt("a", max_tokens=2, proposal=Masked()), Guide(lead), particles=2, seed=0)
    assert not asked
