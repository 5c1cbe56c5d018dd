"""Train a masked-diffusion model of phrases from reviews on one core, in about a minute.

The data are reviews of films and products on which VADER was validated (Hutto, Gilbert 2014; those of films from Pang,
Lee 2004), which the first release of the PyPI package `vaderSentiment` ships; only its files are read:

    pip download --no-deps vaderSentiment==0.5
    python benchmarks/train/reviews.py --data vaderSentiment-0.5.zip

A phrase is a run of four to eight words between two marks, all among the commonest 511; longer runs are cut.
Loss and optimisers are in `masked.py`. Prints one JSON line.
"""

from __future__ import annotations

import io
import itertools
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from masked import learn, loss_of, read_options
from numpy.typing import NDArray

from feynkac.models.discrete.network import CanvasTransformer

OUT = Path(__file__).with_name("reviews.safetensors")
ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = re.compile(r"(movie|amazon)ReviewSnippets_GroundTruth\.txt$")
SHORTEST, LENGTH, TOKENS, END = 4, 8, 512, 0


def read(archive: str) -> list[list[str]]:
    """The words between two marks, in lower case."""
    with zipfile.ZipFile(archive) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(ARCHIVE))) as inner:
        files = [inner.extractfile(name) for name in sorted(inner.getnames()) if MEMBER.search(name)]
        text = "\n".join(file.read().decode("latin-1").lower() for file in files if file)
    said = (part for line in text.splitlines() for part in re.split(r"[^a-z' ]+", line.split("\t")[-1]))
    return [re.findall(r"[a-z]+(?:'[a-z]+)?", part) for part in said]


def tokenised(said: list[list[str]]) -> tuple[list[str], NDArray[np.int64]]:
    """The TOKENS words with a space before each, and (M, LENGTH) canvases of distinct phrases, filled up with END."""
    counted = Counter(word for words in said for word in words).most_common(TOKENS - 1)
    number = {word: i for i, (word, _) in enumerate(counted, 1)}
    runs = {
        tuple(run)[:LENGTH]
        for words in said
        for known, run in itertools.groupby((number.get(word, END) for word in words), bool)
        if known
    }
    phrases = sorted(run for run in runs if len(run) >= SHORTEST)
    return ["", *(f" {word}" for word, _ in counted)], np.array([run + (END,) * (LENGTH - len(run)) for run in phrases])


def main() -> None:
    args = read_options(__doc__, "the archive of vaderSentiment 0.5", OUT, steps=500, width=96, layers=2)
    torch.set_num_threads(1)
    words, ids = tokenised(read(args.data))
    order = np.random.default_rng(0).permutation(len(ids))
    held_out, data = (torch.from_numpy(ids[part]) for part in (order[:400], order[400:]))

    def measure(network: CanvasTransformer) -> list[float]:
        return [loss_of(network, held_out, len(words)).item() for _ in range(20)]

    learn("phrases", words, data, measure, args)


if __name__ == "__main__":
    main()
