"""Masked diffusion of short reviews steered towards praise: FK steering's text controls, at equal network evaluations.

The reward is VADER's compound score. What is not rewarded: the perplexity under SmolLM2, and the number of words.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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
from steered.published import Published, run_masked
from steered.runs import Numbers, Texts, cells, engine, shares, total_variation, written
from steered.tables import table

FOLDER = Path(__file__).parents[1] / "train"
SCALE, PER_STEP, PARTS = 4.0, 1, 3
SIZES = (4, 16)
Method = Callable[[int, int], Texts]


@functools.lru_cache(maxsize=1)
def _judge() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@functools.lru_cache(maxsize=1 << 18)
def praise(text: str) -> float:
    """VADER's compound score, from -1 (blame) to 1."""
    return float(_judge().polarity_scores(text)["compound"])


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


class Truth:
    """The target law exp(SCALE praise) p, from many samples of the base model (`train/reviews_truth.py`)."""

    def __init__(self) -> None:
        found = np.load(FOLDER / "reviews_truth.npz")
        self.edges, self.law = [found["praise_edges"], found["word_edges"]], found["law"]
        self.ess, self.log_evidence, self.samples = (float(found[name]) for name in ("ess", "log_evidence", "samples"))
        self.texts = found["texts"]
        """Exact draws."""

    def figures(self, log_w: Numbers, texts: NDArray[np.object_], lm: fk.CausalLM | None) -> dict[str, float | None]:
        """Means over the weighted samples, and the distance to the target."""
        w = (shares(log_w) / len(log_w)).ravel()
        flat = list(texts.ravel())
        score, words = (np.array([f(text) for text in flat], dtype=np.float64) for f in (praise, count_words))
        drawn = np.random.default_rng(0).choice(len(flat), 64, p=w / w.sum())
        return {
            "praise": float(w @ score),
            "best": float(np.mean([max(map(praise, row)) for row in texts])),
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


def methods(base: NDArray[np.object_]) -> dict[str, Method]:
    """What is compared; all evaluate the network at most once for each particle and step."""
    model = base_model()
    target = fk.reward(praise, scale=SCALE, every="end")
    guess = Lookahead(target, samples=4)
    first_order = FirstOrder(by_difference(target, worst=0.0, top=16), trust=2.0)

    def blocks(n: int, runs: int) -> NDArray[np.object_]:
        return base[: n * runs].reshape(runs, n)

    def best_of(n: int, runs: int) -> Texts:
        texts = blocks(n, runs)
        top = np.array([max(range(n), key=lambda i, row=row: praise(row[i])) for row in texts])
        return np.zeros((runs, 1)), texts[np.arange(runs), top][:, None]

    def importance(n: int, runs: int) -> Texts:
        texts = blocks(n, runs)
        return SCALE * np.array([[praise(text) for text in row] for row in texts]), texts

    def fk_steering(**options: Any) -> Method:
        def go(n: int, runs: int) -> Texts:
            return np.zeros((runs, n)), run_masked(model, praise, SCALE, Published(every=2, **options), (runs, n))

        return go

    blind = written(model.with_proposal(Unweighted(first_order)), target, resample=schemes.never)
    return {
        "base model": lambda n, runs: (np.zeros((runs, n)), blocks(n, runs)),
        "best of N": best_of,
        "guidance without weights": lambda n, runs: (np.zeros((runs, n)), blind(n, runs)[1]),
        "published FK, difference": fk_steering(),
        "published FK, difference, adaptive": fk_steering(adaptive=True),
        "published FK, max": fk_steering(potential="max"),
        "importance sampling": importance,
        "feynkac, Lookahead": written(model, guess),
        "feynkac, Lookahead, guided": written(model.with_proposal(first_order), guess),
    }


def compare(samples: int) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each method and N."""
    truth, base, rows = Truth(), draw_base(samples, seed=3), []
    try:
        lm = fk.CausalLM.demo()
    except (FeynkacError, ImportError):
        lm = None
    for n in SIZES:
        exact = truth.texts[np.random.default_rng(n).integers(len(truth.texts), size=samples)].astype(object)
        found: dict[str, Method] = {
            "exact draws": lambda n, runs, exact=exact: (np.zeros((runs, n)), exact.reshape(runs, n))
        }
        for name, method in (found | methods(base)).items():
            drawn = method(n, samples // n)
            rows.append({"method": f"{name}, N={n}", **truth.figures(*drawn, lm)})
    title = f"reviews, exp({SCALE:g} praise), log evidence {truth.log_evidence:.2f}; truth: "
    table(rows, title + f"{truth.ess:.0f} effective of {truth.samples:.0f} samples")
    return rows
