"""Masked diffusion of molecules steered towards drug-likeness, at equal numbers of particles."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import feynkac as fk
from feynkac.models.discrete.chemistry import canonical, logp, qed, valid
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.network import NetworkDenoiser, load
from feynkac.models.discrete.proposals import FirstOrder, Unweighted, by_difference
from feynkac.potentials.discrete import Lookahead
from feynkac.smc import resample as schemes
from feynkac.smc.rng import Streams
from steered import masked
from steered.runs import Numbers, cells, engine, quantiles, shares, total_variation, written
from steered.tables import table

FOLDER = Path(__file__).parents[1] / "train"
SCALE, PARTS = 10.0, 3
SIZES = (16, 64)


@functools.lru_cache(maxsize=1)
def _accessibility() -> Any:
    """The synthetic accessibility score that rdkit ships among its contributions; None where it is left out."""
    from rdkit.Chem import RDConfig

    path = os.path.join(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    if not os.path.exists(path):
        return None
    spec = importlib.util.spec_from_file_location("sascorer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sascorer"] = module
    spec.loader.exec_module(module)
    return module


@functools.lru_cache(maxsize=65_536)
def accessibility(smiles: str) -> float:
    """How hard a molecule is to make, from 1 to 10 (Ertl, Schuffenhauer 2009); nan where rdkit comes without it."""
    from rdkit import Chem

    scorer = _accessibility()
    return float(scorer.calculateScore(Chem.MolFromSmiles(smiles))) if scorer else float("nan")


@functools.lru_cache(maxsize=1)
def base_model() -> Any:
    """One token a step, where the network is surest."""
    network, vocabulary = load(FOLDER / "molecules.safetensors")
    length = network.shape["length"]
    return DiscreteDiffusion(NetworkDenoiser(network), vocabulary, length, Unmask(length, order="confident"))


def methods(base: NDArray[np.object_]) -> dict[str, masked.Method]:
    """What is compared; all evaluate the network at most once for each particle and step."""
    model = base_model()
    target = fk.constraint(valid) * fk.reward(qed, scale=SCALE, every="end")
    # Half-written molecules are seldom valid when the rest is filled in at once: believe guesses more towards the end.
    guess = Lookahead(target, samples=8, worst=0.25 * SCALE, power=lambda t: ((t + 1) / model.length) ** 4)
    first_order = FirstOrder(by_difference(target, worst=0.0, top=16), trust=1.0)

    def log_psi(text: str) -> float:
        return SCALE * qed(text) if valid(text) else -np.inf

    blind = written(model.with_proposal(Unweighted(first_order)), target, resample=schemes.never)
    return {
        **masked.baselines(base, model, qed, SCALE, log_psi, blind),
        "feynkac, Lookahead": written(model, guess),
    }


def drawn(log_w: Numbers, texts: NDArray[np.object_]) -> NDArray[np.object_]:
    """N texts of each run, drawn by its weights."""
    rows = [schemes.systematic(row, Streams(run).at("resample", 0))[0] for run, row in enumerate(log_w)]
    return np.concatenate([row if kept is None else row[kept] for row, kept in zip(texts, rows, strict=True)])


class Truth:
    """The target law, from many samples of the base model."""

    def __init__(self, base: NDArray[np.object_]) -> None:
        self.texts = [text for text in base if valid(text)]
        weight = np.exp(SCALE * np.array([qed(text) for text in self.texts]))
        self.share = weight / weight.sum()
        self.ess = 1.0 / (self.share**2).sum()
        self.edges = [quantiles(each, self.share, PARTS) for each in self._features(self.texts)]
        self.law = self.cells(self.texts, self.share)

    def _features(self, texts: list[str]) -> tuple[Numbers, Numbers]:
        return np.array([qed(text) for text in texts]), np.array([logp(text) for text in texts])

    def cells(self, texts: list[str], weight: Numbers) -> Numbers:
        """Mass in the quantiles, under the target, of drug-likeness and logP; the last cell is of invalid texts."""
        good = np.array([valid(text) for text in texts])
        seen = [text for text, ok in zip(texts, good, strict=True) if ok]
        found = cells(self._features(seen), self.edges, weight[good]) if seen else np.zeros(PARTS**2)
        return np.append(found, weight[~good].sum())

    def figures(self, log_w: Numbers, texts: NDArray[np.object_]) -> dict[str, float]:
        """Means over the unique valid molecules; over the best one of each run; and the distance to the target."""
        dead = (log_w == -np.inf).all(axis=1)
        w = shares(np.where(dead[:, None], 0.0, log_w)) / len(log_w)
        alive = [(text, share) for text, share in zip(texts.ravel(), w.ravel(), strict=True) if share > 0]
        unique = {canonical(text): text for text in drawn(log_w, texts) if valid(text)}.values()
        top = [max(row[log_w[i] > -np.inf], key=qed, default="") for i, row in enumerate(texts)]
        found = self.cells([text for text, _ in alive], np.array([share for _, share in alive]))
        return {
            "valid": float(sum(share for text, share in alive if valid(text))),
            "unique": len(unique),
            "QED": float(np.mean([qed(text) for text in unique])),
            "QED of best": float(np.mean([qed(text) for text in top])),
            "SA": float(np.mean([accessibility(text) for text in unique])),
            "logP": float(np.mean([logp(text) for text in unique])),
            "TV": total_variation(found, self.law),
        }


def compare(samples: int, many: int) -> list[dict[str, Any]]:
    """Print the table; `samples` particles for each method and N.

    Three quarters of `many` samples of the base model are the truth, the others what methods choose from.
    """
    model, anything = base_model(), fk.constraint(lambda text: True)
    last = engine(model, anything, 64, many // 64, resample=schemes.never, seed=3)
    base = np.array(last.state.texts(np.arange(many // 64 * 64)), dtype=object)
    truth, base, rows = Truth(base[: 3 * len(base) // 4]), base[3 * len(base) // 4 :], []
    picked = np.random.default_rng(0).choice(len(truth.texts), samples, p=truth.share)
    exact = np.array([truth.texts[i] for i in picked], dtype=object)
    for n in SIZES:
        rows.append(
            {"method": f"exact draws, N={n}", **truth.figures(np.zeros((samples // n, n)), exact.reshape(-1, n))}
        )
        for name, method in methods(base).items():
            rows.append({"method": f"{name}, N={n}", **truth.figures(*method(n, samples // n))})
    table(
        rows, f"molecules, exp({SCALE:g} QED) on valid ones; truth rests on {truth.ess:.0f} effective of {many} samples"
    )
    return rows
