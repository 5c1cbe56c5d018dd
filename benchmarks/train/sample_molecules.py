"""What the molecule model writes by itself, and steered towards drug-likeness, at equal numbers of particles.

Needs rdkit: pip install 'feynkac[molecules]'. Prints a table and one JSON line. Of the unique valid molecules of each
method: mean QED (the reward) and mean logP (not rewarded, a sign of over-optimisation if it moves). The evidence Z =
E[exp(scale QED) 1{valid}] under the model is estimated by every weighted method; they must agree ("model, syntax
foreseen" is weighted for the syntax alone, whose probability it estimates). The mean QED of 3,000 molecules of the
data's test set is 0.814, their mean logP 2.37.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import feynkac as fk
from feynkac.models.discrete.chemistry import canonical, logp, qed, valid
from feynkac.models.discrete.kernels import MaskedNoise, Unmask
from feynkac.models.discrete.network import open_model
from feynkac.models.discrete.proposals import FirstOrder, by_difference
from feynkac.potentials.discrete import Lookahead

MODEL = Path(__file__).with_name("molecules.safetensors")


def syntax() -> Any:
    """What all molecules of the data meet: the ends of rings come in pairs, and brackets match, three deep at most."""
    pairs = [fk.regex(rf"[^{ring}]*({ring}[^{ring}]*{ring}[^{ring}]*)*") for ring in "1234"]
    inside = "[^()]"
    for _ in range(3):
        inside = rf"([^()]|\({inside}+\))"
    return fk.product(*pairs, fk.regex(f"{inside}*"))


def described(texts: Iterable[str], weights: np.ndarray | None = None) -> dict[str, float]:
    """Validity, uniqueness among the valid, and the means over the unique valid molecules (weighted, if weighted)."""
    texts = list(texts)
    share = np.full(len(texts), 1 / len(texts)) if weights is None else weights
    names = [canonical(text) for text in texts]
    alive = [i for i, name in enumerate(names) if name is not None and share[i] > 0]
    unique = {names[i]: texts[i] for i in alive}
    mean = {f.__name__: float(np.mean([f(text) for text in unique.values()])) for f in (qed, logp)} if unique else {}
    return {
        "valid": float(sum(share[i] for i in alive)),
        "unique": len(unique) / max(len(alive), 1),
        "posterior_qed": float(sum(share[i] * qed(texts[i]) for i in alive) / sum(share[i] for i in alive)),
        **mean,
    }


def steered(name: str, model: Any, potential: Any, particles: int, **options: Any) -> dict[str, Any]:
    began = time.perf_counter()
    result = fk.steer(model, potential, particles=particles, seed=1, progress=False, **options)
    return {
        "method": name, **described(result.texts, result.weights), "ess": result.ess,
        "log_evidence": result.log_evidence, "se": result.log_evidence_se,
        "evaluations": (result.forwarded_tokens or 0) // model.length, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def unsteered(name: str, model: Any, particles: int) -> dict[str, Any]:
    anything = fk.constraint(lambda text: True)
    return {**steered(name, model, anything, particles), "log_evidence": None, "se": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--scale", type=float, default=20.0, help="nats per unit of QED")
    args = parser.parse_args()
    model = open_model(MODEL)
    target = fk.constraint(valid) * fk.reward(qed, scale=args.scale, every="end")
    # Half-written molecules are almost never valid when the rest is filled in at once: believe it only towards the end.
    guess = Lookahead(target, samples=8, worst=0.25 * args.scale, power=lambda t: ((t + 1) / model.length) ** 4)
    first_order = FirstOrder(by_difference(target, worst=0.0, top=16), trust=1.0)
    n, surest = args.particles, Unmask(model.length, order="confident")
    rows = [
        unsteered("model, one by one", model, n),
        unsteered("  at temperature 0.8", open_model(MODEL, temperature=0.8), n),
        unsteered("model, surest first", open_model(MODEL, surest), n),
        unsteered("  at temperature 0.8", open_model(MODEL, surest, temperature=0.8), n),
        unsteered("model, 8 steps", open_model(MODEL, MaskedNoise(8)), n),
        unsteered("model, 32 steps, remasked", open_model(MODEL, MaskedNoise(32, remask=0.2)), n),
        steered("model, syntax foreseen", model, syntax(), n, islands=4),
        steered("importance sampling", model, target, n, algorithm="importance"),
        steered("SMC, difference", model, guess, n, islands=4),
        steered("SMC, first order", model.with_proposal(first_order), guess, n, islands=4),
        steered("SMC, syntax foreseen", model, target * syntax(), n, islands=4),
    ]
    for row in rows:
        shown = [key for key in ("valid", "unique", "qed", "posterior_qed", "logp", "ess") if key in row]
        figures = "  ".join(f"{key} {row[key]:.3f}" for key in shown)
        evidence = "" if row["log_evidence"] is None else f"  log Z {row['log_evidence']:.2f} ± {row['se']:.2f}"
        print(f"{row['method']:26s} {figures}{evidence}  ({row['evaluations']} evaluations, {row['seconds']:.1f} s)")
    print(json.dumps({"benchmark": "molecules", "scale": args.scale, "particles": n, "rows": rows}))


if __name__ == "__main__":
    main()
