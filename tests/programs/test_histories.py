"""The tree of histories gives the logits of a full recompute, whatever is extended, kept, forked and let go."""

from __future__ import annotations

import numpy as np
import pytest

from feynkac.errors import ModelError
from feynkac.models.context import Histories


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
    with pytest.raises(ModelError, match=r"are on cpu and meta; move it with lm.model.to"):
        Histories(lm)
