"""Train a masked-diffusion model of small drug-like molecules on one core: 8,000 steps of 0.1 seconds.

The data are the SMILES strings of MOSES (Polykovskiy et al. 2020), which the PyPI package `molsets` ships; only its
file is read:

    pip download --no-deps molsets
    python benchmarks/train/molecules.py --data molsets-0.3.1-py3-none-any.whl

Tokens are the atoms, bonds and brackets of SMILES and the commonest neighbours among them joined (byte-pair encoding;
Sennrich et al. 2016): a canvas is then half as long, and most rings and branches close within a token or beside it.

The loss and the optimisers are in `masked.py`.

The committed weights took 17 core-minutes; their first 3,000 steps were in single precision. The bound on unseen
molecules is 21.5 nats. Prints one JSON line.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from masked import learn, loss_of, read_options
from numpy.typing import NDArray

from feynkac.models.discrete.network import CanvasTransformer

OUT = Path(__file__).with_name("molecules.safetensors")
LONGEST = 32
"""SMILES pieces (atoms, bonds, brackets) of a molecule."""
LENGTH = 16
"""Tokens of a canvas."""
TOKENS = 128
PIECE = re.compile(r"\[[^\]]+\]|Br|Cl|.")
MEMBER = "moses/dataset/data/{}.csv.gz"
END = 0


def read(wheel: str, part: str) -> list[list[str]]:
    """The molecules of at most LONGEST pieces."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(MEMBER.format(part))).decode().splitlines()[1:]
    split = (PIECE.findall(line.split(",")[0]) for line in lines)
    return [pieces for pieces in split if len(pieces) <= LONGEST]


def flattened(molecules: Sequence[Sequence[str]], tokens: Sequence[str]) -> NDArray[np.int64]:
    """The ids of all pieces in a row, each molecule followed by END."""
    number = {piece: i for i, piece in enumerate(tokens)}
    return np.array([number[piece] for molecule in molecules for piece in (*molecule, "")])


def joined(flat: NDArray[np.int64], a: int, b: int, new: int) -> NDArray[np.int64]:
    """`new` in place of every `a` that a `b` follows, from the left."""
    at = np.flatnonzero((flat[:-1] == a) & (flat[1:] == b))
    if a == b:  # of overlapping pairs every other one
        run_start = np.flatnonzero(np.r_[True, np.diff(at) > 1])
        at = at[(np.arange(len(at)) - np.repeat(run_start, np.diff(np.r_[run_start, len(at)]))) % 2 == 0]
    result = flat.copy()
    result[at] = new
    return np.delete(result, at + 1)


def commonest(flat: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The pair of neighbours within a molecule that is seen most often."""
    inside = (flat[:-1] != END) & (flat[1:] != END)
    a, b = divmod(int(np.bincount(flat[:-1][inside] * k + flat[1:][inside]).argmax()), k)
    return a, b


def tokenised(
    train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The TOKENS tokens, learnt from `train`, and both sets as (M, LENGTH) canvases; longer molecules are left out."""
    tokens = ["", *sorted({piece for molecule in train for piece in molecule})]
    flat, other = flattened(train, tokens), flattened(test, tokens)
    while len(tokens) < TOKENS:
        a, b = commonest(flat, len(tokens))
        flat, other = joined(flat, a, b, len(tokens)), joined(other, a, b, len(tokens))
        tokens.append(tokens[a] + tokens[b])
    return tokens, canvases(flat), canvases(other)


def canvases(flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, LENGTH) ids, filled up with END."""
    ends = np.flatnonzero(flat == END)
    starts = np.r_[0, ends[:-1] + 1]
    starts, ends = starts[ends - starts <= LENGTH], ends[ends - starts <= LENGTH]
    place = starts[:, None] + np.arange(LENGTH)
    return np.where(place < ends[:, None], flat[np.minimum(place, len(flat) - 1)], END)


def main() -> None:
    args = read_options(__doc__, "the molsets wheel", OUT, steps=8000, width=128, layers=4)
    tokens, *ids = tokenised(read(args.data, "train"), read(args.data, "test"))
    data, held_out = map(torch.from_numpy, ids)

    def measure(network: CanvasTransformer) -> list[float]:
        return [loss_of(network, held_out[k : k + 500], len(tokens)).item() for k in range(0, 10_000, 500)]

    learn("molecules", tokens, data, measure, args)


if __name__ == "__main__":
    main()
