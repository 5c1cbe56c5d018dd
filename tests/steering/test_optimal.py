"""algorithm="optimal": its batches, islands, deaths and doubts, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.models.language.proposals import Tempered
from feynkac.models.language.proposals.children import Dense, Packed, list_children
from feynkac.models.language.protocols import Frontier
from feynkac.potentials.base import Factor


def test_problems_of_one_batch_are_what_they_are_alone(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "e", seed=1)
    tasks = [lm.prompt(p, max_tokens=4) for p in ("a", "b", "ab")]
    potentials = fk.regex("[ab]*"), fk.reward(lambda text: 0.5 * text.count("b"))
    together = fk.steer(tasks, *potentials, algorithm="optimal", particles=4, islands=2, seed=7)
    alone = fk.steer(tasks[0], *potentials, algorithm="optimal", particles=4, islands=2, seed=7)
    assert together[0].samples == alone.samples
    np.testing.assert_allclose(together[0].log_weights, alone.log_weights, rtol=0, atol=1e-5)
    assert len({result.log_evidence for result in together}) == 3


def test_problems_of_one_batch_are_guided_apart(tiny_lm: Any) -> None:
    """Each by its own guide, or by none, as it is alone."""
    import torch

    class Toward(Factor):
        name = "toward"

        def __init__(self, token: int) -> None:
            self._worth = 2.0 * (torch.arange(4) == token)

        def guide(self, frontier: Any) -> Any:
            return self._worth.repeat(len(frontier.logits), 1)

        def final(self, state: Any, rows: Any) -> Any:
            return np.zeros(len(rows))

    lm = tiny_lm("a", "b", "e", seed=1)
    first, second, third = (lm.prompt(text, max_tokens=4) for text in ("a", "b", "ab"))
    tasks = [(first, Toward(2)), (second,), (third, Toward(1))]
    together = fk.steer(tasks, algorithm="optimal", particles=3, seed=7)
    alone = fk.steer(tasks[:1], algorithm="optimal", particles=3, seed=7)
    assert together[0].samples == alone[0].samples
    np.testing.assert_allclose(together[0].log_weights, alone[0].log_weights, rtol=0, atol=1e-5)
    unguided = fk.steer([first, second], algorithm="optimal", particles=3, seed=7)
    assert together[1].samples == unguided[1].samples and together[0].samples != unguided[0].samples


def test_islands_never_mix(tiny_lm: Any) -> None:
    """Each island estimates the evidence by itself."""
    lm = tiny_lm("a", "b", "e", seed=1)
    found = [
        fk.steer(lm.prompt("a", max_tokens=4), fk.regex("[ab]*"), algorithm="optimal", particles=4, islands=4, seed=s)
        for s in range(20)
    ]
    parts = np.exp([result.diagnostics.log_parts for result in found if result.diagnostics])
    assert parts.shape == (20, 4) and len(np.unique(parts.round(4))) > 4
    for result in found:
        rows = np.array(result.history.rows).reshape(-1, 4, 4)
        assert (rows // 4 == np.arange(4)[:, None]).all()
        assert result.log_evidence_interval()[1] < np.inf


def test_every_kept_history_is_distinct_and_no_more_are_forwarded_than_asked(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b", "e", seed=1)
    seen = []

    def look(step: Any) -> None:
        live = np.flatnonzero(step.log_weight > -np.inf)
        texts = [(tuple(ids), end) for ids, end in zip(step.state.tokens(live), step.state.ended[live], strict=True)]
        assert len(set(texts)) == len(texts)
        seen.append(step.state.forwarded[0])
        weights = np.exp(step.log_weight)
        if weights[~step.done].sum() > 0.1:  # nothing weighs, and the total is kept while enough of it runs
            assert step.log_z == pytest.approx(0.0, abs=1e-6)

    task = lm.prompt("ab", max_tokens=8)
    result = fk.steer(task, algorithm="optimal", particles=3, seed=0, observers=[look])
    assert len(result.samples) == 12 and max(np.diff(seen)) <= 3


def test_deaths_name_the_culprit(tiny_lm: Any) -> None:
    task = tiny_lm("a", "b").prompt("a", max_tokens=3)
    with pytest.raises(AllParticlesDied, match="never"):
        fk.steer(task, fk.constraint(never), algorithm="optimal", particles=2, seed=0)
    dead = fk.steer(task, fk.constraint(never), algorithm="optimal", particles=2, seed=0, on_death="return")
    assert dead.log_evidence == -np.inf


def never(text: str) -> bool:
    return False


def test_what_cannot_branch_is_refused_by_name(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")

    @fk.program
    def coin(p: Any) -> bool:
        return p.sample(fk.Bernoulli(0.5))

    with pytest.raises(ArgumentError, match=r"Program.* cannot tell all that may come next.*'smc' or 'beam'"):
        fk.steer(coin(), algorithm="optimal")
    with pytest.raises(ArgumentError, match="draws from no proposal, and a prompt has Tempered; leave proposal= out"):
        fk.steer(lm.prompt("a", max_tokens=2, proposal=Tempered(2.0)), algorithm="optimal")
    with pytest.raises(ArgumentError, match="a lazy constraint is asked about one at a time"):
        fk.steer(lm.prompt("a", max_tokens=2), fk.lazy(lambda text: "b" not in text), algorithm="optimal")


def make_frontier(histories: int, tokens: int, seed: int = 0) -> Frontier:
    import torch

    random = np.random.default_rng(seed)
    logits = torch.tensor(3.0 * random.normal(size=(histories, tokens)), dtype=torch.float32)
    mask = random.integers(0, 1 << 32, size=(histories, -(-tokens // 32)), dtype=np.uint32)
    scale = np.array([1.0, 0.5, 2.0], np.float32)[np.arange(histories) % 3]
    rows: Any = np.arange(histories)
    return Frontier(logits, mask, scale, rows, np.zeros(histories), None, None, rows, None, None, rows)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("guided", [False, True])
def test_kernels_and_dense_tables_know_the_same_children(monkeypatch: pytest.MonkeyPatch, guided: bool) -> None:
    import torch

    frontier = make_frontier(5, 4000)
    guide = 4.0 * torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)) if guided else None
    packed: Any = list_children(frontier, guide)
    monkeypatch.setattr("feynkac.models.language.proposals.children.DENSE_UP_TO", 1 << 30)
    dense: Any = list_children(frontier, guide)
    assert isinstance(packed, Packed) and isinstance(dense, Dense)
    which = np.array([3, 0, 3, 4])
    pairs = [(packed, dense), (packed.among(which), dense.among(which))]
    bound = np.linspace(-9.0, -6.0, 5)
    at, tokens = packed.above(bound)
    assert {*zip(at.tolist(), tokens.tolist(), strict=True)} == {
        *zip(*(x.tolist() for x in dense.above(bound)), strict=True)
    }
    assert len(at) > 100
    pairs.append((packed.without(at, tokens), dense.without(at, tokens)))
    for one, other in pairs:
        np.testing.assert_allclose(one.log_mass, other.log_mass, rtol=0, atol=2e-6)
        places, points = np.array([0, 2, 2, 3]), np.array([0.1, 0.5, 0.999, 0.0])
        drawn = one.draw(places, points)
        np.testing.assert_array_equal(drawn, other.draw(places, points))
        np.testing.assert_allclose(one.weigh(places, drawn), other.weigh(places, drawn), rtol=0, atol=2e-6)
