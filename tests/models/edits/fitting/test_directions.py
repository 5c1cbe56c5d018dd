"""Directions, probes and affine maps: planted truths found, closed forms, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Activations, Add, Direction, capture, fit_affine, fit_direction, fit_probe
from feynkac.models.edits.fitting.logistic import fit_logistic

WIDTH = 24


def draw(seed: int, n: int, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


PLANTED = torch.nn.functional.normalize(draw(0, 1)[0], dim=0)


def plant(size: float, n: int = 400, noise: float = 0.3) -> tuple[Activations, Activations]:
    """Pairs that share what is theirs, and differ along the planted direction and by noise."""
    shared = draw(1, n)
    high, low = shared + size * PLANTED + noise * draw(2, n), shared + noise * draw(3, n)
    return Activations({3: high, 5: 2.0 * high}), Activations({3: low, 5: 2.0 * low})


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=0))


@pytest.mark.parametrize("method", ["difference", "pca", "logistic"])
def test_a_planted_direction_is_recovered(method: Any) -> None:
    toward, away = plant(4.0)
    if method == "logistic":  # the normal that tells best is the planted one only where the noise is round
        toward, away = Activations({3: draw(2, 4000) + 1.0 * PLANTED}), Activations({3: draw(3, 4000)})
    found = fit_direction(toward, away, method=method)
    assert cosine(found[3], PLANTED) > 0.99
    assert found.separation[3] > (0.7 if method == "logistic" else 0.95) and found.method == method


def test_entropy_weights_recover_what_goes_with_entropy() -> None:
    entropy = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    values = 0.2 * draw(2, 4000) + 5.0 * entropy[:, None] * PLANTED
    found = fit_direction(Activations({3: values}, entropy), method="entropy")
    assert cosine(found[3], PLANTED) > 0.99 and found.separation[3] > 0.9
    given = fit_direction(Activations({3: values}), method="entropy", weights=entropy.tolist())
    assert torch.equal(given[3], found[3])
    wanted = (entropy.double() / entropy.double().sum()) @ values.double() - values.double().mean(0)
    torch.testing.assert_close(found[3].double(), wanted, atol=1e-6, rtol=1e-5)


def test_weights_of_nought_and_one_are_weights_still() -> None:
    values, weights = draw(1, 4), [0.0, 1.0, 0.0, 1.0]
    found = fit_direction(Activations({0: values}), method="entropy", weights=weights)
    torch.testing.assert_close(found[0], values[1::2].mean(0) - values.mean(0))


def test_centring_takes_off_what_all_texts_have() -> None:
    offset = 50.0 * draw(9, 1)[0]
    style, all_texts = draw(1, 2000) + offset + 2.0 * PLANTED, draw(2, 4000) + offset
    toward, centre = Activations({0: style}), Activations({0: all_texts})
    assert cosine(style.mean(0), PLANTED) < 0.5  # what would be added without
    assert cosine(fit_direction(toward, centre=centre)[0], PLANTED) > 0.99
    spread = Activations({0: style + 3.0 * draw(5, 2000)[:, :1].abs() * PLANTED})
    assert cosine(fit_direction(spread, centre=centre, method="pca")[0], PLANTED) > 0.99


def test_a_direction_is_as_long_as_the_means_differ_along_it() -> None:
    toward, away = plant(4.0, n=40)
    gap = toward.at[3].mean(0) - away.at[3].mean(0)
    torch.testing.assert_close(fit_direction(toward, away)[3], gap)
    for method in ("pca", "logistic"):
        v = fit_direction(toward, away, method=method)[3]
        torch.testing.assert_close(v @ v, v @ gap, atol=1e-4, rtol=1e-4)


def test_a_direction_is_never_changed() -> None:
    given = {0: PLANTED.clone()}
    direction = Direction(given)
    given[0].zero_()
    direction[0].zero_()
    assert torch.equal(direction[0], PLANTED) and direction == direction and direction != Direction({0: PLANTED})


def test_several_groups_are_pooled() -> None:
    one, two, three = (Activations({0: draw(i, 4 + i)}) for i in range(3))
    found = fit_direction(one, [two, three])[0]
    torch.testing.assert_close(found, one.at[0].mean(0) - torch.cat([two.at[0], three.at[0]]).mean(0))


def test_several_positions_give_a_vector_each() -> None:
    toward, away = Activations({0: draw(1, 3).reshape(1, 3, WIDTH)}), Activations({0: draw(2, 3).reshape(1, 3, WIDTH)})
    found = fit_direction(toward, away)
    torch.testing.assert_close(found[0], draw(1, 3) - draw(2, 3))
    assert not found.separation
    with pytest.raises(ArgumentError, match="no separation was measured"):
        _ = found.best_layer


def test_separation_is_the_share_of_held_out_pairs_in_order() -> None:
    high, low = draw(1, 7) + 0.4 * PLANTED, draw(2, 11)
    found = fit_direction(Activations({0: high}), Activations({0: low})).separation[0]
    right = pairs = 0
    for fold in range(5):
        kept = [torch.tensor([i for i in range(len(some)) if i % 5 != fold]) for some in (high, low)]
        v = high[kept[0]].mean(0) - low[kept[1]].mean(0)
        for i in range(fold, 7, 5):
            for j in range(fold, 11, 5):
                right, pairs = right + float(high[i] @ v > low[j] @ v), pairs + 1
    assert found == pytest.approx(right / pairs, abs=1e-12) and 0.0 < found < 1.0


def test_pairs_of_texts_make_a_direction_in_one_line(make_lm: Any) -> None:
    lm = make_lm()
    pairs = [("ab", "xy"), ("bc", "yz"), ("cd", "zx")]
    found = Direction.from_pairs(lm, pairs, layers=[0, 1])
    toward, away = (capture(lm, [pair[i] for pair in pairs]) for i in (0, 1))
    torch.testing.assert_close(found[1], toward.at[1].mean(0) - away.at[1].mean(0), atol=1e-5, rtol=1e-5)
    assert found.best_layer in (0, 1) and list(found.at(1)) == [1]
    assert len(lm.edited(Add(found)).edits) == 1


def test_logistic_regression_finds_the_minimum() -> None:
    values, labels = draw(1, 30).double(), (draw(2, 30)[:, 0] > 0).double()
    weight, offset = fit_logistic(values, labels, 0.1)
    scale = (values - values.mean(0)).square().sum(1).mean()
    residual = (values @ weight + offset).sigmoid() - labels
    assert abs(float(residual.mean())) < 1e-8
    # d/dw of the penalty in units of the root mean square length: 0.1 * |scale w|^2 / 2
    torch.testing.assert_close(
        values.T @ residual / 30 + 0.1 * scale * weight, torch.zeros(WIDTH).double(), atol=1e-8, rtol=0
    )
    fewer, some = fit_logistic(values[:10], torch.tensor([0.0, 1.0]).repeat(5).double(), 0.1)
    assert fewer.isfinite().all() and some.isfinite()  # more numbers than texts


def test_a_probe_says_where_an_edit_acts(make_lm: Any) -> None:
    toward, away = plant(4.0)
    probe = fit_probe(toward, away, 3)
    assert float(probe(toward.at[3]).float().mean()) > 0.95 > 0.05 > float(probe(away.at[3]).float().mean())
    lm = make_lm()
    acts = [capture(lm, texts, 1) for texts in (["ab", "bc", "cd"], ["xy", "yz", "zw"])]
    probe, v = fit_probe(*acts, ridge=1e-4), 5.0 * draw(1, 1, 32)[0]
    edited = lm.edited(Add(v, layer=1, when=probe))
    assert torch.equal(capture(edited, ["xy"], 1).at[1], capture(lm, ["xy"], 1).at[1])
    torch.testing.assert_close(
        capture(edited, ["ab"], 1).at[1] - capture(lm, ["ab"], 1).at[1], v[None], atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ArgumentError, match="a probe of 32 numbers"):
        probe(torch.zeros(3))


@pytest.mark.parametrize("shrink", [0.0, 0.2])
def test_an_affine_map_matches_means_and_covariances(shrink: float) -> None:
    mix = draw(4, WIDTH)
    toward, away = Activations({0: draw(1, 200) @ mix + 3.0}), Activations({0: draw(2, 300) * 0.7 - 1.0})
    found = fit_affine(toward, away, covariance=True, shrink=shrink, scope="all")
    matrix, source, target = found.matrix.double(), *(some.at[0].double() for some in (away, toward))

    def covariance(values: torch.Tensor) -> torch.Tensor:
        own = torch.from_numpy(np.cov(values.numpy().T, bias=True))
        return (1 - shrink) * own + shrink * own.trace() / WIDTH * torch.eye(WIDTH).double()

    mapped = source @ matrix.T + found.offset.double()
    torch.testing.assert_close(mapped.mean(0), target.mean(0), atol=1e-5, rtol=1e-5)
    wanted = covariance(target)
    assert float((matrix @ covariance(source) @ matrix.T - wanted).norm() / wanted.norm()) < 1e-5
    if not shrink:
        assert float((torch.cov(mapped.T, correction=0) - wanted).norm() / wanted.norm()) < 1e-5
    # Symmetric and positive: of all maps with these moments the one that moves least (Brenier).
    assert float((matrix - matrix.T).norm()) < 1e-4 and float(torch.linalg.eigvalsh(matrix).min()) > 0
    assert found.scope == "all" and found.layer == 0


def test_an_affine_map_of_means_alone_is_a_translation(make_lm: Any) -> None:
    toward, away = plant(2.0, n=5)
    found = fit_affine(toward, away, 5)
    assert torch.equal(found.matrix, torch.eye(WIDTH))
    torch.testing.assert_close(found.offset, toward.at[5].mean(0) - away.at[5].mean(0))
    lm = make_lm()
    acts = [capture(lm, texts, 1) for texts in (["ab", "bc"], ["xy", "yz"])]
    edited = lm.edited(fit_affine(*acts))
    moved = capture(edited, ["xy", "yz"], 1).at[1].mean(0)
    torch.testing.assert_close(moved, acts[0].at[1].mean(0), atol=1e-4, rtol=1e-4)


SOME, OTHER = Activations({0: draw(1, 5), 1: draw(2, 5)}), Activations({0: draw(3, 5), 1: draw(4, 5)})
SHORT, NARROW = Activations({0: draw(3, 4), 1: draw(4, 4)}), Activations({0: draw(3, 5, 8), 1: draw(4, 5, 8)})
ONE = Activations({0: draw(3, 1), 1: draw(4, 1)})


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ((SOME,), {}, "compares two groups"),
        ((SOME, OTHER), {"method": "mean"}, "method is 'mean'"),
        ((SOME, OTHER), {"centre": OTHER}, "not both"),
        ((SOME, OTHER), {"method": "entropy"}, "one group"),
        ((SOME,), {"method": "entropy"}, "needs weights"),
        ((SOME,), {"method": "entropy", "weights": [1.0]}, "1 numbers for 5 texts"),
        ((SOME,), {"method": "entropy", "weights": [-1.0, 1, 1, 1, 1]}, "none negative"),
        ((SOME,), {"method": "entropy", "weights": [2.0] * 5}, "all weights are alike"),
        ((SOME, OTHER), {"weights": [1.0] * 5}, "takes none"),
        ((SOME, SHORT), {"method": "pca"}, "5 texts toward and 4 away"),
        ((SOME, NARROW), {}, "24,.* and .*8,"),
        ((SOME, Activations({0: draw(3, 5)})), {}, "different places"),
        ((SOME, Activations(OTHER.at, of="mlp")), {}, "different places"),
        ((ONE, OTHER), {}, "too few texts: 1"),
        ((SOME, SOME), {}, "the difference is 0 at layer 0: both sides are the same"),
        ((SOME, SOME), {"method": "pca"}, "the difference is 0 at layer 0"),
        ((SOME, SOME), {"method": "logistic"}, "the difference is 0 at layer 0"),
        ((SOME, torch.zeros(5, WIDTH)), {}, r"what capture\(lm, texts\) returns"),
        ((SOME, []), {}, r"what capture\(lm, texts\) returns"),
    ],
)
def test_what_cannot_be_fitted_is_said(given: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        fit_direction(*given, **options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Direction({}), "at least one layer"),
        (lambda: Direction({-1: PLANTED}), "layer -1"),
        (lambda: Direction({0: torch.full((3,), torch.nan)}), "layer 0"),
        (lambda: Direction({0: PLANTED}).at(1), "no vector"),
        (lambda: Direction.from_pairs(None, ["ab"]), "pairs are given as"),  # type: ignore[arg-type]
        (lambda: fit_probe(SOME, OTHER), "give one of them"),
        (lambda: fit_probe(SOME, OTHER, 7), "layer is 7"),
        (lambda: fit_probe(ONE, OTHER, 0), "too few texts"),
        (lambda: fit_probe(SOME, OTHER, 0, ridge=0.0), "ridge is 0"),
        (lambda: fit_probe(SOME, SOME, 0), "both sides are the same"),
        (lambda: fit_probe(SOME, OTHER, 0, threshold=1.0), "between 0 and 1"),
        (lambda: fit_affine(SOME, OTHER), "give one of them"),
        (lambda: fit_affine(SOME, NARROW, 0), "different places"),
        (lambda: fit_affine(ONE, OTHER, 0), "too few texts"),
        (lambda: fit_affine(SOME, OTHER, 0, covariance=True), "do not determine a covariance of 24"),
        (lambda: fit_affine(SOME, OTHER, 0, shrink=0.1), "shrink is 0.1"),
    ],
)
def test_each_mistake_has_one_error(make: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()
