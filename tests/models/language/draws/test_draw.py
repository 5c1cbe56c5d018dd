"""The fused kernel against float64 numpy, at the edges, and against the device path."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numba import config

from feynkac.base.errors import ModelError
from feynkac.base.masks import pack
from feynkac.models.language.draws import kernels as kernel_module
from feynkac.models.language.draws.kernels import BLOCK, draw, normalise
from feynkac.models.language.draws.next_token import _draw_on_device, draw_tokens, score_tokens, sum_masses
from feynkac.smc.testing import Choices, enumerate_runs


def cases(seed: int, n: int = 5, n_tokens: int = 2 * BLOCK + 37, spread: float = 8.0):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, n_tokens)) * spread).astype(np.float32)
    allowed = rng.random((n, n_tokens)) < 0.3
    scale = rng.uniform(0.5, 2.0, n).astype(np.float32)
    return logits, allowed, scale


def log_sums(logits, allowed, scale):
    scaled = np.float64(logits * scale[:, None])
    masked = np.where(allowed, scaled, -np.inf)
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(scaled, axis=1), np.logaddexp.reduce(masked, axis=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 5, 31, 32, 33, BLOCK - 1, BLOCK, BLOCK + 1, 5000]))
def test_normalisers_equal_float64(seed: int, n_tokens: int) -> None:
    logits, allowed, scale = cases(seed, n_tokens=n_tokens)
    allowed[0] = False
    law = normalise(logits, pack(allowed), scale)
    total, within = log_sums(logits, allowed, scale)
    np.testing.assert_allclose(law.log_total, total, rtol=0, atol=2e-6)
    np.testing.assert_allclose(law.log_allowed, within, rtol=0, atol=2e-6)
    assert law.log_allowed[0] == -np.inf


@pytest.mark.parametrize("gap", [80.0, 88.5, 88.8, 89.0, 200.0, 266.0])
def test_a_forbidden_token_far_above_the_allowed_ones_leaves_their_masses_alone(gap) -> None:
    """Its exponential relative to them is infinite in float32, and must not become part of a sum."""
    logits = np.array([[gap, 0.0, -1.0]], np.float32)
    mask, one = pack(np.array([[False, True, True]])), np.ones(1, np.float32)
    law = normalise(logits, mask, one)
    np.testing.assert_allclose(law.blocks.sum(), 1.0 + np.exp(-1.0), rtol=1e-6)
    np.testing.assert_allclose(law.log_mass, np.log(1.0 + np.exp(-1.0)) - gap, rtol=0, atol=1e-4)
    assert draw(logits, mask, one, law, np.zeros(1, np.int64), np.array([0.9])).tolist() == [2]


def test_a_mask_that_leaves_almost_nothing_keeps_its_exact_mass() -> None:
    """Tokens 300 nats below the best one underflow in float32 unless they are summed relative to their own peak."""
    logits = np.full((1, 3000), -300.0, np.float32)
    logits[0, 0] = 0.0
    logits[0, 2999] = -301.0
    allowed = np.ones((1, 3000), bool)
    allowed[0, 0] = False
    law = normalise(logits, pack(allowed), np.ones(1, np.float32))
    np.testing.assert_allclose(law.log_mass, np.log(2998 * np.exp(-300.0) + np.exp(-301.0)), atol=2e-6)
    tokens = draw(logits, pack(allowed), np.ones(1, np.float32), law, np.zeros(50, int), np.linspace(0, 1, 50, False))
    assert allowed[0, tokens].all() and len(set(tokens)) == 50


@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-53])
def test_extreme_uniforms_choose_tokens_with_mass(u: float) -> None:
    logits, allowed, scale = cases(1)
    logits[:, 10:20] = -np.inf
    allowed[:, 10:20] = True
    mask, context = pack(allowed), np.arange(len(logits))
    law = normalise(logits, mask, scale)
    tokens = draw(logits, mask, scale, law, context, np.full(len(logits), u))
    assert allowed[context, tokens].all() and np.isfinite(logits[context, tokens]).all()


def test_the_draw_inverts_the_law() -> None:
    """At the middle of each token's stretch of the cumulated law the draw gives that token."""
    logits, allowed, scale = cases(2, n=3, spread=1.0)
    mask = pack(allowed)
    law = normalise(logits, mask, scale)
    for c in range(3):
        p = np.where(allowed[c], np.exp(np.float64(logits[c] * scale[c]) - law.log_allowed[c]), 0.0)
        cdf, wanted = np.cumsum(p), np.flatnonzero(allowed[c])
        middle = cdf[wanted] - p[wanted] / 2
        drawn = draw(logits, mask, scale, law, np.full(len(wanted), c), middle)
        np.testing.assert_array_equal(drawn, wanted)


def test_enumeration_gives_the_masked_law() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32))
    mask, one = pack(np.array([[True, False, True, True]])), np.ones(1, np.float32)

    def run(rng: Choices) -> int:
        return int(draw_tokens(torch.from_numpy(logits), mask, one, np.zeros(1, int), rng.uniform(1)).tokens[0])

    law: dict[int, float] = {}
    for p, token in enumerate_runs(run):
        law[token] = law.get(token, 0.0) + p
    assert law == pytest.approx({0: 0.125, 2: 0.375, 3: 0.5}, abs=1e-7)  # as float32 holds the logits


def test_dead_ends_and_pinned_tokens() -> None:
    logits, allowed, scale = cases(3)
    allowed[2] = False
    context = np.arange(len(logits))
    drawn = draw_tokens(torch.from_numpy(logits), pack(allowed), scale, context, np.full(len(logits), 0.5), pinned=7)
    assert drawn.tokens[0] == 7 and drawn.tokens[2] == -1
    assert drawn.log_prob[2] == drawn.log_mass[2] == -np.inf
    total = log_sums(logits, allowed, scale)[0]
    np.testing.assert_allclose(drawn.log_prob[0], logits[0, 7] * scale[0] - total[0], atol=2e-6)


def test_the_device_path_agrees_with_the_kernel() -> None:
    logits, allowed, scale = cases(4, n=40, spread=2.0)
    allowed[3] = False
    rng = np.random.default_rng(0)
    context, uniforms = rng.integers(0, 40, 500), rng.random(500)
    arguments = (torch.from_numpy(logits), pack(allowed), scale, context, uniforms)
    ours, device = draw_tokens(*arguments), _draw_on_device(*arguments, None)
    # A uniform within rounding of a boundary may fall on its other side: 500 draws x 1e-6 x 2000 boundaries.
    assert (ours.tokens == device.tokens).mean() > 0.99
    same = (ours.tokens == device.tokens) & (ours.tokens >= 0)
    np.testing.assert_allclose(ours.log_prob[same], device.log_prob[same], atol=1e-5)
    np.testing.assert_allclose(ours.log_mass, device.log_mass, atol=1e-5)


# --- what no law is


@pytest.fixture(params=["threads", "alone"])
def kernels(request, monkeypatch):
    """The kernels on threads, and as a forked process runs them."""
    monkeypatch.setattr(kernel_module, "FEW", -1)
    if request.param == "alone":
        monkeypatch.setattr(kernel_module, "_owner", -1)


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["first", "last", "all", "allowed", "forbidden"])
@pytest.mark.usefixtures("kernels")
def test_logits_that_are_no_law_draw_nothing_and_index_nothing(bad: float, where: str) -> None:
    logits, allowed, scale = cases(5)
    places = {"first": 0, "last": -1, "all": slice(None), "allowed": allowed[1], "forbidden": ~allowed[1]}
    logits[1, places[where]] = bad
    mask, context = pack(allowed), np.repeat(np.arange(len(logits)), 3)
    uniforms = np.tile([0.0, 0.5, 1.0 - 2.0**-53], len(logits))
    law = normalise(logits, mask, scale)
    tokens = draw(logits, mask, scale, law, context, uniforms)
    lawless = bad != -np.inf or where == "all"  # single tokens may well have no probability
    assert np.isnan(law.log_total).tolist() == [False, lawless, False, False, False]
    assert ((tokens == -1) == (context == 1)).all() if lawless else (tokens[context != 1] >= 0).all()
    assert (tokens < logits.shape[1]).all()
    good = np.arange(len(logits)) != 1
    alone = normalise(logits[good], mask[good], scale[good])
    np.testing.assert_array_equal(law.log_total[good], alone.log_total)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("draws", ["kernel", "device", "enumerated", "score", "score in float64", "masses"])
def test_logits_that_are_no_law_are_a_model_error(bad: float, draws: str) -> None:
    logits, allowed, scale = cases(6)
    logits[3, 17] = bad
    tensor, mask, context = torch.from_numpy(logits), pack(allowed), np.arange(len(logits))
    uniforms = np.full(len(logits), 0.5)
    ways = {
        "kernel": lambda: draw_tokens(tensor, mask, scale, context, uniforms),
        "device": lambda: _draw_on_device(tensor, mask, scale, context, uniforms, None),
        "enumerated": lambda: draw_tokens(tensor, mask, scale, context, uniforms.astype(object)),
        "score": lambda: score_tokens(tensor, scale, context, context, exact=False),
        "score in float64": lambda: score_tokens(tensor, scale, context, context, exact=True),
        "masses": lambda: sum_masses(tensor, mask, scale),
    }
    with pytest.raises(ModelError, match=f"hold {bad} for token 17"):
        ways[draws]()


def test_masks_of_another_vocabulary_are_refused_before_they_are_read() -> None:
    logits, allowed, scale = cases(7)
    for mask in (pack(allowed[:, :100]), pack(allowed[:2])):
        with pytest.raises(ModelError, match="as many logits as its vocabulary has tokens"):
            normalise(logits, mask, scale)
    law = normalise(logits, pack(allowed), scale)
    for context in ([-1], [len(logits)]):
        with pytest.raises(ModelError, match="contexts"):
            draw(logits, pack(allowed), scale, law, np.array(context), np.zeros(1))


@pytest.mark.skipif(
    bool(config.BOUNDSCHECK) or config.NUMBA_NUM_THREADS == 1, reason="there all loops run without threads"
)
def test_the_same_loops_run_without_threads(monkeypatch) -> None:
    logits, allowed, scale = cases(8)
    arguments = (torch.from_numpy(logits), pack(allowed), scale, np.arange(len(logits)), np.full(len(logits), 0.7))
    with monkeypatch.context() as context:
        context.setattr(kernel_module, "FEW", -1)
        context.setattr(kernel_module, "_normalise_alone", None)
        threaded = draw_tokens(*arguments)
    monkeypatch.setattr(kernel_module, "_owner", -1)
    monkeypatch.setattr(kernel_module, "_normalise", None)
    for one, other in zip(threaded, draw_tokens(*arguments), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_token_is_scored_as_another() -> None:
    logits, _, scale = cases(9)
    scored = score_tokens(torch.from_numpy(logits), scale, np.arange(5), np.array([-1, 0, 1, 2, -1]), exact=False)
    assert (scored[[0, 4]] == -np.inf).all() and np.isfinite(scored[1:4]).all()


CHECKED = """
import numpy as np
from feynkac.models.language.draws import kernels as draw
logits, mask, one = np.zeros((2, 40), np.float32), np.full((2, 2), 0xFFFFFFFF, np.uint32), np.ones(2, np.float32)
law = draw.normalise(logits, mask, one)
try:
    draw._draw_alone(logits, mask, one, law.peak, law.blocks, np.array([2]), np.zeros(1), np.empty(1, np.int64))
except IndexError:
    print("told")
"""


def test_an_index_out_of_bounds_is_told_where_indices_are_checked(tmp_path) -> None:
    """What `make test-bounds` rests on."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-P", "-c", CHECKED], capture_output=True, text=True, timeout=100,
                          env=environment, check=False)  # fmt: skip
    assert done.stdout == "told\n", done.stderr


THREADS = """
import numpy as np
import torch
from feynkac.models.language.draws.kernels import normalise
from feynkac.models.language.forks import check_process

torch.set_num_threads(1)
check_process()
print(torch.get_num_threads())
normalise(np.zeros((4, 4096), np.float32), np.full((4, 128), 2**32 - 1, np.uint32), np.ones(4, np.float32))
print(torch.get_num_threads())
"""


def test_the_number_of_torch_s_threads_stays_as_it_was() -> None:
    """numba starts its own on the first call, and where both use OpenMP torch would have as many from then on."""
    threads = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", THREADS], env=threads, capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "1\n1\n", done.stderr
