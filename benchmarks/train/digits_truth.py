"""The truth that steered digits are tested against: importance sampling from the pipeline itself, without feynkac.

Draws samples of the pipeline in `digits` once and weighs them for five targets p(x) exp(r(x)): a class, the left half
of a real digit seen through noise of two strengths, and the whole of it blurred, or at half of its resolution, with
noise. About 3.5 ms of one core for each sample:

    pip install 'feynkac[diffusion]' scikit-learn
    python benchmarks/train/digits_truth.py

What is saved for each target: the log evidence in nats, the effective sample size, and the posterior means of the
`features`, all with standard errors; and the classifier, so that the truth does not hang on how it is fitted. Chunk k
has seed k: any part can be drawn again alone. Prints one JSON line for each target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

FOLDER = Path(__file__).with_name("digits")
OUT = Path(__file__).with_name("digits_truth.npz")
STEPS, CHUNK = 8, 500
CLASS, IMAGE = 3, 2
"""The class asked for, and which image of the data set is seen by half."""
NOISES = {"half": 0.5, "sharp half": 0.35}
"""Standard deviations of what is seen, in units of the brightness, which goes from 0 to 1."""
SEEN_WHOLE = {"blurred": 0.3, "coarse": 0.2}
"""The same where the whole image is seen, through `blur` and `pool`."""
FEATURES = [*(f"class {k}" for k in range(10)), *(f"pixel {k}" for k in range(64)), "right half"]

Classifier = tuple[NDArray[np.float32], NDArray[np.float32]]


def fingerprint() -> str:
    """SHA-256 of the network's weights: a truth belongs to one network."""
    return hashlib.sha256(next(FOLDER.glob("unet/*.safetensors")).read_bytes()).hexdigest()


def fitted() -> Classifier:
    """Weights (10, 64) and biases (10,) of a logistic regression on real digits."""
    data = load_digits()
    model = LogisticRegression(C=1.0, max_iter=500).fit(data.images.reshape(-1, 64) / 16, data.target)
    return model.coef_.astype(np.float32), model.intercept_.astype(np.float32)


def classify(images: Tensor, classifier: Classifier) -> Tensor:
    """(R, 10) log-probabilities of images (R, 1, 8, 8) from 0 to 1."""
    weight, bias = (torch.as_tensor(each) for each in classifier)
    return (images.flatten(1) @ weight.T + bias).log_softmax(1)


def left_half() -> Tensor:
    """(1, 8, 8) which pixels are seen."""
    return (torch.arange(8) < 4).expand(1, 8, 8)


def seen() -> Tensor:
    """(32,) the left half of a real digit, from 0 to 1."""
    return torch.as_tensor(load_digits().images[IMAGE] / 16, dtype=torch.float32)[None][left_half()]


def image() -> Tensor:
    """(1, 1, 8, 8) the real digit."""
    return torch.as_tensor(load_digits().images[IMAGE] / 16, dtype=torch.float32)[None, None]


def blur(images: Tensor) -> Tensor:
    """(R, 64) means of 3 x 3 pixels, around the edges."""
    moved = [torch.roll(images, (i, j), (-2, -1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return torch.stack(moved).mean(0).flatten(1)


def pool(images: Tensor) -> Tensor:
    """(R, 16) means of blocks of 2 x 2 pixels."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def log_likelihood_whole(images: Tensor, name: str) -> Tensor:
    """(R,) nats: the log-density of what is seen of the whole image, blurred or coarse."""
    see, noise = {"blurred": blur, "coarse": pool}[name], SEEN_WHOLE[name]
    off = (see(images) - see(image())) / noise
    return (-0.5 * off**2 - 0.5 * math.log(2.0 * math.pi * noise**2)).sum(1)


def log_likelihood(images: Tensor, noise: float) -> Tensor:
    """(R,) nats: the log-density of what is seen, given the whole images."""
    off = (images.flatten(1)[:, left_half().flatten()] - seen()) / noise
    return (-0.5 * off**2 - 0.5 * math.log(2.0 * math.pi * noise**2)).sum(1)


def targets(classifier: Classifier) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name: images (R, 1, 8, 8) to r (R,), in nats."""
    halves = {name: lambda x, s=noise: log_likelihood(x, s) for name, noise in NOISES.items()}
    whole = {name: lambda x, n=name: log_likelihood_whole(x, n) for name in SEEN_WHOLE}
    return {"class": lambda x: classify(x, classifier)[:, CLASS], **halves, **whole}


def features(images: Tensor, classifier: Classifier) -> NDArray[np.float64]:
    """(R, 75): probabilities of the classes, pixels, and the mean brightness of the right half (see FEATURES)."""
    right = images[..., 4:].mean((1, 2, 3))
    return torch.cat([classify(images, classifier).exp(), images.flatten(1), right[:, None]], 1).double().numpy()


def pipeline() -> Any:
    """The pipeline, in single precision."""
    pipe = DDIMPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, seeds: range) -> Iterator[Tensor]:
    """A chunk (CHUNK, 1, 8, 8) of base samples for each seed."""
    for seed in seeds:
        source = torch.Generator().manual_seed(seed)
        yield pipe(
            batch_size=CHUNK, num_inference_steps=STEPS, eta=1.0, output_type="pt", generator=source
        ).images.clone()


def summary(log_w: NDArray[np.float64], f: NDArray[np.float64]) -> dict[str, Any]:
    """Of (B,) log-weights in nats and (B, F) features: evidence and posterior means, with their standard errors.

    `moment_se` is that of E[w f] / E[w] with the evidence taken as known, `mean_se` that of the ratio (delta method).
    """
    w = np.exp(log_w - log_w.max())
    scaled = w / w.mean()
    mean, n = (scaled[:, None] * f).mean(0), len(w)
    return {
        "samples": n,
        "log_evidence": float(log_w.max() + np.log(w.mean())),
        "log_evidence_se": float(scaled.std(ddof=1) / math.sqrt(n)),
        "ess": float(w.sum() ** 2 / (w**2).sum()),
        "mean": mean,
        "mean_se": (scaled[:, None] * (f - mean)).std(0, ddof=1) / math.sqrt(n),
        "moment_se": (scaled[:, None] * f).std(0, ddof=1) / math.sqrt(n),
    }


def main() -> None:
    """Draw, weigh, save what there is after every tenth of it, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    classifier, chunks = fitted(), math.ceil(args.samples / CHUNK)
    logs: dict[str, list[NDArray[np.float64]]] = {name: [] for name in targets(classifier)}
    kept: list[NDArray[np.float64]] = []
    for k, images in enumerate(drawn(pipeline(), range(chunks)), 1):
        kept.append(features(images, classifier))
        for name, target in targets(classifier).items():
            logs[name].append(target(images).double().numpy())
        if k % max(chunks // 10, 1) and k < chunks:
            continue
        found = {name: summary(np.concatenate(log_w), np.concatenate(kept)) for name, log_w in logs.items()}
        flat = {f"{name}/{key}": value for name, each in found.items() for key, value in each.items()}
        size = {"samples": k * CHUNK, "network": fingerprint(), "weight": classifier[0], "bias": classifier[1]}
        np.savez_compressed(args.out, **size, **flat)
        for name, each in found.items():
            shown = {key: round(each[key], 4) for key in ("log_evidence", "log_evidence_se", "ess")}
            print(json.dumps({"samples": k * CHUNK, "target": name, **shown}), flush=True)


if __name__ == "__main__":
    main()
