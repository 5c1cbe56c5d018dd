"""A trained pipeline, steered: evidence and posterior are those of importance sampling from 100,000 of its samples.

The truth is made once, by benchmarks/train/digits_truth.py, which knows nothing of feynkac.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp

pytest.importorskip("diffusers", reason="pip install 'feynkac[diffusion]'")
pytest.importorskip("sklearn.datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TRAIN = Path(__file__).parents[3] / "benchmarks" / "train"
RUNS, PARTICLES, FRESH = 32, 16, 4_000
FALSE_ALARM = 4.0
"""Standard errors: each z-test fails by chance with probability 6e-5, over all seeds."""


def _loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digits = _loaded(TRAIN / "digits_truth.py")
TARGETS = ["class", *digits.NOISES]


@pytest.fixture(scope="module")
def pipe():
    return digits.pipeline()


@pytest.fixture(scope="module")
def truth():
    return dict(np.load(digits.OUT))


@pytest.fixture(scope="module")
def classifier(truth):
    return truth["weight"], truth["bias"]


def of(truth, target):
    """The numbers of one target."""
    return {key.removeprefix(f"{target}/"): each for key, each in truth.items() if key.startswith(f"{target}/")}


def potential_of(target, classifier):
    if target == "class":
        return fk.reward(lambda images: digits.classify(images, classifier)[:, digits.CLASS], batch=True)
    return fp.observed(fp.inpainting(digits.left_half()), digits.seen(), noise=digits.NOISES[target], prior=0.1)


def z_of(found, error, expected, expected_error):
    return np.abs(found - expected) / np.sqrt(error**2 + expected_error**2)


def test_the_truth_belongs_to_the_network_and_rests_on_enough_samples(truth):
    assert truth["network"] == digits.fingerprint()
    assert truth["samples"] >= 100_000
    assert {name: float(of(truth, name)["ess"]) > 500 for name in TARGETS} == dict.fromkeys(TARGETS, True)


@pytest.mark.parametrize(
    ("target", "trust"), [("class", None), ("class", 0.3), ("half", None), ("half", 0.3), ("sharp half", None)]
)
def test_steering_agrees_with_importance_sampling(target, trust, pipe, truth, classifier):
    """Evidence, and unnormalised the means of classes, pixels and the half that is not seen: each is unbiased.

    Left out are means that a few samples carry, whose estimates are far from normal: those with more than twice the
    relative error that the evidence has in the truth.
    """
    known, potential = of(truth, target), potential_of(target, classifier)
    proposal = fd.Guided(potential, trust=trust) if trust else fd.BASE
    model = fk.Diffusion.from_pipeline(pipe, steps=digits.STEPS, proposal=proposal)
    found = []
    for seed in range(RUNS):
        result = fk.steer(model, potential, particles=PARTICLES, seed=seed)
        w = np.exp(result.log_weights - known["log_evidence"])
        f = digits.features(torch.stack(result.samples), classifier)
        found.append([w.sum(), *(w @ f)])
    mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / math.sqrt(RUNS)
    assert z_of(mean[0], error[0], 1.0, known["log_evidence_se"]) < FALSE_ALARM
    carried = known["moment_se"] < 2.0 * known["log_evidence_se"] * known["mean"]
    assert carried.sum() > 40
    assert z_of(mean[1:], error[1:], known["mean"], known["moment_se"])[carried].max() < FALSE_ALARM


def test_steering_finds_the_posterior_of_the_class(pipe, truth, classifier):
    """The classes of N = 64 particles, in total variation from the truth, against best of 64."""
    known, potential = of(truth, "class"), potential_of("class", classifier)
    model = fk.Diffusion.from_pipeline(pipe, steps=digits.STEPS)
    found, best = np.zeros(10), np.zeros(10)
    for seed in range(8):
        result = fk.steer(model, potential, particles=64, seed=seed)
        classes = digits.features(torch.stack(result.samples), classifier)[:, :10]
        found, best = found + result.weights @ classes / 8, best + classes[np.argmax(classes[:, 3])] / 8
    off, off_best = (0.5 * np.abs(each - known["mean"][:10]).sum() for each in (found, best))
    assert off < 0.05 < off_best


@pytest.mark.slow
def test_fresh_samples_agree_with_the_truth(pipe, truth, classifier):
    """The part of the truth that is drawn anew, with seeds of its own."""
    chunks = range(10**6, 10**6 + FRESH // digits.CHUNK)
    images = torch.cat(list(digits.drawn(pipe, chunks)))
    f = digits.features(images, classifier)
    for name, target in digits.targets(classifier).items():
        known, fresh = of(truth, name), digits.summary(target(images).double().numpy(), f)
        scale = math.exp(fresh["log_evidence"] - known["log_evidence"])
        assert z_of(scale, scale * fresh["log_evidence_se"], 1.0, known["log_evidence_se"]) < FALSE_ALARM
        moments = z_of(scale * fresh["mean"], scale * fresh["moment_se"], known["mean"], known["moment_se"])
        assert moments.max() < FALSE_ALARM


def test_the_pipeline_makes_digits(pipe, classifier):
    """All ten classes appear, and a linear classifier is sure of most samples."""
    images = torch.cat(list(digits.drawn(pipe, range(2))))
    sure, which = digits.classify(images, classifier).exp().max(1)
    assert (sure > 0.7).float().mean() > 0.7
    assert (torch.bincount(which, minlength=10) > 0.02 * len(images)).all()


def test_the_folder_is_small_and_half_precision():
    files = [file for file in digits.FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert {"model_index.json", "config.json", "scheduler_config.json"} <= {file.name for file in files}
