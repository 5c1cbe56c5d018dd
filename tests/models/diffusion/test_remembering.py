"""Denoisers that keep something of their latents in attributes of their own."""

from __future__ import annotations

import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models import diffusion as fd

STEPS = 6


class Plain:
    """The denoiser of a mixture, which counts the rows that it is asked about."""

    def __init__(self):
        self.prior = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.2)
        self.rows = list[int]()

    def x0hat(self, x, t):
        self.rows.append(len(x))
        return self.prior.x0hat(x, t)


class Momentum(Plain):
    """Adds what it said of each row before, whoever stands there now."""

    before = None

    def x0hat(self, x, t):
        said = super().x0hat(x, t)
        self.before = said if self.before is None else 0.5 * self.before + said
        return said + 0.1 * self.before


class Average(Plain):
    """Is where it was before by half: of the same latents in the same rows, it says the same again."""

    before = None

    def x0hat(self, x, t):
        said = super().x0hat(x, t)
        self.before = said if self.before is None or self.before.shape != said.shape else (self.before + said) / 2
        return self.before


class Once(Plain):
    """Keeps what it said at each noise level, whatever the latents."""

    def __init__(self):
        super().__init__()
        self.said = {}

    def x0hat(self, x, t):
        if t not in self.said:
            self.said[t] = super().x0hat(x, t)
        return self.said[t][: len(x)]


class Dropout(Plain):
    def x0hat(self, x, t):
        return torch.nn.functional.dropout(super().x0hat(x, t), 0.1)


class Batch(Plain):
    def x0hat(self, x, t):
        said = super().x0hat(x, t)
        return said - 0.1 * said.mean(0)


def steer(denoiser, scale=20.0, **options):
    model = fd.DiffusionSampler(denoiser, fd.ddim(STEPS), (2,))
    return fk.steer(model, fk.reward(lambda x: x[:, 0], scale, batch=True), particles=8, seed=0, **options)


@pytest.mark.parametrize("kind", [Momentum, Average, Once, Dropout, Batch])
def test_a_denoiser_that_says_something_else_of_the_same_latents_is_refused_by_name(kind):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=rf"^{kind.__name__} says something else of the same latents.*Recurrent"):
        steer(kind())


@pytest.mark.parametrize("algorithm", ["importance", "best_of_n"])
def test_what_a_denoiser_keeps_is_no_matter_where_nothing_is_copied(algorithm):
    steer(Momentum(), algorithm=algorithm)


def test_a_denoiser_that_forgets_is_asked_about_two_rows_more_and_once():
    denoiser = Plain()
    result = steer(denoiser)
    assert len(result.history.resampled) > 1 and sorted(denoiser.rows) == [2] + [8] * STEPS


def test_where_nothing_is_copied_nothing_is_asked_more():
    denoiser = Plain()
    assert not steer(denoiser, 0.0).history.resampled and denoiser.rows == [8] * STEPS


def test_the_denoiser_of_each_problem_of_a_batch_is_tried():
    one, other = (fd.DiffusionSampler(each, fd.ddim(STEPS), (2,)) for each in (Plain(), Average()))
    with pytest.raises(ModelError, match="Average"):
        fk.steer([one, other], fk.reward(lambda x: x[:, 0], 20.0, batch=True), particles=8, seed=0)
