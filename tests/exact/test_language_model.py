"""A tiny random transformer against brute force over all its texts: the whole path from logits to evidence."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.masks import TokenConstraint
from feynkac.models.language.lm import CausalLM
from feynkac.potentials.base import product
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, killing, multinomial, ssp, systematic
from feynkac.smc.testing import enumerate_runs

FLOAT32 = 2e-5
"""Relative error of a sum of products of a few float32 probabilities, from forwards of different batches."""


def law(lm, prompt: str, max_tokens: int, at_limit: str) -> dict[tuple[int, ...], float]:
    """Each text's probability: every token sequence up to the limit, by plain forwards; EOS is 0."""
    import torch

    start = lm.prompt(prompt).prompts[0].tokens
    size = lm.vocabulary.size
    next_p: dict[tuple[int, ...], np.ndarray] = {}
    for k in range(max_tokens + 1):
        histories = list(itertools.product(range(1, size), repeat=k))
        with torch.inference_mode():
            logits = lm.model(torch.tensor([[*start, *h] for h in histories])).logits[:, -1].double()
        next_p.update(zip(histories, torch.softmax(logits, dim=-1).numpy(), strict=True))
    texts = {}
    for text in next_p:
        p = math.prod(next_p[text[:i]][token] for i, token in enumerate(text))
        cut = at_limit == "truncate" and len(text) == max_tokens
        texts[text] = p if cut else p * next_p[text][0]
    return texts


def truth(texts: dict[tuple[int, ...], float], weigh, lm) -> dict[str, float]:
    """The unnormalised target over decoded texts."""
    target: dict[str, float] = {}
    for tokens, p in texts.items():
        text = lm.vocabulary.text(tokens)
        target[text] = target.get(text, 0.0) + p * weigh(text)
    return target


class Remembered:
    """A context store that looks logits up by history: the thousands of runs of an enumeration share a few texts."""

    logits: ClassVar[dict] = {}  # of models that it keeps alive, since identity is what tells them apart

    def __init__(self, model, prompts, max_new) -> None:
        self.model, self.histories, self.forwarded = model, [tuple(prompt) for prompt in prompts], 0

    def _look_up(self, histories):
        import torch

        for history in histories:
            if (key := (self.model, history)) not in self.logits:
                with torch.inference_mode():
                    self.logits[key] = self.model(torch.tensor([history])).logits[0, -1]
        return torch.stack([self.logits[self.model, history] for history in histories])

    @property
    def lengths(self):
        return np.array([len(history) for history in self.histories])

    def start(self):
        return self._look_up(self.histories)

    def extend(self, parents, tokens):
        return self.append(parents, [[int(token)] if token >= 0 else [] for token in tokens])

    def append(self, parents, tokens, *, every=False):
        import torch

        before = self.histories
        self.histories = [(*before[i], *some) for i, some in zip(parents, tokens, strict=True)]
        wanted = [
            (*before[i], *some[:k])
            for i, some in zip(parents, tokens, strict=True)
            for k in (range(1, len(some) + 1) if every else [len(some)] * bool(some))
        ]
        return self._look_up(wanted) if wanted else torch.empty(0, 0)


def remember(monkeypatch) -> None:
    monkeypatch.setattr(CausalLM, "open", lambda lm, *given: Remembered(lm.model, *given))


@pytest.fixture
def remembered(monkeypatch) -> None:
    remember(monkeypatch)


CASES = {
    "pattern": (lambda: [fk.regex("(a|b)*ab?")], lambda x: float(set(x) <= {"a", "b"} and _pattern(x))),
    "reward": (lambda: [fk.reward(lambda x: x.count("ab") - 0.3 * len(x), scale=1.5)],
               lambda x: math.exp(1.5 * (x.count("ab") - 0.3 * len(x)))),
    "running maximum and a late constraint": (
        lambda: [fk.reward(lambda x: x.count("b"), kind="max"), fk.constraint(lambda x: len(x) != 1)],
        lambda x: math.exp(x.count("b")) * (len(x) != 1)),
    "a pattern after a marker": (lambda: [fk.after("b", fk.regex("a?b?"))],
                                 lambda x: float(x.partition("b")[1:] in {("b", y) for y in ("", "a", "b", "ab")})),
    "weights of paths": (
        lambda: [
            fk.wfsa([("p", "a", "p", 0.3), ("p", "[ab]", "q", -0.7), ("q", "b", "q", 1.1)], "p", {"p": -1.0, "q": 0.0})
        ],
        lambda x: _sum_paths(x)),
    "phrases": (lambda: [fk.phrases(ban=["bb"], require=["a"])], lambda x: float("bb" not in x and "a" in x)),
    "a parser": (lambda: [fk.parser(lambda n, byte: n + 1 if n < 2 or byte == b"a" else None, 0, lambda n: n != 1)],
                 lambda x: float(set(x[2:]) <= {"a"} and len(x) != 1)),
    "sum and a pattern": (lambda: [fk.reward(lambda x: -x.count("a"), kind="sum"), fk.regex("[ae]*")],
                          lambda x: math.exp(-x.count("a")) * ("b" not in x)),
}  # fmt: skip


def _sum_paths(text: str) -> float:
    """The paths stay in p on a, go to q on any letter once, and stay there on b."""
    total = math.exp(0.3 * len(text) - 1.0) * (set(text) <= {"a"})
    for k in range(len(text)):
        if set(text[:k]) <= {"a"} and text[k] in "ab" and set(text[k + 1 :]) <= {"b"}:
            total += math.exp(0.3 * k - 0.7 + 1.1 * (len(text) - k - 1))
    return total


def _pattern(text: str) -> bool:
    return text.endswith("a") or text.endswith("ab")


def last(run):
    *_, step = run
    return step


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("case", CASES)
def test_every_run_enumerated(tiny_lm, remembered, case, at_limit) -> None:
    """E[Z] = Z and E[sum w f] = Z E[f] over all outcomes of two particles, to float32 rounding of the logits."""
    lm = tiny_lm("a", "b", seed=3)
    make, weigh = CASES[case]
    target = truth(law(lm, "a", 2, at_limit), weigh, lm)
    z, mean = sum(target.values()), sum(w * (len(x) + x.count("b")) for x, w in target.items())
    potential = product(*make())
    masks = [factor for factor in potential.factors if isinstance(factor, TokenConstraint)]
    model = lm.prompt("a", max_tokens=2, at_limit=at_limit).constrain(masks)

    for resample in (adaptive(systematic, ess=0.99), killing):

        def run(rng, resample=resample):
            step = last(smc(model, potential, n=2, resample=resample, rng=rng))
            weight = np.exp(step.log_weight)
            values = np.array([len(x) + x.count("b") for x in step.state.texts(range(2))])
            return weight.sum(), weight @ values

        total = z_hat = mean_hat = 0.0
        for p, (z_run, mean_run) in enumerate_runs(run):
            total, z_hat, mean_hat = total + p, z_hat + p * z_run, mean_hat + p * mean_run
        assert total == pytest.approx(1.0, abs=1e-12)
        assert z_hat == pytest.approx(z, rel=FLOAT32)
        assert mean_hat == pytest.approx(mean, rel=FLOAT32)


@pytest.mark.parametrize("case", CASES)
def test_evidence_is_unbiased_and_the_posterior_converges(tiny_lm, case) -> None:
    """A z-test of E[Z], false alarm 6e-5 for each of two sizes, and total variation falling as N^(-1/2)."""
    lm = tiny_lm("a", "b", "e", seed=1)
    make, weigh = CASES[case]
    target = truth(law(lm, "b", 4, "truncate"), weigh, lm)
    z = sum(target.values())
    task = lm.prompt("b", max_tokens=4)

    def variations(n: int, count: int) -> np.ndarray:
        results = fk.steer([task] * count, *make(), particles=n, seed=n, on_death="return")
        ratio = np.exp([result.log_evidence for result in results]) / z
        assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(count) + FLOAT32
        posteriors = [result.posterior() for result in results]
        return np.array([0.5 * sum(abs(q.get(x, 0.0) - w / z) for x, w in target.items()) for q in posteriors])

    small, large = variations(256, 40), variations(4096, 10)
    spread = math.hypot(small.std() / 4.0 / math.sqrt(40), large.std() / math.sqrt(10))
    assert large.mean() < small.mean() / 4.0 * 1.1 + 4.0 * spread  # rare texts make the small ones a little too good


def test_guided_by_weights_every_run_is_exact_and_varies_less(tiny_lm, remembered) -> None:
    """All runs of two particles, with the proposal that follows the weights of next tokens, and without."""
    lm = tiny_lm("a", "b", seed=3)
    make, weigh = CASES["weights of paths"]
    target = truth(law(lm, "a", 2, "truncate"), weigh, lm)
    z, mean = sum(target.values()), sum(w * len(x) for x, w in target.items())
    potential = product(*make())
    mask, weight = potential.factors
    variance = {}
    for guides in ((), (weight,)):
        model = lm.prompt("a", max_tokens=2).constrain([mask]).heed(guides)

        def run(rng, model=model):
            step = last(smc(model, potential, n=2, resample=adaptive(systematic, ess=0.6), rng=rng))
            weights = np.exp(step.log_weight)
            return weights.sum(), weights @ np.array([len(x) for x in step.state.texts(range(2))])

        runs = list(enumerate_runs(run))
        assert sum(p for p, _ in runs) == pytest.approx(1.0, abs=1e-12)
        assert sum(p * found for p, (found, _) in runs) == pytest.approx(z, rel=FLOAT32)
        assert sum(p * found for p, (_, found) in runs) == pytest.approx(mean, rel=FLOAT32)
        variance[guides] = sum(p * (found - z) ** 2 for p, (found, _) in runs)
    assert variance[weight,] < 0.8 * variance[()]


def test_a_marker_within_tokens_that_go_on_is_weighed(tiny_lm, remembered) -> None:
    """Every run of two particles: the marker "ab" comes as "a" "b", as "a" "ba", or whole, with more behind it."""
    lm = tiny_lm("a", "b", "ba", "aba", seed=3)
    target = truth(law(lm, "a", 3, "truncate"), lambda x: float(x.partition("ab")[1:] in {("ab", ""), ("ab", "a")}), lm)
    marked = fk.after("ab", fk.regex("a?"))
    model, potential = lm.prompt("a", max_tokens=3).constrain([marked]), product(marked)

    def run(rng):
        step = last(smc(model, potential, n=1, resample=killing, rng=rng))
        weight = np.exp(step.log_weight)
        return weight.sum(), weight @ np.array([len(x) for x in step.state.texts(range(1))])

    outcomes = [(p, z, mean) for p, (z, mean) in enumerate_runs(run)]
    assert sum(p * z for p, z, _ in outcomes) == pytest.approx(sum(target.values()), rel=FLOAT32)
    expected = sum(w * len(x) for x, w in target.items())
    assert sum(p * mean for p, _, mean in outcomes) == pytest.approx(expected, rel=FLOAT32)


def test_a_dead_end_in_the_middle_is_weighed(tiny_lm) -> None:
    """A pattern that the limit cuts off: the evidence is the probability of the few texts that fit."""
    lm = tiny_lm("a", "b", seed=5)
    task = lm.prompt("a", max_tokens=2)
    target = truth(law(lm, "a", 2, "truncate"), lambda x: float(x in {"ab", "aab", "bbb"}), lm)
    results = fk.steer([task] * 300, fk.choices(["ab", "aab", "bbb"]), particles=8, seed=0, on_death="return")
    z_hat = np.exp([result.log_evidence for result in results])
    assert abs(z_hat.mean() - sum(target.values())) < 4.0 * z_hat.std(ddof=1) / math.sqrt(300) + FLOAT32
    assert set().union(*[set(result.posterior()) for result in results]) == {"ab"}


def test_conditional_smc_on_a_language_model(tiny_lm, remembered) -> None:
    """The reference is retraced exactly, and a long chain visits the texts as often as the target says."""
    lm = tiny_lm("a", "b", seed=3)
    potential = product(fk.reward(lambda x: x.count("b")))
    model = lm.prompt("a", max_tokens=2)
    target = truth(law(lm, "a", 2, "truncate"), lambda x: math.exp(x.count("b")), lm)
    z = sum(target.values())

    def sweep(rng, reference):
        step = last(csmc(model, potential, reference, n=2, rng=rng))
        assert model.trace(step.state, 0).tolist() == list(reference)
        return tuple(model.trace(step.state, select(step, rng)).tolist())

    texts = law(lm, "a", 2, "truncate")
    paths = [(*text, 0) if len(text) < 2 else text for text in texts]
    pi = np.array([texts[tuple(t for t in path if t)] for path in paths])
    pi *= [math.exp(lm.vocabulary.text([t for t in path if t]).count("b")) for path in paths]
    pi /= z
    kernel = np.zeros((len(paths), len(paths)))
    for i, path in enumerate(paths):
        for p, end in enumerate_runs(lambda rng, path=path: sweep(rng, np.array(path))):
            kernel[i, paths.index(end)] += p
    np.testing.assert_allclose(pi @ kernel, pi, rtol=FLOAT32)


def test_bare_multinomial_and_ssp_agree_with_the_truth_for_many_groups(tiny_lm) -> None:
    """Groups of one batch are independent runs: the spread of their evidence is that of single runs."""
    lm = tiny_lm("a", "b", seed=2)
    target = truth(law(lm, "a", 3, "truncate"), lambda x: math.exp(2.0 * x.count("b")), lm)
    task = lm.prompt("a", max_tokens=3)
    for scheme in (multinomial, ssp):
        results = fk.steer([task] * 400, fk.reward(lambda x: 2.0 * x.count("b")), particles=8, seed=1, resampler=scheme)
        ratio = np.exp([result.log_evidence for result in results]) / sum(target.values())
        assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(400) + FLOAT32
        halves = ratio.reshape(200, 2)
        correlation = np.corrcoef(halves[:, 0], halves[:, 1])[0, 1]
        assert abs(correlation) < 4.0 / math.sqrt(200)
