"""Molecules that are like drugs, from a masked diffusion over SMILES strings.

python -m feynkac.programs.recipes.diffusion drug-like benchmarks/train/molecules.safetensors --out molecules.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feynkac.base.numbers import read_finite


def drug_like(path: str | Path, score: Callable[[str], float] | None = None, scale: float = 20.0) -> tuple[Any, Any]:
    """Molecules of the model in `path`, all of them valid, weighted by exp(scale * score(SMILES)).

        model, target = drug_like("benchmarks/train/molecules.safetensors")
        result = feynkac.steer(model, target, particles=64, islands=4, seed=0)

    `score` is the quantitative estimate of drug-likeness unless given (Bickerton et al. 2012; rdkit, the extra
    `molecules`). A half-written molecule is judged by eight completions that the denoiser draws; while these are
    hardly ever valid little is believed of them, for such guesses change no target.
    """
    from feynkac.models.discrete.chemistry import qed, valid
    from feynkac.models.discrete.network import open_model
    from feynkac.potentials import constraint, reward
    from feynkac.potentials.discrete import Lookahead

    scale = read_finite("drug_like: scale", scale)
    model = open_model(path)
    target = constraint(valid) * reward(score or qed, scale=scale, every="end")
    return model, Lookahead(target, samples=8, worst=0.25 * scale, power=lambda t: ((t + 1) / model.length) ** 4)
