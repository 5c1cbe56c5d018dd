"""A trained pipeline, steered: the evidence and the posterior are those of importance sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.potentials import diffusion as fp

diffusers = pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
datasets = pytest.importorskip("sklearn.datasets")
linear = pytest.importorskip("sklearn.linear_model")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

FOLDER = Path(__file__).parents[2] / "benchmarks" / "train" / "digits"
STEPS, BASE, RUNS, PARTICLES = 8, 1024, 16, 16
FALSE_ALARM = 4.0
"""Standard errors: each z-test fails by chance with probability 6e-5, over all seeds."""


@pytest.fixture(scope="module")
def pipe():
    pipe = diffusers.DDIMPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def base(pipe):
    """(BASE, 1, 8, 8) samples that the pipeline makes by itself."""
    source = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": STEPS, "eta": 1.0, "output_type": "pt", "generator": source}
    return torch.cat([pipe(batch_size=256, **options).images for _ in range(BASE // 256)])


@pytest.fixture(scope="module")
def classify():
    """Images from 0 to 1 to (R, 10) log-probabilities."""
    data = datasets.load_digits()
    model = linear.LogisticRegression(C=1.0, max_iter=500).fit(data.images.reshape(-1, 64) / 16, data.target)
    weight, bias = (torch.as_tensor(each, dtype=torch.float32) for each in (model.coef_, model.intercept_))
    return lambda images: (images.flatten(1) @ weight.T + bias).log_softmax(1)


def left_half():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    return mask


def given():
    """The left half of a real digit, seen through noise."""
    image = torch.as_tensor(datasets.load_digits().images[2] / 16, dtype=torch.float32)[None]
    return fp.observed(fp.inpainting(left_half()), image[left_half()], noise=0.5, prior=0.1)


def log_likelihood(images):
    y = given().y
    off = images.flatten(1)[:, left_half().flatten()] - y
    return (-0.5 * (off / 0.5) ** 2 - 0.5 * np.log(2 * np.pi * 0.25)).sum(1)


def agree(mine, theirs):
    """(RUNS,) and (BASE,) estimates of the same number, all unbiased."""
    error = np.sqrt(mine.var(ddof=1) / len(mine) + theirs.var(ddof=1) / len(theirs))
    return abs(mine.mean() - theirs.mean()) < FALSE_ALARM * error


@pytest.mark.parametrize("task", ["class", "inpainting"])
def test_steering_agrees_with_importance_sampling_and_raises_the_reward(task, pipe, base, classify):
    if task == "class":
        potential, truth = fp.reward(lambda images: classify(images)[:, 3]), classify(base)[:, 3].double().numpy()
    else:
        potential, truth = given(), log_likelihood(base).double().numpy()
    weights = np.exp(truth - truth.max())
    assert weights.sum() ** 2 / (weights**2).sum() > 30, "importance sampling is no truth here"
    model = fk.Diffusion.from_pipeline(pipe, steps=STEPS)
    results = [fk.steer(model, potential, particles=PARTICLES, seed=seed) for seed in range(RUNS)]
    evidence = np.array([np.exp(r.log_evidence - truth.max()) for r in results])
    assert agree(evidence, weights)
    # Unnormalised, an expectation is unbiased too: here of the brightness of the right half.
    right = [np.array([float(x[..., 4:].mean()) for x in r.samples]) for r in results]
    masses = [np.exp(r.log_weights - truth.max()) for r in results]
    mine = np.array([(w * f).sum() for w, f in zip(masses, right, strict=True)])
    assert agree(mine, weights * base[..., 4:].mean((1, 2, 3)).numpy())
    score = (lambda x: classify(x)[:, 3]) if task == "class" else log_likelihood
    steered = np.mean([(r.weights * score(torch.stack(r.samples)).numpy()).sum() for r in results])
    assert steered > truth.mean() + 2.0


def test_the_pipeline_makes_digits(base, classify):
    """All ten classes appear, and a linear classifier is sure of most samples."""
    sure, which = classify(base).exp().max(1)
    assert (sure > 0.7).float().mean() > 0.7
    assert (torch.bincount(which, minlength=10) > 0.02 * BASE).all()


def test_the_folder_is_small_and_half_precision():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert {"model_index.json", "config.json", "scheduler_config.json"} <= {file.name for file in files}
