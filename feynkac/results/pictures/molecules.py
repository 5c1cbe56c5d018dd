"""Molecules as drawings, by rdkit (the extra `molecules`)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.extras import needing

WIDTH, HEIGHT = 320, 240
"""Pixels of a drawing."""


def draw_molecules(smiles: str) -> NDArray[np.float64] | None:
    """(H, W, 3) from 0 to 1; None for a text that is no molecule. Raises MissingExtra where rdkit is missing."""
    with needing("molecules", "molecules are drawn by rdkit"):
        from rdkit import Chem, RDLogger  # pyright: ignore[reportMissingImports]
        from rdkit.Chem.Draw import rdMolDraw2D  # pyright: ignore[reportMissingImports]
    with needing("plot", "pictures are drawn by matplotlib, with Pillow"):
        from PIL import Image

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # it writes a line for each text that is no molecule
    molecule: Any = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return None
    canvas = rdMolDraw2D.MolDraw2DCairo(WIDTH, HEIGHT)
    canvas.drawOptions().useCDKAtomPalette()
    canvas.drawOptions().padding = 0.05
    canvas.drawOptions().minFontSize = 14
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    with Image.open(io.BytesIO(canvas.GetDrawingText())) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64) / 255
