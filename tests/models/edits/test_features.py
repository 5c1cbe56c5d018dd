"""Features set to values, through autoencoders that are known in full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_edited import recompute, walk
from test_weights import PROMPTS, opened
from tiny import tiny

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Clamp, decompose


class Planted:
    """Features of a random dictionary: encode by rectified products, decode by its rows and a bias."""

    def __init__(self, width: int, n: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=1)
        self.bias = torch.randn(width, generator=generator)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.bias) @ self.rows.T).relu()

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts @ self.rows + self.bias


@pytest.mark.parametrize("only_active", [False, True])
def test_a_clamp_moves_the_features_and_keeps_what_they_do_not_explain(only_active: bool) -> None:
    model, planted = tiny("llama"), Planted(32, 80)
    kind = [Clamp(planted, {3: 0.0, 7: 5.0}, layer=0, scope="all", only_active=only_active)]

    def change(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        code = planted.encode(value)
        moved = value.clone()
        for feature, to in ((3, 0.0), (7, 5.0)):
            acts = code[..., feature] > 0 if only_active else torch.ones_like(code[..., feature]) > 0
            moved += ((to - code[..., feature]) * acts)[..., None] * planted.rows[feature]
        return moved

    contexts = opened(model, kind, None, kind, kind)
    plain = lambda value, at: value  # noqa: E731
    walk(contexts, PROMPTS, 1, lambda text, g: recompute(model, "model.layers.0", text, plain if g == 1 else change))


def test_a_clamp_to_its_own_values_changes_nothing(tiny_lm: Any) -> None:
    class Constant(Planted):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((*x.shape[:-1], 5), 2.0)

    lm = tiny_lm("a", "b")
    same = lm.edited(Clamp(Constant(16, 5), {1: 2.0}, layer=0, scope="all"))
    assert same.open([[1, 2]], 2).start().equal(lm.open([[1, 2]], 2).start())


def test_an_autoencoder_is_given_float32_whatever_the_model_computes_in() -> None:
    model, planted = tiny("llama").bfloat16(), Planted(32, 80)
    contexts = opened(model, [Clamp(planted, {3: 5.0}, layer=0, scope="all")], None, None, None)
    assert not contexts.start()[0].equal(opened(model, None, None, None, None).start()[0])


class Module(torch.nn.Module):
    """The same features with parameters of their own precision, as sae-lens has them."""

    def __init__(self, planted: Planted, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(planted.rows.to(dtype))
        self.bias = torch.nn.Parameter(planted.bias.to(dtype))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.bias) @ self.rows.T).relu()

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return feature_acts @ self.rows + self.bias


def test_features_in_another_precision_than_the_models_are_read_in_their_own(tiny_lm: Any) -> None:
    lm, planted = tiny_lm("a", "b"), Planted(16, 40)
    wanted = lm.edited(Clamp(planted, {3: 5.0}, layer=0)).score("ab", ["ba"])
    exact = lm.edited(Clamp(Module(planted, torch.float64), {3: 5.0}, layer=0)).score("ab", ["ba"])
    assert exact == pytest.approx(wanted, abs=1e-4)
    rough = lm.edited(Clamp(Module(planted, torch.bfloat16), {3: 5.0}, layer=0)).score("ab", ["ba"])
    assert rough == pytest.approx(wanted, abs=0.5)
    told = [decompose(planted.rows[3], features, terms=2) for features in (planted, Module(planted, torch.float64))]
    assert told[0].features.tolist() == told[1].features.tolist()


def errors(lm: Any) -> dict[str, Any]:
    planted = Planted(16, 9)
    return {
        "must have encode and decode": lambda: lm.edited(Clamp(3, {0: 1.0}, layer=0)),  # pyright: ignore
        "does not take activations of 16 numbers": lambda: lm.edited(Clamp(Planted(32, 9), {0: 1.0}, layer=0)),
        "feature 9 does not exist; there are 0..8": lambda: lm.edited(Clamp(planted, {9: 1.0}, layer=0)),
        "the value of feature 1 is nan": lambda: lm.edited(Clamp(planted, {1: float("nan")}, layer=0)),
        "give numbers by features": lambda: lm.edited(Clamp(planted, {}, layer=0)),
        "needs layer=": lambda: lm.edited(Clamp(planted, {1: 1.0})),
    }


@pytest.mark.parametrize("wanted", list(errors(None)))
def test_features_that_do_not_fit_are_refused_where_they_are_made(tiny_lm: Any, wanted: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        errors(tiny_lm("a", "b"))[wanted]()
    assert wanted in str(caught.value)
