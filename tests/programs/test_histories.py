"""The tree of histories gives the logits of a full recompute, whatever is extended, kept, forked and let go."""

from __future__ import annotations

import numpy as np
import pytest

from feynkac.base.errors import ModelError
from feynkac.models.language import histories as context
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.histories import Histories


def alone(lm, node):
    import torch

    with torch.inference_mode():
        return lm.model(torch.tensor([[*node.prompt, *node.tokens()]])).logits[0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_logits_are_those_of_a_full_recompute(tiny_lm, seed: int) -> None:
    lm, rng = tiny_lm("a", "b", "e", "ab"), np.random.default_rng(seed)
    histories = Histories(lm)
    roots = [histories.root((1, 2)), histories.root((3,))]
    nodes = [roots[0], roots[1], roots[0], roots[1], roots[0]]
    for _ in range(15):
        wanted = list(dict.fromkeys(node for node in nodes if rng.random() < 0.6)) or nodes[:1]
        logits = histories.logits(wanted, set(nodes))
        for i, node in enumerate(wanted):
            assert (logits[i] - alone(lm, node)).abs().max() < 1e-4
        for i in range(len(nodes)):
            if rng.random() < 0.6:
                for _ in range(rng.integers(1, 3)):
                    nodes[i] = histories.child(nodes[i], int(rng.integers(1, 5)))
        if rng.random() < 0.4:
            nodes[rng.integers(len(nodes))] = nodes[rng.integers(len(nodes))]


@pytest.mark.parametrize("most", [3, 512])
@pytest.mark.parametrize("seed", range(3))
def test_scored_texts_take_their_logits_from_one_pass(tiny_lm, monkeypatch, seed: int, most: int) -> None:
    monkeypatch.setattr(context, "PASS", most)
    lm, rng = tiny_lm("a", "b", "e", "ab"), np.random.default_rng(seed)
    histories = Histories(lm)
    nodes = [histories.root((1, 2)), histories.root((1, 2)), histories.root((3,))]
    for _ in range(8):
        chains = [[node] for node in nodes]
        for chain in chains:
            for _ in range(rng.integers(0, 5)):
                chain.append(histories.child(chain[-1], int(rng.integers(1, 5))))
        wanted = list(dict.fromkeys(node for chain in chains for node in (chain[:-1] or chain)))
        nodes = [chain[-1] for chain in chains]
        logits = histories.logits(wanted, set(nodes))
        for i, node in enumerate(wanted):
            assert (logits[i] - alone(lm, node)).abs().max() < 1e-4
        resident = {node for bank in histories._banks for node in bank.members}
        assert all(node in resident or node.logits is None for node in wanted)


def test_a_scored_text_is_one_pass(tiny_lm, monkeypatch) -> None:
    histories = Histories(tiny_lm("a", "b"))
    nodes = [histories.root((1, 2))]
    for token in (1, 2, 1, 1):
        nodes.append(histories.child(nodes[-1], token))
    histories.logits(nodes[:1], {nodes[0]})
    passes = []
    append = SharedContexts.append
    monkeypatch.setattr(SharedContexts, "append", lambda *a, **k: passes.append(1) or append(*a, **k))
    monkeypatch.setattr(SharedContexts, "extend", lambda *a: pytest.fail("one token at a time"))
    histories.logits(nodes[:-1], {nodes[-1]})
    assert (len(passes), histories.forwarded) == (1, 6)
    histories.logits(nodes[-1:], {nodes[-1]})
    assert len(passes) == 1


def test_one_history_is_one_node_and_is_forwarded_once(tiny_lm) -> None:
    histories = Histories(tiny_lm("a", "b"))
    root = histories.root((1, 2))
    child = histories.child(root, 1)
    assert histories.child(root, 1) is child and histories.root((1, 2)) is root
    histories.logits([child], {child})
    histories.logits([child], {child})
    assert histories.forwarded == 3


def test_nodes_that_no_one_holds_are_let_go(tiny_lm) -> None:
    histories = Histories(tiny_lm("a", "b"))
    node = histories.root((1, 2))
    for i in range(6):
        node = histories.child(node, 1 + i % 2)
        histories.logits([node], {node})
    assert [len(bank.members) for bank in histories._banks] == [1]
    assert node.parent.logits is None
    del node
    histories._banks[0].close()
    assert not histories._children


def test_a_full_window_is_an_error(tiny_lm) -> None:
    histories = Histories(tiny_lm("a"))
    node = histories.root((1,) * 511)
    for _ in range(2):
        node = histories.child(node, 1)
    with pytest.raises(ModelError, match="window of 512"):
        histories.logits([node], {node})
    with pytest.raises(ModelError, match="holds 512"):
        histories.root((1,) * 512)


def test_a_model_on_two_devices_is_an_error(tiny_lm) -> None:
    lm = tiny_lm("a")
    lm.model.lm_head.to("meta")
    histories = Histories(lm)
    with pytest.raises(ModelError, match=r"are on cpu and meta; move it with lm.model.to"):
        histories.logits([histories.root((1,))], ())
