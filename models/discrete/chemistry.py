"""Scores of molecules written as SMILES, by rdkit (the extra `molecules`): plain functions of the text."""

from __future__ import annotations

import functools
from typing import Any

from feynkac.base.extras import needing


@functools.lru_cache(maxsize=1)
def _rdkit() -> Any:
    with needing("molecules", "molecules are scored by rdkit"):
        from rdkit import Chem, RDLogger  # pyright: ignore[reportMissingImports]
        from rdkit.Chem import QED, Crippen  # pyright: ignore[reportMissingImports]
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # it writes a line for each text that is no molecule
    return Chem, QED, Crippen


@functools.lru_cache(maxsize=65_536)
def _molecule(smiles: str) -> Any:
    chem = _rdkit()[0]
    molecule = chem.MolFromSmiles(smiles) if smiles else None
    try:  # rdkit reads a few texts whose bonds it cannot assign a second time: every score of those would raise
        return molecule if molecule is None else chem.RemoveHs(molecule)
    except chem.MolSanitizeException:
        return None


def valid(smiles: str) -> bool:
    """Whether the text is a molecule, valences and rings included; the empty text is none."""
    return _molecule(smiles) is not None


def canonical(smiles: str) -> str | None:
    """One spelling for each molecule; None for a text that is none."""
    return _rdkit()[0].MolToSmiles(_molecule(smiles)) if valid(smiles) else None


@functools.lru_cache(maxsize=65_536)
def qed(smiles: str) -> float:
    """Quantitative estimate of drug-likeness, from 0 to 1 (Bickerton et al. 2012); 0 for a text that is no molecule."""
    return float(_rdkit()[1].qed(_molecule(smiles))) if valid(smiles) else 0.0


def logp(smiles: str) -> float:
    """Octanol-water partition coefficient, log10 (Wildman, Crippen 1999); 0 for a text that is no molecule."""
    return float(_rdkit()[2].MolLogP(_molecule(smiles))) if valid(smiles) else 0.0
