"""A diffusion pipeline on the device: the run that the CPU makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import feynkac as fk

pytestmark = pytest.mark.gpu
DIGITS = Path(__file__).parents[2] / "benchmarks" / "train" / "digits"


def test_a_seed_gives_on_the_device_what_it_gives_on_the_cpu(device, monkeypatch) -> None:
    pytest.importorskip("diffusers")
    import torch

    from feynkac.models.diffusion.folder import open_pipeline

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # convolutions of ten bits of mantissa else
    found = []
    for where in ("cpu", device):
        model = fk.Diffusion.from_pipeline(open_pipeline(str(DIGITS)).to(where), steps=6)
        reward = fk.reward(lambda image: image.mean(), scale=20.0)
        found.append(fk.steer(model, reward, particles=16, seed=0, progress=False))
    assert found[1].log_evidence == pytest.approx(found[0].log_evidence, abs=1e-2)
