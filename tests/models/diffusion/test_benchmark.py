"""The benchmark of steered diffusion: it runs, its baselines are what their description says, its truths are truths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")


def test_the_mixture_is_compared(capsys, monkeypatch):
    from steered import mixture

    monkeypatch.setattr(mixture, "SIZES", (16,))
    rows = {row["method"]: row for row in mixture.compare(256)}
    assert "published FK, max, floor 0" in capsys.readouterr().out
    assert all(0.0 <= value <= 1.0 for row in rows.values() for key, value in row.items() if key.startswith("TV"))
    assert rows["feynkac, reward"]["TV N=16"] < rows["published FK, difference, adaptive"]["TV N=16"]


def test_the_quadrature_of_the_chain_tends_to_the_tilted_mixture():
    from steered import mixture

    x, mass = mixture.chain()
    nats = mixture.reward(torch.as_tensor(x)[:, None]).numpy()
    log_z, tilted = mixture.PRIOR.tilt([1.0], 1.0)
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    assert np.log(mass @ np.exp(nats)) == pytest.approx(log_z, abs=0.05)
    right = (mass * np.exp(nats))[x > 0.5].sum() / (mass @ np.exp(nats))
    assert right == pytest.approx(float(tilted.weights[1]), abs=0.02)


def ancestors(logic, *rewards):
    rng, rows = np.random.default_rng(0), []
    for r in rewards:
        rows.append(logic(np.array([r]), False, rng)[0])
    return rows


def test_published_weights_are_forgotten_where_nothing_is_resampled():
    from steered.published import Published

    logic = Published(adaptive=True)
    kept, again = ancestors(logic, [0.0, 0.5, 0.0, 0.5], [0.0, 0.5, 0.0, 0.5])
    assert kept.tolist() == again.tolist() == [0, 1, 2, 3]
    assert logic.past.tolist() == [[0.0, 0.5, 0.0, 0.5]]  # two such steps together would count e^1 for rows 1 and 3


def test_published_max_sees_no_difference_below_its_floor():
    from steered.published import Published

    weight = Published("max")
    ancestors(weight, [-9.0, -1.0, -5.0, -2.0])
    assert (weight.past == 0.0).all() and (weight.so_far == 1.0).all()


def test_published_last_weight_of_sum_is_that_of_all_rewards():
    from steered.published import Published

    logic = Published("sum")
    ancestors(logic, [0.0, 0.0], [1.0, 1.0])
    r, weight = logic._weighed(np.array([[2.0, 3.0]]), True)
    assert r.tolist() == [[3.0, 4.0]]
    assert weight[0] == pytest.approx(np.exp([3.0 - 1.0, 4.0 - 1.0]))  # and not exp(2), exp(3) over the product


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_memory_and_gradients_are_measured(capsys):
    from steered import gradients
    from steered.costs import measure_memory

    threads = torch.get_num_threads()
    measure_memory(4, 2)
    torch.set_num_threads(threads)
    assert len(capsys.readouterr().out.split()) == 3
    assert set(gradients.compare(16, 8, 1, 1)) >= {"gradient of x0hat, RMSE, nats"}


def test_semantic_guidance_is_compared(capsys, monkeypatch):
    pytest.importorskip("diffusers")
    from steered import concepts

    monkeypatch.setattr(concepts, "SIZES", (12,))
    rows = {row["method"]: row for row in concepts.compare(96)}
    assert "a red cross" in capsys.readouterr().out
    assert all(0.0 <= row[f"{key} N=12"] <= 1.0 for row in rows.values() for key in ("accuracy", "TV"))
    edited, plain = (rows[name]["accuracy N=12"] for name in ("SEGA, scale 1, threshold 0", "the model itself"))
    assert edited > plain and rows["exact draws"]["mean Z / Z0 N=12"] is None


def test_compositions_are_compared(capsys):
    pytest.importorskip("diffusers")
    from steered import composing

    rows = {row["method"]: row for row in composing.compare(1, 2)}
    assert "1 compositions" in capsys.readouterr().out
    assert rows["pasted"]["shape, from 3"] == 0.0 < rows["pasted"]["background, from 3"]
    assert all(np.isfinite(value) for row in rows.values() for key, value in row.items() if key != "method")


def test_what_is_asked_of_shapes_is_found_in_them():
    pytest.importorskip("diffusers")
    from steered import concepts
    from train import shapes

    images, words, ground, mask = shapes.draw(200, torch.Generator().manual_seed(3))
    shape, colour = concepts.classify(images)
    assert torch.equal(shape.argmax(1) + 1, words[:, 0]) and torch.equal(colour.argmax(1) + 1, words[:, 1])
    assert torch.equal(images[mask.expand_as(images) == 0], ground[mask.expand_as(images) == 0])


def test_a_diagonal_mixture_is_the_dense_one():
    from feynkac.models import diffusion as fd

    source = torch.Generator().manual_seed(0)
    means, variances, x = (torch.rand(n, 4, generator=source, dtype=torch.float64) + 0.1 for n in (3, 3, 7))
    plain, dense = (fd.GaussianMixture([1, 2, 3], means, cov) for cov in (variances, torch.diag_embed(variances)))
    for level in (fd.NoiseLevel(0.6, 0.8), fd.NoiseLevel(1.0, 0.0)):
        assert torch.allclose(plain.x0hat(x, level), dense.x0hat(x, level), atol=1e-12)
        assert torch.allclose(plain.log_prob(x, level), dense.log_prob(x, level), atol=1e-12)
    drawn = plain.sample(50_000, source)
    expected = (plain.weights @ means, plain.weights @ (variances + means**2))
    for found, true in zip((drawn.mean(0), (drawn**2).mean(0)), expected, strict=True):
        assert torch.allclose(found, true, atol=0.05)


def test_the_digits_flow_has_the_law_of_the_pipeline():
    """With the same noise a latent of the flow is that of the pipeline, over alpha + sigma, at every level."""
    pytest.importorskip("diffusers")
    pytest.importorskip("sklearn")
    from steered.flowchef import Flow

    from feynkac.models.diffusion.schedulers import prediction_of, schedule_of

    flow, noise = Flow(), torch.randn(9, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    own, straight = schedule_of(flow.scheduler, eta=1.0), flow.schedule(1.0)
    x, y = own.start * noise[-1], straight.start * noise[-1]
    with torch.no_grad():
        for z, step, other in zip(noise, own.transitions, straight.transitions, strict=False):
            said = prediction_of(flow.scheduler, flow.unet(x, step.before.time).sample, x, step.before)
            x = step.mean(said.x0hat, said.epshat) + step.std * z
            said = flow.predict(y, other.before)
            y = other.mean(said.x0hat, said.epshat) + other.std * z
            assert torch.allclose(y * (step.after.alpha + step.after.sigma), x, atol=1e-4)


def test_replaced_pixels_are_what_was_seen():
    pytest.importorskip("diffusers")
    pytest.importorskip("sklearn")
    from steered.flowchef import Flow
    from steered.tractable import replaced
    from train import digits_truth as truth

    x = replaced(Flow(), 1e-4, 2)
    assert torch.allclose(x[:, truth.left_half()], (2 * truth.seen() - 1).expand(2, -1), atol=1e-2)


def test_depths_are_compared_with_their_exact_posterior(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    from steered import depth

    monkeypatch.setattr(depth, "POINTS", (5,))
    rows = {row["method"]: row for row in depth.compare(4, 1, 2, 300)}
    assert "depth, 2 scenes" in capsys.readouterr().out
    assert rows["exact posterior mean"]["5 points"] < rows["the model without points"]["5 points"]
    assert rows["SMC, Guided"]["log Z, 5"] >= 0.0 and rows["Guided without weights"].get("log Z, 5") is None


def test_inversions_are_compared(capsys, monkeypatch):
    pytest.importorskip("sklearn")
    from steered import inversion

    train = inversion.trained
    monkeypatch.setattr(inversion, "trained", lambda data: train(data, 30))
    monkeypatch.setattr(inversion, "MANY", 2000)
    monkeypatch.setattr(inversion, "STEPS", 4)
    rows = {row["method"]: row for row in inversion.compare(8, 2, 1)}
    assert "1 digits seen by half" in capsys.readouterr().out
    assert rows["Adam, the best start"]["spread / true"] == 0.0 < rows["importance sampling"]["spread / true"]


# --- mazes and molecules ---------------------------------------------------------------------------------------------


def test_paths_of_the_data_keep_to_the_corridors_and_what_cuts_through_a_block_collides():
    from mazes.world import CENTRE, GOAL, POINTS, WOBBLE, collide, draw_days, draw_paths, normalise, reach, to_cells

    rng = np.random.default_rng(0)
    anywhere, middle, days = draw_paths(200, rng), draw_paths(50, rng, (2, 2)), draw_days(100, 4, rng)
    assert anywhere.shape == (200, POINTS, 2) and middle.shape == (50, POINTS, 2)
    for paths in (anywhere, middle, days.reshape(-1, POINTS, 2)):
        assert not collide(torch.as_tensor(paths)).any()
    assert np.allclose(middle[:, 0], CENTRE)
    gap = days[:, 1:, 0] - days[:, :-1, -1]  # a random walk of 15 steps of WOBBLE in each coordinate
    assert abs(np.mean(gap**2) / (15 * WOBBLE**2) - 1.0) < 3.0 * np.sqrt(2.0 / gap.size)
    line = torch.linspace(0.0, 1.0, POINTS)[:, None]
    straight = torch.stack([0.5 + 4.0 * line * torch.tensor([1.0, 1.0]), 0.5 + 4.0 * line * torch.tensor([1.0, 0.0])])
    assert collide(straight).tolist() == [True, False]
    assert collide(straight[1:] - 1.0).tolist() == [True]  # outside
    assert reach(straight).tolist() == [False, False] and reach(straight[1:] * 0.0 + torch.tensor(GOAL)).all()
    assert torch.allclose(to_cells(normalise(straight)), straight, atol=1e-6)


def test_the_published_guidance_pushes_the_noise_along_the_gradient_of_the_mean_distance():
    from mazes.networks import SHAPE, From, load
    from mazes.world import CENTRE, normalise
    from steered.policies import Pulled, sketches

    from feynkac.models import diffusion as fd

    policy, level = From(load()[0], CENTRE), fd.NoiseLevel(0.8, 0.6, 100.0)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sketch = sketches()[0]
    distance = torch.linalg.vector_norm(x - normalise(sketch), dim=2).mean(1).sum()
    (gradient,) = torch.autograd.grad(distance, x)
    eps = (x - 0.8 * policy.x0hat(x, level)) / 0.6 + 2.0 * gradient
    expected = ((x - 0.6 * eps) / 0.8).clamp(-1.0, 1.0)
    assert torch.allclose(Pulled(policy, sketch, 2.0).x0hat(x, level), expected, atol=1e-5)


def test_the_samplers_of_policies_are_compared(capsys, monkeypatch):
    from steered import policies

    monkeypatch.setattr(policies, "SIZES", (16,))
    rows = {row["method"]: row for row in policies.compare(64, 2048, 1)}
    assert "stochastic sampling" in capsys.readouterr().out
    assert all(0.0 <= row["TV N=16"] <= 1.0 and 0.0 <= row["collide N=16"] <= 1.0 for row in rows.values())
    assert rows["feynkac, Guided"]["distance N=16"] < rows["random sampling"]["distance N=16"]
    assert rows["feynkac, Guided"]["TV N=16"] < rows["random sampling"]["TV N=16"]


def test_choices_by_a_value_are_compared(capsys, monkeypatch):
    from steered import values

    monkeypatch.setattr(values, "SIZES", (8,))
    rows = values.compare(64, 2048, 6)
    assert "V-GPS, best of n, ODE policy" in capsys.readouterr().out
    found = {row["one decision"]: row for row in rows if "one decision" in row}
    assert found["V-GPS, best of n, n=8"]["value"] > found["policy alone, n=8"]["value"]
    assert all(0.0 <= row["success"] + row["crash"] <= 1.0 for row in rows if "episodes" in row)


def test_conformers_are_compared(capsys, monkeypatch):
    from steered import conformers

    monkeypatch.setattr(conformers, "SIZES", (16,))
    rows = {row["method"]: row for row in conformers.compare(128, 4000)}
    assert "published Boltz" in capsys.readouterr().out
    assert rows["feynkac, Guided"]["TV N=16"] < rows["best of N"]["TV N=16"]
    x = conformers.PRIOR.means
    contact = torch.cdist(conformers.atoms_of(x), conformers.atoms_of(x))[:, 4, 5]
    assert contact.min() < 0.9 * 2 < 2.6 < contact.max()  # some clash, some do not touch
