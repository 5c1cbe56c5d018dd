"""Pictures: what is drawn where, for every kind of sample."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest

import feynkac as fk
from feynkac import ArgumentError, FeynkacError, History, Result, Timing
from feynkac.results.pictures.lineage import branches, forest
from feynkac.results.pictures.particles import kind_of

figure = pytest.importorskip("matplotlib.figure", reason="pip install 'feynkac[plot]'")


def lineages(n: int, steps: int, seed: int) -> list[list[int]]:
    """Parents as the engine gives them: survivors keep their slot; every third step resamples."""
    rng, rows = np.random.default_rng(seed), [list(range(n))]
    for t in range(1, steps):
        drawn = np.sort(rng.integers(n, size=n)) if t % 3 == 0 else np.arange(n)
        alive = set(drawn.tolist())
        spare = iter([i for i in drawn.tolist() if i not in alive or alive.discard(i)])
        rows.append([i if i in set(drawn.tolist()) else next(spare) for i in range(n)])
    return rows


def result(samples: list, *, steps: int = 10, dead: tuple[int, ...] = (), **changes) -> Result:
    n, rng = len(samples), np.random.default_rng(1)
    log_weights = rng.normal(size=n)
    log_weights[list(dead)] = -np.inf
    levels = rng.normal(size=(steps, n)).round(6)
    levels[-1, list(dead)] = -np.inf
    log_z = float(np.logaddexp.reduce(log_weights)) if len(dead) < n else -math.inf
    history = History(
        [float(n)] * steps, [0.0] * (steps - 1) + [log_z], [n] * steps, list(range(3, steps, 3)),
        lineages(n, steps, 0), levels.tolist(),
    )  # fmt: skip
    values = {"log_weights": log_weights, "log_evidence": log_z, "log_evidence_se": 0.1, "history": history}
    return Result(samples=samples, timing=Timing(1.0, 0.5, 0.5), **{**values, **changes})


def shown(drawn) -> str:
    """Every word in a figure."""
    return " ".join(text.get_text() for text in drawn.findobj(match=lambda artist: hasattr(artist, "get_text")))


# --- the family tree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_lines_of_the_tree_never_cross(seed: int) -> None:
    tree = forest(lineages(16, 12, seed), np.full(16, 1 / 16))
    for t in range(1, len(tree.rows)):
        assert sorted(tree.places[t]) == list(range(16))
        from_top = np.argsort(tree.places[t])
        assert (np.diff(tree.places[t - 1][tree.rows[t]][from_top]) >= 0).all()


def test_a_line_is_as_heavy_as_its_descendants() -> None:
    rows = [[0, 1, 2], [0, 0, 2], [0, 1, 1]]  # 0 -> {0, 1}; then 1 -> {1, 2}
    tree = forest(rows, np.array([0.2, 0.8, 0.0]))
    np.testing.assert_allclose(tree.mass, [[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.2, 0.8, 0.0]])
    np.testing.assert_array_equal(tree.lives, [[1, 0, 0], [1, 1, 0], [1, 1, 0]])
    assert tree.path(1).tolist() == [0, 1, 1] and tree.path(2).tolist() == [0, 1, 2]
    lines, mass, kind = branches(tree, 1)
    assert kind.tolist() == [2, 0, 0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_allclose(lines[4], [[0, 0], [1, 0.5], [1, 0.5]])  # slot 1 of step 1, from slot 0 at the top
    assert mass[4] == pytest.approx(0.8)


def test_a_run_without_resampling_is_one_line_a_particle() -> None:
    assert len(branches(forest([[0, 1, 2]] * 50, np.full(3, 1 / 3)), None).lines) == 3


# --- the particles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (5, 3, 4, 4)])
def test_images_stand_by_weight_and_the_dead_are_grey(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    samples = [torch.full(shape, i / 10) for i in range(9)]
    drawn = result(samples, dead=(3, 4)).plot()
    images = drawn.axes[0].images
    weights = result(samples, dead=(3, 4)).weights
    order = [round(float(image.get_array().mean()) * 10) for image in images]
    assert order[:7] == np.argsort(-weights)[:7].tolist() and set(order[7:]) == {3, 4}
    assert [image.get_alpha() for image in images] == [1.0] * 7 + [0.25] * 2
    assert "dead" in shown(drawn) and "9 particles" in shown(drawn)


def test_only_so_many_images_as_asked_for() -> None:
    drawn = result([np.full((1, 2, 2), 0.5)] * 30).plot(most=10)
    assert len(drawn.axes[0].images) == 10 and "10 of 30 particles" in shown(drawn)


def test_what_was_given_stands_first() -> None:
    drawn = result([np.full((1, 2, 2), 0.5)] * 3).plot(reference=np.full((1, 2, 2), 0.25))
    assert [float(image.get_array().mean()) for image in drawn.axes[0].images] == [0.25, 0.5, 0.5, 0.5]
    assert "given" in shown(drawn) and "3 particles" in shown(drawn)


def test_texts_show_their_posterior() -> None:
    drawn = result(["costs $5 or $6", "天気 is fine", "", "costs $5 or $6"]).plot()
    words = shown(drawn)
    assert "costs $5 or $6" in words and "□□ is fine" in words and "(empty)" in words
    posterior = result(["costs $5 or $6", "天気 is fine", "", "costs $5 or $6"]).posterior()
    assert f"{100 * posterior['costs $5 or $6']:.0f} %" in words


def test_molecules_are_drawn_where_one_says_so() -> None:
    pytest.importorskip("rdkit")
    drawn = result(["CCO", "no molecule", "c1ccccc1O", "CCO"]).plot(kind="molecules")
    assert len(drawn.axes[0].images) == 2 and "2 of 3 molecules" in shown(drawn)
    with pytest.raises(ArgumentError, match="SMILES"):
        result(["no molecule"] * 2).plot(kind="molecules")


@pytest.mark.parametrize("sample", [np.zeros(2), 1.5, np.float64(2.0), True, ("a", 1), None])
def test_any_sample_can_be_drawn(sample) -> None:
    drawn = result([sample] * 4).plot()
    assert len(drawn.axes) == 5
    drawn.savefig("/dev/null", format="png")


# --- the run --------------------------------------------------------------------------------------------------------


def test_panels_and_their_units() -> None:
    drawn = result(["a", "b", "c", "d"]).plot()
    words = shown(drawn)
    for part in (
        "Family tree",
        "Level",
        "nats",
        "Particles",
        "Log evidence",
        "at least -1.32",
        "step",
        "resampled next",
    ):
        assert part in words
    flat = result(["a", "b"])
    without = replace(flat, history=replace(flat.history, levels=[[0.0, 0.0]] * 10))
    assert "Level" not in shown(without.plot())


def test_a_dead_run_and_a_single_particle_can_be_drawn() -> None:
    result(["a", "b"], dead=(0, 1)).plot().savefig("/dev/null", format="png")
    assert "all dead" in shown(result([np.zeros((1, 2, 2))] * 2, dead=(0, 1)).plot())
    result(["a"], steps=1).plot().savefig("/dev/null", format="png")


def test_of_particle_gibbs_the_last_sweep_is_drawn() -> None:
    one = result(["a", "b", "c"], steps=4)
    twice = {f: getattr(one.history, f) * 2 for f in ("ess", "log_evidence", "unique_ancestors", "rows", "levels")}
    history = History(**twice, resampled=[3, 7], sweeps=[0, 4])
    drawn = result(["a", "b", "c"] * 2, history=history, log_weights=np.tile(one.log_weights, 2)).plot()
    assert "last sweep" in shown(drawn) and "Log evidence" not in shown(drawn)
    assert drawn.axes[-1].get_xlim()[1] < 4


def test_a_figure_shows_itself_in_a_notebook_and_can_be_pickled() -> None:
    drawn = result(["a", "b"]).plot()
    assert isinstance(drawn, figure.Figure) and drawn._repr_png_().startswith(b"\x89PNG")
    pickle.loads(pickle.dumps(drawn))


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ([1, 2.5, np.float32(3), np.array([4.0]), np.int8(5)], "numbers"),
        ([1, "none", 2.0], "texts"),
        ([1.0, math.inf], "texts"),
        ([np.zeros(2), np.zeros(3)], "texts"),
        ([np.array(["a", "b"])] * 2, "texts"),
        ([np.array([1j]), np.array([2j])], "texts"),
        ([np.datetime64("2024-01-01")] * 2, "texts"),
        ([np.zeros((1, 4, 4)), "none"], "texts"),
        ([np.full((3, 4, 4), 200.0)] * 2, "images"),
    ],
)
def test_samples_of_every_kind_and_of_several_are_drawn(samples: list, kind: str, tmp_path) -> None:
    assert kind_of(samples) == kind
    with np.errstate(all="raise"):
        result(samples).plot()
        result(samples).to_html(tmp_path / "page.html")


def test_what_cannot_be_drawn(monkeypatch) -> None:
    with pytest.raises(ArgumentError, match="kind='pie'"):
        result(["a"]).plot(kind="pie")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="most=0"):
        result(["a"]).plot(most=0)
    for kind in ("images", "points", "numbers"):
        with pytest.raises(ArgumentError, match=f"cannot be drawn as {kind}"):
            result(["a", "b"]).plot(kind=kind)
    with pytest.raises(ArgumentError, match="for images"):
        result(["a", "b"]).plot(reference=np.zeros((1, 2, 2)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FeynkacError, match=r"pip install 'feynkac\[plot\]'"):
        result(["a"]).plot()


def test_levels_are_those_of_the_run(tiny_lm) -> None:
    seen = []
    task = tiny_lm("a", "b").prompt("ab", max_tokens=5)
    potentials = fk.reward(lambda text: 0.3 * text.count("a")), fk.constraint(lambda text: "bb" not in text, "token")
    found = fk.steer(task, *potentials, particles=8, seed=0, observers=[seen.append], on_death="return")
    assert len(found.history.levels) == len(seen)
    for levels, step in zip(found.history.levels, seen, strict=True):
        alive = step.log_weight > -np.inf
        np.testing.assert_allclose(np.array(levels)[alive], step.level[alive], atol=1e-6)
        assert (np.array(levels)[~alive] == -np.inf).all()
    assert np.isneginf(found.history.levels).any(), "nobody died: the test is blind"


def test_levels_survive_a_file(tmp_path) -> None:
    before = result(["a", "b", "c"], dead=(1,))
    before.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json").history == before.history
