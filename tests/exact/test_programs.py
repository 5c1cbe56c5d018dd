"""Programs weigh what they say: every random choice of small runs, enumerated, against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import pytest

from feynkac.models.language.lm import CausalLM
from feynkac.potentials import constraint, product, regex
from feynkac.programs import Bernoulli, Categorical, program
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, multinomial, optimal, split, systematic, then
from feynkac.smc.testing import enumerate_runs, expectation

RESAMPLERS = {
    "multinomial": multinomial,
    "systematic": systematic,
    "adaptive": adaptive(systematic, ess=0.9),
    "beam": then(optimal(1), split(2)),
}


def last_step(model: Any, rng: Any, n: int, resample: Any, potential: Any = None) -> Any:
    *_, last = smc(model, potential or product(), n=n, resample=resample, rng=rng)
    return last


def masses(model: Any, outcomes: list[Any], n: int, resample: Any, potential: Any = None) -> np.ndarray:
    """(S,) the expected weight of each outcome."""

    def measured(rng: Any) -> np.ndarray:
        last = last_step(model, rng, n, resample, potential)
        found = dict.fromkeys(outcomes, 0.0)
        for value, w in zip(last.state.samples(range(len(last.log_weight))), last.log_weight, strict=True):
            if w > -np.inf:
                found[value] += math.exp(w)
        return np.array(list(found.values()))

    return expectation(measured)


# --- a program with everything: random length, locals, a sub-program, twists, scores, a hard constraint ------------

START = {"a": 0.5, "b": 0.3, "c": 0.2}
PROPOSAL = Categorical({"a": 0.2, "b": 0.5, "c": 0.3})


@program
def letter(p, seen):
    """A sub-program with locals of its own."""
    law = Categorical({"a": 0.5, "b": 0.5}) if "c" in seen else Categorical(START)
    found = p.sample(law, proposal=PROPOSAL if "c" not in seen else None)
    seen.append(found)
    return found


@program
def words(p):
    seen, kinds, counts = [], set(), {"a": 0}
    while len(seen) < 2:
        found = p.call(letter, seen)
        kinds.add(found)
        counts[found] = counts.get(found, 0) + 1
        p.twist(0.7 * len(kinds) - 0.3 * counts["a"])
        if found == "b":
            p.observe(Bernoulli(0.3 if counts["b"] > 1 else 0.9), True)
        if len(seen) < 2 and p.sample(Bernoulli(0.4)):
            break
    p.condition(counts["a"] < 2)
    if "c" in kinds:
        p.factor(-0.5)
    return "".join(seen)


def words_truth() -> dict[str, float]:
    truth = {}
    for length in (1, 2):
        for seen in itertools.product("abc", repeat=length):
            mass = 1.0
            for i, found in enumerate(seen):
                mass *= (0.5 * (found != "c")) if "c" in seen[:i] else START[found]
                if found == "b":
                    mass *= 0.3 if seen[: i + 1].count("b") > 1 else 0.9
                if i < 1:
                    mass *= 0.4 if i == length - 1 else 0.6
            truth["".join(seen)] = mass * (seen.count("a") < 2) * (math.exp(-0.5) if "c" in seen else 1.0)
    return truth


@pytest.mark.parametrize("name", RESAMPLERS)
def test_a_program_with_everything_is_exact(name: str) -> None:
    truth = words_truth()
    found = masses(words(), list(truth), 2, RESAMPLERS[name])
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=1e-12)


def test_a_program_and_a_potential_on_its_value() -> None:
    truth = {word: mass * word.endswith("b") for word, mass in words_truth().items()}
    found = masses(words(), list(truth), 2, multinomial, product(constraint(lambda text: text.endswith("b"))))
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=1e-12)


def test_conditional_smc_leaves_the_posterior_as_it_is() -> None:
    truth = {word: mass for word, mass in words_truth().items() if mass > 0.0}
    model, outcomes = words(), list(truth)
    references: dict[tuple[Any, ...], tuple[float, list[Any]]] = {}
    for p, last in enumerate_runs(lambda rng: last_step(model, rng, 1, multinomial)):
        if last.log_weight[0] > -np.inf:
            trace = model.trace(last.state, 0)
            key = tuple(record.value for step in trace for record in step)
            references[key] = (references.get(key, (0.0,))[0] + p * math.exp(last.log_weight[0]), trace)
    z = sum(mass for mass, _ in references.values())
    assert z == pytest.approx(sum(truth.values()), abs=1e-12)
    after, inverse = np.zeros(len(outcomes)), 0.0
    for mass, trace in references.values():

        def swept(rng: Any, trace: Any = trace) -> np.ndarray:
            *_, last = csmc(model, product(), trace, n=2, rng=rng)
            chosen = last.state.samples([select(last, rng)])[0]
            return np.array([*(float(chosen == word) for word in outcomes), math.exp(-last.log_z)])

        *moved, inverted = expectation(swept)
        after += mass / z * np.array(moved)
        inverse += mass / z * inverted
    np.testing.assert_allclose(after, np.array(list(truth.values())) / z, rtol=0, atol=1e-12)
    survival = expectation(lambda rng: float(last_step(model, rng, 2, multinomial).log_z > -np.inf))
    assert inverse * z == pytest.approx(survival, abs=1e-12)


# --- programs over a language model --------------------------------------------------------------------------------

FLOAT32 = 1e-6


class Remembered:
    """A context store that looks logits up by history: the runs of an enumeration share a few texts."""

    logits: ClassVar[dict] = {}

    def __init__(self, model, prompts, max_new) -> None:
        self.model, self.histories, self.forwarded = model, [tuple(prompt) for prompt in prompts], 0

    def start(self):
        return self._look_up(self.histories)

    def extend(self, parents, tokens):
        self.histories = [
            self.histories[i] + ((int(token),) if token >= 0 else ()) for i, token in zip(parents, tokens, strict=True)
        ]
        return self._look_up([h for h, token in zip(self.histories, tokens, strict=True) if token >= 0])

    def append(self, parents, tokens, *, every):
        befores = [self.histories[i] for i in parents]
        self.histories = [before + tuple(some) for before, some in zip(befores, tokens, strict=True)]
        return self._look_up(
            [before + some[: i + 1] for before, some in zip(befores, tokens, strict=True) for i in range(len(some))]
        )

    def _look_up(self, wanted):
        import torch

        for history in wanted:
            if (self.model, history) not in self.logits:
                with torch.inference_mode():
                    self.logits[self.model, history] = self.model(torch.tensor([history])).logits[0, -1]
        return torch.stack([self.logits[self.model, history] for history in wanted])


@pytest.fixture(autouse=True)
def _remembered(monkeypatch) -> None:
    monkeypatch.setattr(CausalLM, "open", lambda lm, *given: Remembered(lm.model, *given))


@program
def no_e(p, lm, prompt, max_tokens):
    text = lm.context(prompt)
    while not text.ended and len(text) < max_tokens:
        token = p.sample(text.next_token())
        p.condition("e" not in token)
    return str(text)


def index_texts(lm: Any, prompts: list[str], limit: int) -> dict[str, np.ndarray]:
    """The probability of each text of up to `limit` tokens, cut there, behind each prompt: by plain forwards."""
    import torch

    tokens = [token.decode() for token in lm.vocabulary.tokens]
    found = {}
    for length in range(limit + 1):
        for ids in itertools.product(range(1, len(tokens)), repeat=length):
            log_p = np.zeros(len(prompts))
            for i, prompt in enumerate(prompts):
                start = list(lm.prompt(prompt).prompts[0].tokens)
                with torch.inference_mode():
                    logits = lm.model(torch.tensor([[*start, *ids]])).logits[0].double()
                law = torch.log_softmax(logits, -1)[len(start) - 1 :]
                log_p[i] = sum(float(law[k, token]) for k, token in enumerate(ids))
                log_p[i] += float(law[length, 0]) if length < limit else 0.0
            found["".join(tokens[i] for i in ids)] = np.exp(log_p)
    return found


def test_a_program_has_the_evidence_of_the_same_potential(tiny_lm) -> None:
    lm = tiny_lm("a", "e")
    truth = {text: p[0] * ("e" not in text) for text, p in index_texts(lm, ["aa"], 2).items()}
    found = masses(no_e(lm, "aa", 2), list(truth), 2, systematic)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)
    task = lm.prompt("aa", max_tokens=2)
    steered = masses(task, list(truth), 2, systematic, product(constraint(lambda text: "e" not in text, every="token")))
    np.testing.assert_allclose(found, steered, rtol=0, atol=FLOAT32)


@program
def masked(p, lm, prompt, max_tokens):
    """Sub-token generation: first whether the next token is in a set, then which."""
    text = lm.context(prompt)
    while not text.ended and len(text) < max_tokens:
        if p.sample(text.mask(["a", "b"])):
            p.observe(text.mask(["a", "e"]), True)
        p.sample(text.next_token())
    return str(text)


def test_masks_divide_the_law_of_the_next_token(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "e")
    truth = {text: p[0] * ("b" not in text) for text, p in index_texts(lm, ["ab"], 1).items()}
    found = masses(masked(lm, "ab", 1), list(truth), 2, multinomial)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)


@program
def both(p, lm, prompts, max_tokens):
    """The texts that both prompts agree on."""
    first, second = (lm.context(prompt) for prompt in prompts)
    while not first.ended and len(first) < max_tokens:
        token = p.sample(first.next_token())
        p.observe(second.next_token(), token)
    return str(first)


@program
def guided(p, lm, prompts, max_tokens):
    """The same, with the second prompt as the proposal."""
    first, second, third = (lm.context(prompts[i]) for i in (0, 1, 1))
    while not first.ended and len(first) < max_tokens:
        token = p.sample(first.next_token(), proposal=second.next_token())
        p.observe(third.next_token(), token)
    return str(first)


@pytest.mark.parametrize("make", [both, guided])
def test_the_intersection_of_two_prompts(tiny_lm, make) -> None:
    lm = tiny_lm("a", "b")
    truth = {text: p.prod() for text, p in index_texts(lm, ["ab", "b"], 2).items()}
    found = masses(make(lm, ["ab", "b"], 2), list(truth), 2, systematic)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)


@program
def spanned(p, lm, rest):
    text = lm.context("ab")
    span = p.sample(text.gen(regex="a+b?", max_tokens=2))
    if rest:
        p.sample(text.next_token())
    return span + "|" + (str(text)[len(span) :] + "$" * text.ended if rest else "")


def test_a_span_ends_where_the_model_leaves_it(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    law = index_texts(lm, ["ab"], 3)
    truth: dict[str, float] = {}
    for text, p in law.items():
        for end in range(len(text), -1, -1):
            whole = text[:end]
            if end <= 2 and whole and whole.strip("a") in ("", "b") and whole[0] == "a" and "ba" not in whole:
                truth[whole + "|" + (text[end] if end < len(text) else "$")] = (
                    truth.get(whole + "|" + (text[end] if end < len(text) else "$"), 0.0) + p[0]
                )
                break
    found = masses(spanned(lm, True), list(truth), 2, systematic)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)
    ends: dict[str, float] = {}
    for outcome, mass in truth.items():
        ends[outcome.split("|")[0] + "|"] = ends.get(outcome.split("|")[0] + "|", 0.0) + mass
    found = masses(spanned(lm, False), list(ends), 2, systematic)
    np.testing.assert_allclose(found, list(ends.values()), rtol=0, atol=FLOAT32)


@program
def whole(p, lm):
    text = lm.context("ab")
    span = p.sample(text.gen(regex("a*b"), max_tokens=2))
    p.observe(text.next_token(), text.eos)
    return span


def test_a_span_and_an_end_are_a_constraint(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    truth = {text: p[0] for text, p in index_texts(lm, ["ab"], 3).items() if text in ("b", "ab")}
    found = masses(whole(lm), list(truth), 2, multinomial)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)


@program
def infilled(p, lm):
    text = lm.context("ab")
    p.sample(text.next_token())
    p.condition(not text.ended)
    text.observe_text("ba")
    score = text.next_token().log_prob("b")
    p.factor(2 * score)
    text.append("bb")
    return str(text)


def test_forced_text_and_scores_read_off(tiny_lm) -> None:
    lm = tiny_lm("a", "b")
    law = index_texts(lm, ["ab"], 4)
    three = {start: sum(law[text][0] for text in law if text.startswith(start)) for start in ("aba", "bba")}
    four = {start: sum(law[text][0] for text in law if text.startswith(start + "b")) for start in three}
    truth = {start + "bb": three[start] * (four[start] / three[start]) ** 2 for start in three}
    found = masses(infilled(lm), list(truth), 2, systematic)
    np.testing.assert_allclose(found, list(truth.values()), rtol=0, atol=FLOAT32)
