"""Sparse features by a planted dictionary: taken apart, matched, aimed at; what directions do to the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import (
    Add,
    Direction,
    Shift,
    choose_layer,
    contrast_layers,
    decompose,
    describe,
    match_features,
    target_features,
)  # fmt: skip
from feynkac.models.edits.fitting.aiming import Effects, fit_effects
from feynkac.models.edits.fitting.features import list_rows


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Planted:
    """Features whose rows are at right angles, with the offset that autoencoders have."""

    def __init__(self, rows: torch.Tensor, threshold: float = 0.0, offset: float = 0.7, relu: bool = True) -> None:
        self.rows, self.threshold, self.offset, self.relu = rows, threshold, offset, relu

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        code = (x - self.offset) @ self.rows.T
        return torch.where(code > self.threshold, code, 0.0) if self.relu else code

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.rows + self.offset


def plant(seed: int = 0, count: int = 12, width: int = 32, **given: Any) -> Planted:
    return Planted(torch.linalg.qr(draw(seed, width, width)).Q[:count].contiguous(), **given)


def test_decoder_rows_are_found_by_probing() -> None:
    features = plant(count=12)
    torch.testing.assert_close(list_rows(features, 32), features.rows)
    many = Planted(draw(1, 2500, 4))  # more than are probed at once
    torch.testing.assert_close(list_rows(many, 4), many.rows)


def test_a_vector_is_taken_apart_with_its_signs() -> None:
    features = plant()
    vector = 3.0 * features.rows[2] - 2.0 * features.rows[5] + 1.0 * features.rows[7]
    found = decompose(Direction({4: vector}), features)
    assert found.features.tolist() == [2, 5, 7] and found.negative == pytest.approx(1 / 3)
    torch.testing.assert_close(found.coefficients, torch.tensor([3.0, -2.0, 1.0]), atol=1e-5, rtol=1e-5)
    assert found.unexplained < 1e-10
    centred = Planted(features.rows, offset=0.0)
    assert decompose(vector, centred).unexplained_by_encoder == pytest.approx(4.0 / 14.0, abs=1e-5)  # the negative part
    assert decompose(vector, centred, terms=1).unexplained == pytest.approx(5.0 / 14.0, abs=1e-5)
    again = features.decode(features.encode(vector[None]))[0]
    assert found.unexplained_by_encoder == pytest.approx(float((vector - again).square().sum() / 14.0), abs=1e-5)


def test_features_flow_to_those_most_like_them() -> None:
    one, order = plant(), torch.randperm(12, generator=torch.Generator().manual_seed(2))
    other = Planted(3.0 * one.rows[order] + 0.01 * draw(3, 12, 32), offset=-2.0)
    found = match_features(one, other, 32)
    assert torch.equal(order[found.features], torch.arange(12)) and float(found.cosines.min()) > 0.99


def test_effects_are_recovered_and_aimed() -> None:
    matrix, vectors = draw(1, 32, 12), draw(2, 100, 32)
    found = fit_effects(vectors, vectors @ matrix, ridge=0.0)
    torch.testing.assert_close(found, matrix, atol=1e-4, rtol=1e-4)
    effects = Effects(found, 3)
    vector = effects.aim({4: 2.0, 9: -1.0}, ridge=1e-9)[3]
    wanted = torch.zeros(12)
    wanted[4], wanted[9] = 2.0, -1.0
    torch.testing.assert_close(vector @ matrix, wanted, atol=1e-3, rtol=0)
    along = matrix[:, 4]  # the naive vector moves others, too
    assert float((along / (along @ along) @ matrix)[torch.arange(12) != 4].abs().max()) > 0.1


def test_features_of_a_model_are_targeted_through_it(make_lm: Any) -> None:
    lm, features = make_lm(), plant(relu=False)
    here = target_features(lm, features, ["ab", "xyz"], 1, vectors=64, ridge=1e-9)
    torch.testing.assert_close(here.matrix, features.rows.T, atol=1e-3, rtol=0)  # codes are linear at the same layer
    through = target_features(lm, features, ["ab", "xyz"], 0, read_at=1, vectors=64, strength=0.01, ridge=1e-6)
    v = 0.01 * through.aim(3)[0]
    codes = [features.encode(_last(model)) for model in (lm, lm.edited(Add(v, layer=0, scope="all")))]
    moved = (codes[1] - codes[0]).mean(0)
    assert int(moved.argmax()) == 3 and float(moved[3]) == pytest.approx(0.01, rel=0.1)
    assert float(moved[torch.arange(12) != 3].abs().max()) < 0.002


def _last(lm: Any) -> torch.Tensor:
    from feynkac.models.edits import capture

    return capture(lm, ["ab", "xyz"], 1).at[1]


def test_a_direction_is_described_by_what_it_writes(make_lm: Any) -> None:
    lm = make_lm()
    toward = lm.model.lm_head.weight.detach()[3] - lm.model.lm_head.weight.detach().mean(0)
    found = describe(lm, 1e3 * toward, 1, ["ab", "xy"], top=5)
    logits = lm.model.lm_head.weight.detach() @ (1e3 * toward)
    assert [text for text, _ in found.unembedded] == [lm.vocabulary.text([int(i)]) for i in logits.topk(5).indices]
    edited = lm.edited(Add(1e3 * toward, layer=1))
    laws = [model.open([lm.begin("ab"), lm.begin("xy")], 1).start().softmax(1).mean(0) for model in (edited, lm)]
    shift = laws[0] - laws[1]
    assert found.raised[0] == ("c", pytest.approx(float(shift[3]), abs=1e-5)) and int(shift.argmax()) == 3
    assert found.lowered[0][1] == pytest.approx(-float(shift.min()), abs=1e-5) and "raised: 'c'" in str(found)
    assert describe(lm, Direction({1: toward})).raised == []
    doubled = lm.edited(Shift({"lm_head.weight": lm.model.lm_head.weight.detach().clone()}))
    assert describe(doubled, toward, 1).unembedded[0][1] == pytest.approx(
        2.0 * describe(lm, toward, 1).unembedded[0][1]
    )


def test_layers_are_contrasted_by_the_divergence_of_both_signs(make_lm: Any) -> None:
    lm, prompts = make_lm(), ["ab", "xyz"]
    direction = Direction({0: 3.0 * draw(1, 32), 1: 0.5 * draw(2, 32)})
    found = contrast_layers(lm, direction, prompts, strength=0.5)
    for layer in (0, 1):
        wanted = 0.0
        for prompt in prompts:
            p, q = (
                lm.edited(Add(direction, layer=layer, strength=s))
                .open([lm.begin(prompt)], 1)
                .start()[0]
                .double()
                .softmax(0)
                for s in (0.5, -0.5)
            )
            m = (p + q) / 2
            wanted += float((p * (p / m).log() + q * (q / m).log()).sum()) / 4
        assert found[layer] == pytest.approx(wanted, abs=1e-5) and 0.0 < found[layer] < 0.6932
    assert choose_layer(lm, direction, prompts, strength=0.5) == max(found, key=found.__getitem__)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda lm: decompose(draw(1, 16), plant()), "autoencoder"),
        (lambda lm: decompose(Direction({0: draw(1, 32), 1: draw(2, 32)}), plant()), "several layers"),
        (lambda lm: decompose(torch.zeros(32), plant()), "give one vector"),
        (lambda lm: decompose(draw(1, 32), plant(), terms=0), "terms is 0"),
        (lambda lm: match_features(plant(), plant(width=16), 32), "autoencoder"),
        (lambda lm: target_features(lm, plant(width=16), ["ab"], 0), "autoencoder"),
        (lambda lm: target_features(lm, plant(), ["ab"], 1, read_at=0), "before"),
        (lambda lm: target_features(lm, plant(threshold=1e9), ["ab"], 1, vectors=2).aim(0), "no vector moves"),
        (lambda lm: Effects(draw(1, 32, 12), 0).aim(12), "features 0..11"),
        (lambda lm: describe(lm, draw(1, 32)), "say which with layer="),
        (lambda lm: describe(lm, Direction({0: draw(1, 32), 1: draw(2, 32)})), "several layers"),
        (lambda lm: describe(lm, draw(1, 16), 0), "another model"),
        (lambda lm: describe(lm, draw(1, 2, 32), 0), "only one vector"),
        (lambda lm: contrast_layers(lm, Direction({0: draw(1, 32)}), ["a"], strength=0.0), "strength is 0"),
        (lambda lm: contrast_layers(lm, Direction({0: draw(1, 32)}), []), "prompts is empty"),
        (lambda lm: contrast_layers(lm, Direction({9: draw(1, 32)}), ["a"]), "layers 0..1"),
    ],
)  # fmt: skip
def test_each_mistake_has_one_error(make_lm: Any, make: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make(make_lm())
