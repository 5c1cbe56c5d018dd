"""The published ways to steer a model, each as a law of texts: what a user writes, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import feynkac as fk
from behaviours.autoencoder import capture_tokens, pick_feature, train
from behaviours.texts import BEHAVIOURS, Behaviour, Question
from feynkac.models.edits import (
    Activations,
    Add,
    Clamp,
    DivergentLM,
    Emphasise,
    capture,
    choose_layer,
    fit_affine,
    fit_direction,
)

TILTS = (2.0, 6.0)
"""The rewards of SMC, in nats for a reward of 1."""


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the pairs of a behaviour: edits by the names of methods."""

    edits: dict[str, Any]
    notes: dict[str, Any]
    """Layers chosen, and what the autoencoder leaves unexplained."""

    @property
    def caa(self) -> Any:
        """The edit that is combined with others."""
        return self.edits["CAA x 1 (Rimsky et al. 2024)"]


def list_corpus(texts: int) -> list[str]:
    """Texts to train the autoencoder on: the pairs of all behaviours, and the handbook of Python as it is installed."""
    from pydoc_data.topics import topics

    words = " ".join(topics[name] for name in sorted(topics)).split()
    step = len(words) // texts
    handbook = [" ".join(words[i : i + 14]) for i in range(0, step * texts, step)]
    return handbook + [text for each in BEHAVIOURS.values() for pair in each.pairs for text in pair]


def fit_caa(lm: Any, behaviour: Behaviour) -> Add:
    """The difference of means, at the layer that separates best."""
    toward, away = (capture(lm, [pair[i] for pair in behaviour.pairs], at="mean") for i in (0, 1))
    found = fit_direction(toward, away)
    return Add(found, layer=found.best_layer)


def fit(lm: Any, behaviour: Behaviour, corpus: list[str]) -> Fitted:
    """Every vector, map and feature, from the same 24 pairs; no strength is tuned."""
    toward, away = (capture(lm, [pair[i] for pair in behaviour.pairs], at="mean") for i in (0, 1))
    caa = fit_direction(toward, away)
    layer, early = caa.best_layer, max(len(caa) // 5, 1)
    everything = capture(lm, corpus, layer, at="mean")
    here = [Activations({layer: side.at[layer]}) for side in (toward, away)]
    asked = [question.text for question in behaviour.questions]
    contrast = choose_layer(lm, caa.at(*range(early, len(caa), early)), asked)
    front = min(len(lm.begin(words)) for words in behaviour.words)
    love, hate = (capture(lm, [words], early, at=range(front)) for words in behaviour.words)
    features, unexplained = train(capture_tokens(lm, corpus, layer, 8))
    feature, value = pick_feature(features, *(each.at[layer] for each in here))
    edits = {
        **{f"CAA x {x:g} (Rimsky et al. 2024)": Add(caa, layer=layer, strength=x) for x in (0.5, 1.0, 2.0)},
        "CAA x 1, layer by contrast (Wang and Shu 2023)": Add(caa, layer=contrast),
        "ActAdd (Turner et al. 2023)": Add(fit_direction(love, hate), scope=range(front), strength=3.0),
        "mean-centred (Jorgensen et al. 2023)": Add(fit_direction(here[0], centre=[*here, everything])),
        "PCA, all layers (ICV, Liu et al. 2024)": Add(
            fit_direction(toward, away, method="pca"), strength=0.1, keep_norm=True
        ),
        "logistic probe (RepE, Zou et al. 2023)": Add(fit_direction(*here, method="logistic")),
        "affine map (Singh et al. 2024)": fit_affine(*here, layer, covariance=True, shrink=0.2),
        "SAE clamp (Templeton et al. 2024)": Clamp(features, {feature: value}, layer=layer),
    }
    notes = {"layer": layer, "separation": caa.separation[layer], "layer by contrast": contrast}
    return Fitted(edits, {**notes, "feature": feature, "value": value, "unexplained": unexplained})


def list_prompts(lm: Any, behaviour: Behaviour, question: Question, fitted: Fitted) -> dict[str, Any]:
    """Laws that are drawn from as they are."""
    told = behaviour.instruction
    good, bad = question.ask(lm, told), question.ask(lm, behaviour.opposite)
    dynamic = DivergentLM(lm, fitted.caa, most=2.0)
    return {
        "instruction": good,
        "priming words": question.ask(lm, behaviour.priming),
        "few-shot": question.ask(lm, examples=behaviour.examples),
        **{name: question.ask(lm.edited(edit)) for name, edit in fitted.edits.items()},
        "CAA by divergence (Scalena et al. 2024)": question.ask(dynamic),
        "instruction emphasised (PASTA, Zhang et al. 2024)": question.ask(lm.edited(Emphasise(told, alpha=0.1)), told),
        "token contrast (DExperts, Liu et al. 2021)": fk.ensemble(
            [question.ask(lm), good, bad], [1.0, 1.0, -1.0], plausible=0.1
        ),
        "instruction + CAA x 1": question.ask(lm.edited(fitted.caa), told),
    }


def list_targets(lm: Any, behaviour: Behaviour, question: Question, fitted: Fitted) -> dict[str, Any]:
    """Laws that SMC is run for."""
    base, good = question.ask(lm), question.ask(lm, behaviour.instruction)
    bad, caa = question.ask(lm, behaviour.opposite), question.ask(lm.edited(fitted.caa))
    low, high = (fk.reward(behaviour.reward, scale=scale, every="word") for scale in TILTS)
    return {
        "text contrast (experts)": (base, fk.expert(good, power=0.5) * fk.expert(bad, power=-0.5)),
        f"SMC, reward x {TILTS[0]:g}": (base, low),
        f"SMC, reward x {TILTS[1]:g}": (base, high),
        f"CAA x 1 + SMC, reward x {TILTS[0]:g}": (caa, low),
        f"instruction + SMC, reward x {TILTS[0]:g}": (good, low),
    }
