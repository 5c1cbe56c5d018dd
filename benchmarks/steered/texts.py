"""Masked diffusion of short reviews under FK steering's text controls, at equal network evaluations.

The rewards are VADER's compound score ("praise"), log p(acceptable) of a small judge of word order, and the share of a
text that VADER hears as negative ("harshness", in place of toxicity; steered towards, as published). What is not
rewarded: the perplexity under SmolLM2, the paper's other control, and the number of words.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import feynkac as fk
from feynkac.base.errors import FeynkacError
from feynkac.models.discrete import DiscreteDiffusion, FirstOrder, Unmask, Unweighted, by_difference
from feynkac.models.discrete.network import NetworkDenoiser, load
from feynkac.potentials.discrete import Lookahead
from feynkac.smc import resample as schemes
from steered import masked
from steered.acceptability import Judge
from steered.runs import Numbers, cells, engine, quantiles, shares, total_variation, written
from steered.tables import table

FOLDER = Path(__file__).parents[1] / "train"
PER_STEP, PARTS = 1, 3
SIZES = (4, 16)


@functools.lru_cache(maxsize=1)
def _sentiment() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@functools.lru_cache(maxsize=1 << 18)
def _hear(text: str) -> dict[str, float]:
    return _sentiment().polarity_scores(text)


def praise(text: str) -> float:
    """VADER's compound score, from -1 (blame) to 1."""
    return float(_hear(text)["compound"])


def harshness(text: str) -> float:
    """The share of a text that VADER hears as negative, from 0 to 1."""
    return float(_hear(text)["neg"])


@functools.lru_cache(maxsize=1)
def _judge() -> Judge:
    model = base_model()
    return Judge([piece.decode() for piece in model.alphabet.tokens], model.length)


@functools.lru_cache(maxsize=1 << 18)
def acceptability(text: str) -> float:
    """log p(acceptable) in nats, at most 0."""
    return _judge().log_prob(text)


@dataclass(frozen=True)
class Control:
    """A reward of texts: exp(scale score)."""

    name: str
    score: masked.Score
    scale: float
    else_: float = 0.0
    """In nats, what guidance expects of words that it does not try."""


CONTROLS = (
    Control("praise", praise, 4.0),
    Control("acceptability", acceptability, 2.0, -8.0),
    Control("harshness", harshness, 8.0),
)


def count_words(text: str) -> int:
    """Words and marks, which stand apart."""
    return len(text.split())


@functools.lru_cache(maxsize=1)
def base_model() -> DiscreteDiffusion:
    """One token a step, in random order."""
    network, vocabulary = load(FOLDER / "reviews.safetensors")
    length = network.shape["length"]
    return DiscreteDiffusion(NetworkDenoiser(network), vocabulary, length, Unmask(length, PER_STEP))


def draw_base(n: int, seed: int) -> NDArray[np.object_]:
    """(n,) texts of the base model."""
    last = engine(base_model(), fk.constraint(lambda text: True), n, 1, resample=schemes.never, seed=seed)
    return np.array(last.state.texts(np.arange(n)), dtype=object)


def find_target(control: Control, texts: NDArray[np.object_], exact: int) -> dict[str, Any]:
    """Evidence and law of the target exp(scale score) p, from `texts` (M,) of p, with `exact` draws, for `Truth`."""
    score, words = features(control, list(texts))
    weight = np.exp(control.scale * score)
    share = weight / weight.sum()
    edges = [quantiles(each, share, PARTS) for each in (score, words)]
    drawn = np.random.default_rng(0).choice(len(texts), exact, p=share)
    return {
        "samples": len(texts), "ess": 1.0 / (share**2).sum(), "log_evidence": np.log(weight.mean()),
        "error": weight.std() / weight.mean() / math.sqrt(len(texts)), "score": share @ score,
        "edges": np.stack(edges), "law": cells((score, words), edges, share), "texts": texts[drawn].astype(str),
    }  # fmt: skip


def features(control: Control, texts: list[str]) -> tuple[Numbers, Numbers]:
    """(R,) scores and (R,) numbers of words."""
    score, words = (np.array([f(text) for text in texts], dtype=np.float64) for f in (control.score, count_words))
    return score, words


class Truth:
    """What importance sampling of many texts of the base model found (`train/reviews_truth.py`)."""

    def __init__(self, control: Control) -> None:
        found = np.load(FOLDER / "reviews_truth.npz")
        known = {name: found[f"{control.name}/{name}"] for name in ("ess", "log_evidence", "samples")}
        self.ess, self.log_evidence, self.samples = (float(each) for each in known.values())
        self.edges, self.law = list(found[f"{control.name}/edges"]), found[f"{control.name}/law"]
        self.control, self.texts = control, found[f"{control.name}/texts"]
        """Exact draws."""

    def figures(self, log_w: Numbers, texts: NDArray[np.object_], lm: fk.CausalLM | None) -> dict[str, float | None]:
        """Means over the weighted samples, and the distance to the target."""
        w = (shares(log_w) / len(log_w)).ravel()
        flat = list(texts.ravel())
        score, words = features(self.control, flat)
        drawn = np.random.default_rng(0).choice(len(flat), 64, p=w / w.sum())
        return {
            self.control.name: float(w @ score),
            "best": float(np.mean([max(map(self.control.score, row)) for row in texts])),
            "words": float(w @ words),
            "unique": len({text for text, share in zip(flat, w, strict=True) if share > 0.0}),
            "perplexity": None if lm is None else find_perplexity(lm, [flat[i] for i in drawn]),
            "TV": total_variation(cells((score, words), self.edges, w), self.law),
        }


def find_perplexity(lm: fk.CausalLM, texts: list[str]) -> float:
    """exp of the mean nats of a token, under a language model that has seen no review before."""
    unique = sorted({text for text in texts if text})
    found = dict(zip(unique, lm.score("A film review:", unique, end=False), strict=True))
    told = [text for text in texts if text]
    return math.exp(-sum(found[text] for text in told) / sum(len(lm.tokenizer(text).input_ids) for text in told))


def methods(control: Control, base: NDArray[np.object_]) -> dict[str, masked.Method]:
    """What is compared; all evaluate the network at most once for each particle and step."""
    model, score, scale = base_model(), control.score, control.scale
    target = fk.reward(score, scale=scale, every="end")
    guess = Lookahead(target, samples=4)
    first_order = FirstOrder(by_difference(target, worst=control.else_, top=16), trust=2.0)
    blind = written(model.with_proposal(Unweighted(first_order)), target, resample=schemes.never)
    return {
        **masked.baselines(base, model, score, scale, lambda text: scale * score(text), blind),
        "feynkac, Lookahead": written(model, guess),
        "feynkac, Lookahead, guided": written(model.with_proposal(first_order), guess),
    }


def compare(samples: int) -> dict[str, list[dict[str, Any]]]:
    """Print a table for each control; `samples` particles for each method and N."""
    base = draw_base(samples, seed=3)
    try:
        lm = fk.CausalLM.demo()
    except (FeynkacError, ImportError):
        lm = None
    return {control.name: _compare(control, base, lm) for control in CONTROLS}


def _compare(control: Control, base: NDArray[np.object_], lm: fk.CausalLM | None) -> list[dict[str, Any]]:
    truth, rows, samples = Truth(control), list[dict[str, Any]](), len(base)
    for n in SIZES:
        exact = truth.texts[np.random.default_rng(n).integers(len(truth.texts), size=samples)].astype(object)
        for name, method in ({"exact draws": masked.plain(exact)} | methods(control, base)).items():
            found = truth.figures(*method(n, samples // n), lm if n == max(SIZES) else None)
            rows.append({"method": f"{name}, N={n}", **found})
    title = f"reviews, exp({control.scale:g} {control.name}), log evidence {truth.log_evidence:.2f}; truth: "
    table(rows, title + f"{truth.ess:.0f} effective of {truth.samples:.0f} samples")
    return rows
