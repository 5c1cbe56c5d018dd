"""Constraints that list their texts: exact answers, scores and the proposal that looks ahead, against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from test_language_model import FLOAT32, law, remember, truth

import feynkac as fk
from feynkac.models.language.proposals.drawing import arrange
from feynkac.models.language.proposals.foreseen import Foreseen
from feynkac.smc import resample
from feynkac.smc.engine import smc
from feynkac.smc.testing import enumerate_runs
from feynkac.steering.problems import prepare

TEXTS = ["", "a", "ab", "abb", "bb", "ba"]
LIMITS = [("truncate", 3, 1.0), ("end", 3, 1.0), ("truncate", 2, 0.7)]


@pytest.fixture
def lm(tiny_lm) -> Any:
    """Three tokens, of which the tokenizer never uses the last by itself: "ab" has two spellings."""
    return tiny_lm("a", "b", "ab", seed=3)


def tempered(lm, temperature: float, max_tokens: int, at_limit: str) -> dict[tuple[int, ...], float]:
    """The law of token sequences at another temperature, by plain forwards."""
    if temperature == 1.0:
        return law(lm, "a", max_tokens, at_limit)
    import torch

    texts: dict[tuple[int, ...], float] = {}

    def walk(ids: tuple[int, ...], p: float) -> None:
        if len(ids) == max_tokens and at_limit == "truncate":
            texts[ids] = p
            return
        with torch.inference_mode():
            logits = lm.model(torch.tensor([[*lm.prompt("a").prompts[0].tokens, *ids]])).logits[0, -1].double()
        each = torch.softmax(logits / temperature, 0).numpy()
        texts[ids] = p * each[0]
        if len(ids) < max_tokens:
            for token in range(1, len(each)):
                walk((*ids, token), p * each[token])

    walk((), 1.0)
    return texts


@pytest.mark.parametrize(("at_limit", "max_tokens", "temperature"), LIMITS)
def test_exact_is_the_sum_over_all_spellings(lm, at_limit, max_tokens, temperature) -> None:
    known = truth(tempered(lm, temperature, max_tokens, at_limit), lambda x: float(x in TEXTS), lm)
    known = {text: p for text, p in known.items() if p > 0.0}
    task = lm.prompt("a", max_tokens=max_tokens, at_limit=at_limit, temperature=temperature)
    result = fk.steer(task, fk.choices(TEXTS), algorithm="exact")
    z = sum(known.values())
    assert result.log_evidence == pytest.approx(math.log(z), abs=FLOAT32)
    assert result.posterior() == pytest.approx({text: p / z for text, p in known.items()}, rel=FLOAT32)
    assert result.log_evidence_interval() == (result.log_evidence, result.log_evidence)
    assert result.log_evidence_se == 0.0 and result.algorithm == "exact" and not result.warnings


def test_exact_weighs_with_rewards_and_other_constraints(lm) -> None:
    reward = lambda text: 2.0 * text.count("b")  # noqa: E731
    known = truth(law(lm, "a", 3, "truncate"), lambda x: (x in TEXTS and len(x) >= 2) * math.exp(reward(x)), lm)
    task = lm.prompt("a", max_tokens=3)
    result = fk.steer(task, fk.choices(TEXTS), fk.length(min=2, unit="char"), fk.reward(reward), algorithm="exact")
    assert result.log_evidence == pytest.approx(math.log(sum(known.values())), abs=FLOAT32)


def test_exact_ends_where_a_stop_string_does(lm) -> None:
    task, pattern = lm.prompt("a", max_tokens=3, stop="b"), fk.regex("a?a?b")
    exact = fk.steer(task, pattern, algorithm="exact")
    runs = [fk.steer(task, pattern, particles=256, seed=seed) for seed in range(8)]
    mean = np.mean([math.exp(run.log_evidence) for run in runs])
    assert math.exp(exact.log_evidence) == pytest.approx(mean, rel=0.05)
    assert all(text.endswith("b") for text in exact.texts)


def test_exact_of_a_batch_is_that_of_each(lm) -> None:
    tasks = [lm.prompt("a", max_tokens=3), lm.prompt("bab", max_tokens=3)]
    both = fk.steer(tasks, fk.choices(TEXTS), algorithm="exact")
    alone = [fk.steer(task, fk.choices(TEXTS), algorithm="exact") for task in tasks]
    assert [r.log_evidence for r in both] == pytest.approx([r.log_evidence for r in alone], abs=FLOAT32)


def test_what_cannot_be_listed_is_refused_with_what_was_found(tiny_lm, monkeypatch) -> None:
    import feynkac.steering.exact as exact

    monkeypatch.setattr(exact, "MOST", 20)
    task = tiny_lm("a", "b").prompt("a", max_tokens=50)
    with pytest.raises(fk.ArgumentError, match="too many to be listed: those found in 20 histories") as caught:
        fk.steer(task, fk.regex("[ab]*"), algorithm="exact")
    some = caught.value.partial
    assert not some.complete and -math.inf < some.log_evidence == some.lower_bound < 0.0
    assert some.log_evidence_interval() == (some.log_evidence, math.inf) and "exactly" not in some.summary()
    with pytest.raises(fk.ArgumentError, match="the texts of problem 2 are too many") as caught:
        fk.steer([tiny_lm("a", "b").prompt("a", max_tokens=1), task], fk.regex("[ab]*"), algorithm="exact")
    assert [result.complete for result in caught.value.partial] == [True, False]

    class Other:
        def init(self, n, rng): ...
        def step(self, t, state, rng): ...
        def done(self, state): ...

    with pytest.raises(fk.ArgumentError, match="Other cannot list its samples"):
        fk.steer(Other(), algorithm="exact")


def test_exact_says_when_nothing_has_weight(tiny_lm) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=2)
    with pytest.raises(fk.AllParticlesDied, match="no text at all meets both"):
        fk.steer(task, fk.choices(["a"]), fk.choices(["b"]), algorithm="exact")
    with pytest.raises(fk.AllParticlesDied, match="raise max_tokens"):
        fk.steer(task, fk.choices(["aaaa"]), algorithm="exact")
    dead = fk.steer(task, fk.choices(["aaaa"]), algorithm="exact", on_death="return")
    assert dead.log_evidence == -math.inf and "-inf" in dead.summary()


@pytest.mark.parametrize(("at_limit", "max_tokens", "temperature"), LIMITS)
def test_scores_are_those_of_brute_force(lm, at_limit, max_tokens, temperature) -> None:
    texts = tempered(lm, temperature, max_tokens, at_limit)
    usual = {text: texts.get(tuple("ab".index(c) + 1 for c in text), 0.0) for text in TEXTS}
    every = truth(texts, lambda x: 1.0, lm)
    task = lm.prompt("a", max_tokens=max_tokens, at_limit=at_limit, temperature=temperature)
    np.testing.assert_allclose(np.exp(lm.score(task, TEXTS)), [usual[text] for text in TEXTS], rtol=FLOAT32)
    found = np.exp(lm.score(task, TEXTS, spellings="all"))
    np.testing.assert_allclose(found, [every.get(text, 0.0) for text in TEXTS], rtol=FLOAT32)


def test_scores_behind_a_text_and_without_an_end(lm) -> None:
    with_end, without = lm.score("a", ["b", "ab"]), lm.score("a", ["b", "ab"], end=False)
    assert lm.score("a", (text for text in ["b", "ab"])).tolist() == with_end.tolist()
    texts = law(lm, "a", 3, "truncate")
    assert np.exp(with_end) == pytest.approx([texts[2,], texts[1, 2]], rel=FLOAT32)
    begins = [sum(p for ids, p in texts.items() if ids[:n] == start) for n, start in ((1, (2,)), (2, (1, 2)))]
    assert np.exp(without) == pytest.approx(begins, rel=FLOAT32)


def test_scores_end_where_a_stop_string_does(lm) -> None:
    """The last token of "ab" completes the stop string, so that no end is drawn; "abb" would go on behind one."""
    task, texts = lm.prompt("a", max_tokens=4, stop="b"), ["aa", "ab", "aab", "abb"]
    plain = law(lm, "a", 3, "truncate")
    ab = sum(p for ids, p in plain.items() if ids[:2] == (1, 2))
    aab = sum(p for ids, p in plain.items() if ids == (1, 1, 2))
    found = np.exp(lm.score(task, texts))
    np.testing.assert_allclose(found, [plain[1, 1], ab, aab, 0.0], rtol=FLOAT32)
    assert np.exp(lm.score(task, ["ab"], spellings="all"))[0] == pytest.approx(ab + sum(
        p for ids, p in plain.items() if ids[:1] == (3,)), rel=FLOAT32)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda lm: lm.score("a", "ab"), "give a list of texts"),
        (lambda lm: lm.score("a", ["a", 1]), "1 is no text; give a list of texts"),
        (lambda lm: lm.score("a", None), "give a list of texts"),
        (lambda lm: lm.score("a", ["\ud800"]), "half of a character"),
        (lambda lm: lm.score(3, ["a"]), "is no prompt of this model"),
        (lambda lm: lm.score("a", ["a"], spellings="some"), "must be 'usual' or 'all'"),
        (lambda lm: lm.score("a", ["a"], end=False, spellings="all"), "usual spelling only"),
    ],
)
def test_what_cannot_be_scored_is_refused(lm, given, said) -> None:
    with pytest.raises(fk.ArgumentError, match=said):
        given(lm)


def test_four_labels_take_one_forward_pass(lm, monkeypatch) -> None:
    from feynkac.models.language.caches.shared import SharedContexts

    lm.score("a", ["a"])  # the cache is compared with the model once
    passes, forward = [], SharedContexts._forward

    def count(self, plan, ids):
        passes.append(len(plan.rows))
        return forward(self, plan, ids)

    monkeypatch.setattr(SharedContexts, "_forward", count)
    lm.score("a", ["a", "b", "ab", "ba"])
    assert passes == [4]


# --- looking ahead


@pytest.fixture(scope="module")
def smollm2_lm(smollm2) -> Any:
    return fk.CausalLM.from_pretrained(str(smollm2))


CASES: dict[str, Any] = {
    "a list": (lambda: [fk.choices(TEXTS)], lambda x: float(x in TEXTS)),
    "a finite pattern": (lambda: [fk.regex("a(b|bb)?|bb")], lambda x: float(x in ("a", "ab", "abb", "bb"))),
    "a list and another constraint": (
        lambda: [fk.choices(TEXTS), fk.length(min=2, unit="char")], lambda x: float(x in TEXTS and len(x) >= 2)),
    "a list and a reward": (
        lambda: [fk.choices(TEXTS), fk.reward(len, scale=0.7)], lambda x: (x in TEXTS) * math.exp(0.7 * len(x))),
}  # fmt: skip


@pytest.mark.parametrize("resampling", [resample.never, resample.adaptive(resample.systematic, ess=0.9)])
@pytest.mark.parametrize(("case", "at_limit"), [*((case, "truncate") for case in CASES), ("a list", "end")])
def test_looking_ahead_keeps_the_target(lm, monkeypatch, case, at_limit, resampling) -> None:
    """All runs of two particles: E[Z_hat] and E[sum of the weights of each text] are those of brute force."""
    remember(monkeypatch)
    potentials, weigh = CASES[case]
    known = truth(law(lm, "a", 2, at_limit), weigh, lm)
    made = potentials()
    target = fk.potentials.product(*made)
    model = prepare(lm.prompt("a", max_tokens=2, at_limit=at_limit), target)
    assert isinstance(arrange(model)[0].proposal, Foreseen)
    total, mass = 0.0, dict.fromkeys(known, 0.0)
    for p, step in enumerate_runs(lambda rng: [*smc(model, target, n=2, resample=resampling, rng=rng)][-1]):
        total += p
        for text, log_w in zip(step.state.texts(np.arange(2)), step.log_weight.tolist(), strict=True):
            if log_w > -math.inf:
                mass[text] += p * math.exp(log_w)
    assert total == pytest.approx(1.0)
    assert mass == pytest.approx(known, abs=FLOAT32 * sum(known.values()))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: fk.choices(["skill", "cloud"]), {}),
        (lambda: fk.regex("skill|cloud"), {}),
        (lambda: fk.grammar('start: "skill" | "cloud"'), {}),
        (lambda: fk.json_schema({"enum": ["skill", "cloud"]}), {}),
        (lambda: fk.json_schema({"type": "boolean"}), {}),
        (lambda: fk.regex("[a-z]{5}") * fk.choices(["skill", "cloud"]), {}),
        (lambda: fk.choices(["skill.", "cloud."]), {"stop": "."}),
    ],
)
def test_rigid_texts_that_a_mask_cannot_see_are_found(smollm2_lm, make, options) -> None:
    """The blank, or the quotation mark, takes nearly all of the masked mass, and leads nowhere."""
    task = smollm2_lm.prompt("My favourite word in the whole world is", max_tokens=6, **options)
    exact = fk.steer(task, make(), algorithm="exact")
    run = fk.steer(task, make(), particles=32, islands=4, seed=0)
    assert abs(run.log_evidence - exact.log_evidence) < 0.5
    for text, share in exact.posterior().items():
        assert run.posterior().get(text, 0.0) == pytest.approx(share, abs=0.2)
    low, high = run.log_evidence_interval()
    assert low <= exact.log_evidence <= high + 0.1


def test_a_run_below_what_is_certain_says_so(lm, monkeypatch) -> None:
    import feynkac.models.language.proposals.foreseen as foreseen

    task = lm.prompt("a", max_tokens=3)
    result = fk.steer(task, fk.choices(TEXTS), particles=64, seed=0)
    usual, every = (np.logaddexp.reduce(lm.score(task, TEXTS, spellings=how)) for how in ("usual", "all"))
    assert usual - FLOAT32 <= result.lower_bound <= every + FLOAT32
    assert not result.warnings and result.log_evidence_interval()[0] >= result.lower_bound
    # Weights that are 8 nats too small stand for a run that went astray.
    draw = foreseen.draw_and_weigh

    def stray(*given):
        drawn = draw(*given)
        return drawn._replace(increment=drawn.increment - 8.0)

    monkeypatch.setattr(foreseen, "draw_and_weigh", stray)
    astray = fk.steer(task, fk.choices(TEXTS), particles=64, islands=4, seed=0)
    (warning,) = [w for w in astray.warnings if "for certain" in w]
    assert "use algorithm='exact' if the texts are few" in warning
    assert astray.log_evidence_interval() == (astray.lower_bound, math.inf) and "exactly" not in astray.summary()


def test_a_model_without_an_end_ends_nothing_for_free(tiny_lm) -> None:
    lm = tiny_lm("a", "b", seed=3, eos=())
    task, texts = lm.prompt("a", max_tokens=2), ["a", "ab"]
    assert lm.score(task, texts)[0] == lm.score(task, texts, spellings="all")[0] == -math.inf
    np.testing.assert_allclose(lm.score(task, texts)[1], lm.score(task, texts, spellings="all")[1], atol=FLOAT32)
    exact = fk.steer(task, fk.choices(texts), algorithm="exact")
    run = fk.steer(task, fk.choices(texts), particles=16, seed=0)
    assert run.log_evidence == pytest.approx(exact.log_evidence, abs=0.01) and run.posterior() == {
        "ab": pytest.approx(1)
    }
    assert run.lower_bound <= exact.log_evidence + FLOAT32 and not run.warnings


def test_several_ends_and_different_limits_in_one_batch(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "ab", "x", seed=3, eos=(0, 4))
    tasks = [
        lm.prompt("a", max_tokens=1), lm.prompt("b", max_tokens=3, at_limit="end"),
        lm.prompt("ab", max_tokens=2, temperature=0.6),
    ]  # fmt: skip
    exact = fk.steer(tasks, fk.choices(TEXTS), algorithm="exact")
    runs = fk.steer(tasks, fk.choices(TEXTS), particles=400, islands=8, seed=0)
    for known, run in zip(exact, runs, strict=True):
        low, high = run.log_evidence_interval(1 - 1e-6)
        assert low <= known.log_evidence <= high and high - low < 1.5
        assert run.lower_bound <= known.log_evidence + FLOAT32
        assert run.posterior() == pytest.approx(known.posterior(), abs=0.15)


def test_particle_gibbs_looks_ahead_too(lm) -> None:
    task = lm.prompt("a", max_tokens=3)
    exact = fk.steer(task, fk.choices(TEXTS), algorithm="exact").posterior()
    gibbs = fk.steer(task, fk.choices(TEXTS), algorithm="gibbs", particles=16, sweeps=40, seed=0).posterior()
    assert gibbs == pytest.approx(exact, abs=0.12)


def test_a_mask_that_is_asked_for_does_not_look_ahead(lm) -> None:
    from feynkac.models.language.proposals import Masked

    model = prepare(lm.prompt("a", max_tokens=3, proposal=Masked()), fk.choices(TEXTS))
    assert isinstance(arrange(model)[0].proposal, Masked)


def test_texts_that_are_listed_twice_count_once(lm, monkeypatch) -> None:
    from feynkac.potentials.constraints.texts import TextConstraint

    monkeypatch.setattr(TextConstraint, "list_texts", lambda self, most: ["a", "a", "a", "b", "b"])
    task = lm.prompt("a", max_tokens=3)
    run = fk.steer(task, fk.choices(["a", "b"]), particles=8, seed=0)
    assert run.lower_bound <= np.logaddexp.reduce(lm.score(task, ["a", "b"])) + FLOAT32


def test_unlikely_texts_have_scores_beside_likely_ones(lm) -> None:
    texts = ["a", "b" * 12]
    usual, every = lm.score("a", texts), lm.score("a", texts, spellings="all")
    assert (every >= usual - FLOAT32).all() and np.isfinite(every).all()


def test_scores_of_many_texts_take_several_passes(lm, monkeypatch) -> None:
    import feynkac.models.language.proposals.listed as listed

    texts = ["a" * n + "b" * m for n in range(4) for m in range(4)]
    at_once = lm.score("a", texts)
    monkeypatch.setattr(listed, "AT_ONCE", 5)
    np.testing.assert_allclose(lm.score("a", texts), at_once, atol=FLOAT32)
    task = lm.prompt("a", max_tokens=3)
    exact = fk.steer(task, fk.choices(TEXTS), algorithm="exact").log_evidence
    assert fk.steer(task, fk.choices(TEXTS), particles=64, seed=0).log_evidence == pytest.approx(exact, abs=0.5)


def test_an_enumeration_of_loose_constraints_keeps_no_more_than_it_can_visit(tiny_lm, monkeypatch) -> None:
    import feynkac.models.language.exact.enumeration as enumeration
    from feynkac.models.language.exact.enumeration import Enumeration

    lm = tiny_lm(*"abcdefghij")
    walk = Enumeration(lm.prompt("a", max_tokens=8))
    found = walk.run(60, True, lambda n: None)
    assert len(walk._open) <= 60 and found.forwarded <= 60 + enumeration.BATCH
    assert np.logaddexp(found.log_left, np.logaddexp.reduce(found.log_prob)) == pytest.approx(0.0, abs=1e-6)
    monkeypatch.setattr(enumeration, "MOST_TEXTS", 50)
    found = Enumeration(lm.prompt("a", max_tokens=2)).run(500, True, lambda n: None)
    assert len(found.log_prob) <= 50 + len(lm.vocabulary)
    assert np.logaddexp(found.log_left, np.logaddexp.reduce(found.log_prob)) == pytest.approx(0.0, abs=1e-6)


def test_the_texts_found_bound_the_evidence(lm) -> None:
    task = lm.prompt("a", max_tokens=3)
    result = fk.steer(task, fk.regex("a[ab]*"), particles=8, seed=0)
    known = truth(law(lm, "a", 3, "truncate"), lambda x: float(x.startswith("a")), lm)
    assert result.lower_bound <= math.log(sum(known.values())) + FLOAT32
    found = [p for ids, p in law(lm, "a", 3, "truncate").items() if lm.vocabulary.text(ids) in set(result.texts)]
    assert -math.inf < result.lower_bound <= math.log(sum(found)) + FLOAT32
    assert fk.steer(task, fk.regex("a[ab]*"), fk.reward(len), particles=8, seed=0).lower_bound is None
    assert fk.steer(task, fk.regex("b"), particles=1, seed=0, on_death="return").lower_bound is not None


def test_the_texts_of_automata_are_listed() -> None:
    assert fk.regex("(é|x)y?").list_texts(9) == ["x", "xy", "é", "éy"]
    assert fk.regex("a{0,3}").list_texts(4) == ["", "a", "aa", "aaa"] and fk.regex("a{0,3}").list_texts(3) is None
    assert fk.regex("a*").list_texts(50) is None and fk.regex("[^x]").list_texts(1000) is None
    assert fk.choices(["b", "a", "a"]).list_texts(2) == ["a", "b"]


@pytest.mark.parametrize("spellings", ["usual", "all"])
def test_scores_of_a_prompt_with_a_stop_string_are_a_law_of_texts(tiny_lm, spellings):
    lm = tiny_lm("a", "b", "c", seed=1)
    texts = ["".join(each) for n in range(4) for each in itertools.product("abc", repeat=n)]
    log_p = lm.score(lm.prompt("a", max_tokens=3, stop=["ab"]), texts, spellings=spellings)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    assert all((value == -np.inf) == ("ab" in text[:-1]) for text, value in zip(texts, log_p, strict=True))
