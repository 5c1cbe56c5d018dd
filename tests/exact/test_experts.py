"""Language models as experts against brute force: products, powers, mixtures, over all runs and all texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_language_model import Remembered, last, remember
from toys import find_kernel, sum_over_runs

import feynkac as fk
from feynkac.base.errors import AllParticlesDied
from feynkac.models.language.proposals import Masked, Tempered
from feynkac.potentials.base import Factor, product
from feynkac.potentials.tempering import tempered
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, systematic
from feynkac.steering.problems import prepare, read_problems

END = 0
"""The end of sequence of the tiny models, whose other tokens are a and b."""


NEARLY_ALWAYS = adaptive(systematic, ess=0.99)


class Law:
    """What a model thinks of whole texts behind a prompt, in float64, from the very logits that the runs see."""

    def __init__(self, lm, prompt: str, temperature: float = 1.0, top_k: int = 0) -> None:
        self.store, self.start = Remembered(lm.model, [], 0), lm.prompt(prompt).prompts[0].tokens
        self.temperature, self.top_k, self.eos = temperature, top_k, list(lm.vocabulary.eos)

    def next(self, ids):
        scaled = self.store._look_up([(*self.start, *ids)])[0].double().numpy() / self.temperature
        scaled[scaled < np.sort(scaled)[-self.top_k]] = -np.inf
        return np.exp(scaled - np.logaddexp.reduce(scaled))

    def __call__(self, ids, ended: bool) -> float:
        """The probability of tokens, and, where `ended`, of an end behind them."""
        p = math.prod(self.next(ids[:i])[token] for i, token in enumerate(ids))
        return p * (self.next(ids)[self.eos].sum() if ended else 1.0)


def list_texts(limit: int, at_limit: str, tokens=(1, 2)):
    """Every text, and whether it ended by itself."""
    texts = [()]
    for k in range(limit + 1):
        for ids in [ids for ids in texts if len(ids) == k]:
            texts += [(*ids, token) for token in tokens] if k < limit else []
    return [(ids, len(ids) < limit or at_limit == "end") for ids in texts]


def cases(tiny_lm, lm):
    """By name: a potential, and its weight of a text."""
    other = tiny_lm("a", "b", seed=8)
    own, good, bad = Law(lm, "b"), Law(other, "a"), Law(lm, "bb", 0.5)
    ours, hers, cold = fk.expert(lm.prompt("b")), fk.expert(other.prompt("a")), lm.prompt("bb", temperature=0.5)
    return {
        "another prompt": (ours, own),
        "another model, squared": (fk.expert(other.prompt("a"), power=2), lambda *x: good(*x) ** 2),
        "a root": (hers**0.5, lambda *x: good(*x) ** 0.5),
        "contrastive": (hers * fk.expert(cold, -1), lambda *x: good(*x) / bad(*x)),
        "a mixture": (fk.mixture([lm.prompt("b"), other.prompt("a"), cold], [1, 2, 1]),
                      lambda *x: (own(*x) + 2 * good(*x) + bad(*x)) / 4),
        "a mixture's power": (fk.mixture([lm.prompt("b"), other.prompt("a")]) ** -0.7,
                              lambda *x: ((own(*x) + good(*x)) / 2) ** -0.7),
        "all of them": (ours * hers**2 * fk.expert(cold, -0.5) * fk.expert(lm.prompt("b")),
                        lambda *x: own(*x) ** 2 * good(*x) ** 2 * bad(*x) ** -0.5),
    }  # fmt: skip


NAMES = (
    "another prompt", "another model, squared", "a root", "contrastive", "a mixture", "a mixture's power",
    "all of them",
)  # fmt: skip
MASK = ("", "a", "b", "ab", "bb")


def make_target(lm, weigh, at_limit: str, among=None) -> dict[str, float]:
    law = Law(lm, "a", 0.5)
    return {
        text: law(ids, ended) * weigh(ids, ended)
        for ids, ended in list_texts(2, at_limit)
        if (text := lm.vocabulary.text(ids)) in (among or (text,))
    }


def check_exact(model, potential, target, n=1, resample=NEARLY_ALWAYS) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x, over all runs of `n` particles."""

    def run(rng):
        step = last(smc(model, potential, n=n, resample=resample, rng=rng))
        weights, samples = np.exp(step.log_weight), step.state.texts(range(n))
        return [weights @ [sample == text for sample in samples] for text in target]

    mean = sum_over_runs(run)
    z = sum(target.values())
    np.testing.assert_allclose(mean / z, np.array(list(target.values())) / z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_the_product_of_the_laws_of_whole_texts(tiny_lm, monkeypatch, name, at_limit) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    task = lm.prompt("a", max_tokens=2, at_limit=at_limit, temperature=0.5)
    target = make_target(lm, weigh, at_limit)
    check_exact(prepare(task, expert), expert, target)


@pytest.mark.parametrize(("name", "resample"), [("a mixture", NEARLY_ALWAYS), ("contrastive", killing)])
def test_particles_that_are_resampled_keep_their_experts(tiny_lm, monkeypatch, name, resample) -> None:
    """Two particles, all runs: what an expert knows of a text is found again behind every fork."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    task = lm.prompt("a", max_tokens=2, temperature=0.5)
    check_exact(prepare(task, expert), expert, make_target(lm, weigh, "truncate"), 2, resample)


@pytest.mark.parametrize("name", ["contrastive", "a mixture", "all of them"])
def test_experts_are_exact_behind_masks_and_beside_rewards(tiny_lm, monkeypatch, name) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    potential = product(fk.regex("a?|[ab]*b"), expert, fk.reward(lambda text: 0.5 * text.count("b")))

    def rewarded(ids, ended):
        return weigh(ids, ended) * math.exp(0.5 * ids.count(2))

    target = make_target(lm, rewarded, "truncate", MASK)
    task = lm.prompt("a", max_tokens=2, temperature=0.5)
    check_exact(prepare(task, potential), potential, target)


@pytest.mark.parametrize("proposal", [Masked(), Tempered(1.7)])
@pytest.mark.parametrize("name", ["contrastive", "a mixture"])
def test_a_proposal_given_by_hand_leaves_the_experts_target_alone(tiny_lm, monkeypatch, name, proposal) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    task = lm.prompt("a", max_tokens=2, temperature=0.5, proposal=proposal)
    target = make_target(lm, weigh, "truncate")
    check_exact(prepare(task, expert), expert, target)


def test_an_expert_that_is_not_walked_along_with_is_exact(tiny_lm, monkeypatch) -> None:
    """As inside of another potential, which says nothing of who reads along."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)["all of them"]
    task = lm.prompt("a", max_tokens=2, temperature=0.5)
    target = make_target(lm, weigh, "truncate")
    check_exact(task, tempered(expert, lambda t: 0.5), target)


@pytest.mark.parametrize("name", ["another prompt", "a mixture"])
def test_conditional_smc_keeps_the_posterior(tiny_lm, monkeypatch, name) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    model = prepare(lm.prompt("a", max_tokens=1, temperature=0.5), expert)
    paths, law = [(END,), (1,), (2,)], Law(lm, "a", 0.5)
    texts = [((), True), ((1,), False), ((2,), False)]
    pi = np.array([law(*text) * weigh(*text) for text in texts])
    pi /= pi.sum()

    def sweep(rng, path):
        step = last(csmc(model, expert, np.array(path), n=2, rng=rng))
        return tuple(model.trace(step.state, select(step, rng)).tolist())

    kernel = find_kernel(sweep, paths)
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-12)


@pytest.mark.parametrize("algorithm", ["smc", "importance", "beam", "best_of_n", "gibbs"])
def test_every_algorithm_has_the_experts_target(tiny_lm, algorithm) -> None:
    """E[Z] by a z-test over many problems, false alarm 6e-5 each."""
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)["all of them"]
    truth = sum(make_target(lm, weigh, "truncate").values())
    task = lm.prompt("a", max_tokens=2, temperature=0.5)
    sweeps = {"sweeps": 2} if algorithm == "gibbs" else {}
    problems = 40 if algorithm == "gibbs" else 200  # its problems take turns
    results = fk.steer([task] * problems, expert, particles=4, algorithm=algorithm, seed=2, **sweeps)
    ratio = np.exp([result.log_evidence for result in results]) / truth
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(problems) + 2e-5


CONSTRAINTS = {
    "listed": lambda: fk.choices(["ab", "b", ""]),
    "lazy": lambda: fk.lazy(lambda text: "aa" not in text),
    "schema": lambda: fk.json_schema({"enum": [1, 11]}),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constraints_of_every_kind_mask_under_experts(tiny_lm, kind) -> None:
    """E[Z] by a z-test over 200 problems, false alarm 6e-5 each."""
    tokens = ("1", "2") if kind == "schema" else ("a", "b")
    lm, other = tiny_lm(*tokens, seed=3), tiny_lm(*tokens, seed=8)
    task = lm.prompt(tokens[0], max_tokens=2)
    potential = CONSTRAINTS[kind]() * fk.expert(other.prompt(tokens[1]), 1.5)
    truth = fk.steer(task, potential, algorithm="exact").log_evidence
    results = fk.steer([task] * 200, potential, particles=4, seed=2, on_death="return")
    ratio = np.exp([result.log_evidence - truth for result in results])
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(200) + 2e-5


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("name", NAMES)
def test_listed_texts_are_weighed_by_experts(tiny_lm, name, at_limit) -> None:
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)[name]
    task = lm.prompt("a", max_tokens=2, at_limit=at_limit, temperature=0.5)
    target = make_target(lm, weigh, at_limit)
    result = fk.steer(task, expert, algorithm="exact")
    assert result.log_evidence == pytest.approx(math.log(sum(target.values())), abs=2e-5)
    for text, share in result.posterior().items():
        assert share == pytest.approx(target[text] / sum(target.values()), rel=5e-5)


def test_each_problem_of_a_batch_has_experts_of_its_own(tiny_lm, monkeypatch) -> None:
    """E[Z_g] = Z_g and E[Z_0 Z_1] = Z_0 Z_1, where one expert is shared, one is not, and one proposal is by hand."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    known = cases(tiny_lm, lm)
    (one, first), (other, second), (both, third) = known["a root"], known["another prompt"], known["contrastive"]
    task, tempers = (lm.prompt("a", max_tokens=2, temperature=0.5, proposal=by) for by in (None, Tempered(1.7)))
    for batch in ([(task, one), (task, other)], [(task, one), (tempers, other)], [(tempers, other), (task, one)]):
        problems = read_problems(batch, (both,))
        truth = []
        for _, own in batch:
            weigh = first if own is one else second
            target = make_target(lm, lambda *text, weigh=weigh: weigh(*text) * third(*text), "truncate")
            truth.append(sum(target.values()))
        model, potential = problems.join(), problems.weigh()

        def run(rng, model=model, potential=potential):
            step = last(smc(model, potential, n=[1, 1], resample=NEARLY_ALWAYS, rng=rng))
            z = [math.exp(step.group(g).log_z) for g in range(2)]
            return (*z, z[0] * z[1])

        mean = sum_over_runs(run)
        np.testing.assert_allclose(mean, [*truth, truth[0] * truth[1]], rtol=1e-12)


def test_one_token_is_drawn_from_the_product_itself(tiny_lm) -> None:
    """Increment and level together are the log of the normaliser, whatever is drawn."""
    lm = tiny_lm("a", "b", seed=3)
    for name in NAMES:
        expert, weigh = cases(tiny_lm, lm)[name]
        law = Law(lm, "a", 0.5)
        texts = [((), True), ((1,), False), ((2,), False)]
        truth = math.log(sum(law(*text) * weigh(*text) for text in texts))
        result = fk.steer(lm.prompt("a", max_tokens=1, temperature=0.5), expert, particles=16, seed=1)
        np.testing.assert_allclose(result.log_weights + math.log(16), truth, atol=1e-5)


class Seen(Factor):
    """Keeps what it is shown of each frontier, and weighs nothing."""

    name = "seen"

    def __init__(self, experts) -> None:
        self.experts, self.frontiers = experts, []

    @property
    def scorers(self):
        return tuple(scorer for expert in self.experts for scorer in expert.scorers)

    def final(self, state, rows):
        return np.zeros(len(rows))

    def guide(self, frontier):
        total = sum(expert.guide(frontier) for expert in self.experts)
        self.frontiers.append((frontier.logits, total, frontier.state.tokens(frontier.heads)))
        return total


def test_the_proposal_of_an_expert_and_an_anti_expert_is_that_of_dexperts(tiny_lm) -> None:
    """softmax(z + alpha (z_plus - z_minus)), Liu et al. (2021), equation 1, at every context."""
    lm, plus, minus = (tiny_lm("a", "b", seed=seed) for seed in (3, 8, 9))
    seen = Seen([fk.expert(plus.prompt("a"), 1.5), fk.expert(minus.prompt("a"), -1.5)])
    fk.steer(lm.prompt("a", max_tokens=3), seen, particles=8, seed=0)
    start = torch.tensor(lm.prompt("a").prompts[0].tokens)
    for logits, worth, written in seen.frontiers:
        for row, ids in enumerate(written):
            history = torch.cat([start, torch.as_tensor(ids)])[None]
            with torch.inference_mode():
                z, z_plus, z_minus = (each.model(history).logits[0, -1] for each in (lm, plus, minus))
            formula = torch.log_softmax(z + 1.5 * (z_plus - z_minus), 0)
            torch.testing.assert_close(torch.log_softmax(logits[row] + worth[row], 0), formula, atol=1e-4, rtol=0)
    assert len(seen.frontiers) > 1


def test_the_declared_law_of_an_experts_prompt_counts(tiny_lm, monkeypatch) -> None:
    """Top-2 leaves one of three tokens without mass: under no power has the target what the expert cannot write."""
    remember(monkeypatch)
    lm, other = tiny_lm("a", "b", seed=3), tiny_lm("a", "b", seed=8)
    good, law = Law(other, "a", top_k=2), Law(lm, "a", 0.5)
    for power in (1.0, -1.0):
        expert = fk.expert(other.prompt("a", top_k=2), power)
        target = {
            lm.vocabulary.text(ids): law(ids, ended) * (p**power if (p := good(ids, ended)) else 0.0)
            for ids, ended in list_texts(2, "truncate")
        }
        assert 0.0 in target.values()
        for proposal in (None, Masked()):
            task = lm.prompt("a", max_tokens=2, temperature=0.5, proposal=proposal)
            check_exact(prepare(task, expert), expert, target)


def test_laws_that_have_no_token_in_common_leave_nothing(tiny_lm) -> None:
    lm, seeds = tiny_lm("a", "b", seed=3), range(4, 40)
    first = int(np.argmax(Law(lm, "a").next(())))
    other = next(each for seed in seeds if np.argmax(Law(each := tiny_lm("a", "b", seed=seed), "a").next(())) != first)
    with pytest.raises(AllParticlesDied, match="expert"):
        fk.steer(lm.prompt("a", top_k=1, max_tokens=2), fk.expert(other.prompt("a", top_k=1)), seed=0)


def test_experts_stand_beside_a_power_of_the_law(tiny_lm, monkeypatch) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    expert, weigh = cases(tiny_lm, lm)["contrastive"]
    potential, law = product(expert, fk.power(2.0)), Law(lm, "a", 0.5)
    target = make_target(lm, lambda *text: weigh(*text) * law(*text), "truncate")
    check_exact(prepare(lm.prompt("a", max_tokens=2, temperature=0.5), potential), potential, target)


def test_an_expert_with_ends_of_its_own_ends_by_any_of_them(tiny_lm, monkeypatch) -> None:
    """The steered model ends by 0, the expert by 0 and 3; a text that goes on behind 3 has no mass."""
    remember(monkeypatch)
    lm, other = tiny_lm("a", "b", "e", seed=3), tiny_lm("a", "b", "e", seed=8, eos=(0, 3))
    expert, good, law = fk.expert(other.prompt("a")), Law(other, "a"), Law(lm, "a", 0.5)
    target = {
        lm.vocabulary.text(ids): law(ids, ended) * (0.0 if 3 in ids else good(ids, ended))
        for ids, ended in list_texts(2, "truncate", (1, 2, 3))
    }
    task = lm.prompt("a", max_tokens=2, temperature=0.5)
    check_exact(prepare(task, expert), expert, target)
    inverse = expert**-1
    target = {
        lm.vocabulary.text(ids): law(ids, ended) * (0.0 if 3 in ids else 1 / good(ids, ended))
        for ids, ended in list_texts(2, "truncate", (1, 2, 3))
    }
    check_exact(prepare(task, inverse), inverse, target)
