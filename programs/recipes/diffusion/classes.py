"""One class of images, from a model that knows of no classes and a classifier that knows of no noise.

python -m feynkac.programs.recipes.diffusion of-class demo --label 3 --out threes.png
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.extras import needing
from feynkac.base.numbers import read_whole

if TYPE_CHECKING:
    from torch import Tensor


def of_class(
    pipe: Any,
    classify: Callable[[Tensor], Tensor],
    label: int,
    scale: float = 1.0,
    steps: int = 50,
    eta: float | None = None,
) -> tuple[Any, Any]:
    """Images of `pipe` given their class, by Bayes' rule: p(image | label) in proportion to p(image) p(label | image).

        model, likelihood = of_class(pipe, digit_classifier(), label=3)
        result = feynkac.steer(model, likelihood, particles=32, islands=4, seed=0)

    `classify`: images (R, C, H, W) from 0 to 1 to (R, K) log-probabilities, in nats. With scale 1 the evidence is
    log p(label), the share of that class among what the model makes by itself; a larger scale asks for clearer images.
    Raises ArgumentError for what is no classifier and no label; PotentialError, when used, for a label that it has not.
    """
    from feynkac.models.diffusion.pipeline import Diffusion
    from feynkac.potentials import reward

    if isinstance(classify, type) or not callable(classify):
        raise ArgumentError(f"of_class(classify={quote(classify)}): give a function of images to log-probabilities")
    number = read_whole("of_class: label", label, 0)

    def log_likelihood(images: Tensor) -> Tensor:
        return classify(images)[:, number]

    return Diffusion.from_pipeline(pipe, steps, eta), reward(log_likelihood, scale=scale, batch=True)


def digit_classifier() -> Callable[[Tensor], Tensor]:
    """Logistic regression on scikit-learn's digits: images (R, 1, 8, 8) from 0 to 1 to (R, 10) log-probabilities."""
    import torch

    with needing("digits", "the digits come with scikit-learn"):
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
    data: Any = load_digits()
    fitted = LogisticRegression(max_iter=500).fit(data.data / 16, data.target)
    weight, bias = (torch.as_tensor(each, dtype=torch.float32) for each in (fitted.coef_, fitted.intercept_))
    return lambda images: (images.flatten(1) @ weight.to(images).T + bias.to(images)).log_softmax(1)
