"""Masks that know the limit change the variance and nothing else: every run of two particles is enumerated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_language_model import FLOAT32, law, remember, truth

import feynkac as fk
from feynkac.base.capabilities import MasksWithin, has
from feynkac.base.vocabulary import Vocabulary
from feynkac.potentials.base import product
from feynkac.potentials.constraints.tokenwise import TokenFactor
from feynkac.smc.engine import smc
from feynkac.smc.resample import adaptive, systematic
from feynkac.smc.testing import enumerate_runs


class Shortsighted(TokenFactor):
    """The same constraint without any knowledge of the limit."""

    def __init__(self, inner: TokenFactor) -> None:
        super().__init__(inner.name)
        self._inner = inner

    def compile(self, vocabulary: Vocabulary) -> Any:
        seen = self._inner.automaton(vocabulary)

        class Blinkered:
            start, masks, advance, accepts = seen.start, seen.masks, seen.advance, seen.accepts

        return Blinkered()


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a list of texts": (lambda: [fk.choices(["abba", "a", "bb"])], lambda x: x in ("abba", "a", "bb"), {}),
    "a pattern": (lambda: [fk.regex("aabb|ab?")], lambda x: x in ("aabb", "a", "ab"), {}),
    "two constraints": (lambda: [fk.regex("(ab|b)*"), fk.length(min=2)],
                        lambda x: len(x) >= 2 and not x.replace("ab", "").replace("b", ""), {}),
    "a stop string": (lambda: [fk.regex("(?s:.)*bb")], lambda x: x.endswith("bb"), {"stop": "bb"}),
}  # fmt: skip


def cut(texts: dict[tuple[int, ...], float], stop: str | None, lm: Any) -> dict[tuple[int, ...], float]:
    """Texts end with the token that completes a stop string: their continuations add up to what leads there."""
    if stop is None:
        return texts
    found: dict[tuple[int, ...], float] = {}
    for tokens, p in texts.items():
        ends = [i for i in range(len(tokens) + 1) if stop in lm.vocabulary.text(tokens[:i])]
        tokens = tokens[: ends[0]] if ends else tokens
        found[tokens] = found.get(tokens, 0.0) + p
    return found


@pytest.mark.parametrize(("case", "at_limit"), [(case, "truncate") for case in CASES] + [("a list of texts", "end")])
def test_a_mask_that_knows_the_limit_keeps_the_target_and_lowers_the_variance(
    tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, case: str, at_limit: str
) -> None:
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    make, accepts, options = CASES[case]
    texts = cut(law(lm, "a", 3, at_limit), options.get("stop"), lm)
    target = truth(texts, lambda x: float(accepts(x)), lm)
    z, mean = sum(target.values()), sum(w * x.count("b") for x, w in target.items())
    variance = {}
    for seeing in (True, False):
        factors = [factor if seeing else Shortsighted(factor) for factor in make()]
        assert all(has(factor.automaton(lm.vocabulary), MasksWithin) == seeing for factor in factors)
        model = lm.prompt("a", max_tokens=3, at_limit=at_limit, **options).constrain(factors)

        potential = product(*factors)

        def run(rng: Any, model: Any = model, potential: Any = potential) -> np.ndarray:
            *_, step = smc(model, potential, n=2, resample=adaptive(systematic, ess=0.6), rng=rng)
            weight = np.exp(step.log_weight)
            return np.array([weight.sum(), weight @ np.array([x.count("b") for x in step.state.texts(range(2))])])

        runs = list(enumerate_runs(run))
        assert sum(p for p, _ in runs) == pytest.approx(1.0, abs=1e-12)
        assert sum(p * found[0] for p, found in runs) == pytest.approx(z, rel=FLOAT32)
        assert sum(p * found[1] for p, found in runs) == pytest.approx(mean, rel=FLOAT32)
        variance[seeing] = sum(p * (found[0] - z) ** 2 for p, found in runs)
    assert variance[True] < 0.9 * variance[False]


@pytest.mark.parametrize("limit", [2, 3])
def test_a_span_that_knows_its_limit_keeps_its_law(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """In a program: the evidence of a span is the mass of the texts that match within its limit, and no run dies."""
    remember(monkeypatch)
    lm = tiny_lm("a", "b", seed=3)
    whole = fk.choices(["abba", "ab", "b"])

    @fk.program
    def answer(p: Any, lm: Any, constraint: Any) -> str:
        return p.sample(lm.context("a").gen(constraint, max_tokens=limit))

    texts = law(lm, "a", limit, "truncate")
    z = sum(p for tokens, p in texts.items() if lm.vocabulary.text(tokens).startswith(("ab", "b")))
    if limit == 3:  # "abb" is on its way to "abba", which is too long: a span that goes on there cannot be ended
        z -= sum(p for tokens, p in texts.items() if lm.vocabulary.text(tokens).startswith("abb"))
    variance, deaths = {}, {}
    for seeing in (True, False):
        constraint = whole if seeing else Shortsighted(whole)

        def run(rng: Any, constraint: Any = constraint) -> float:
            *_, step = smc(answer(lm, constraint), product(), n=2, resample=adaptive(systematic, ess=0.6), rng=rng)
            return float(np.exp(step.log_weight).sum())

        runs = list(enumerate_runs(run))
        assert sum(p * found for p, found in runs) == pytest.approx(z, rel=FLOAT32)
        variance[seeing] = sum(p * (found - z) ** 2 for p, found in runs)
        deaths[seeing] = sum(p for p, found in runs if found == 0.0)
    assert deaths[True] == 0.0
    assert variance[True] < variance[False] if limit == 3 else deaths[False] == 0.0
