"""What users of other libraries write, carried over: vectors, numbers and places, and one law for each request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import (
    Add,
    Direction,
    Emphasise,
    ProjectOut,
    Span,
    Steps,
    capture,
    fit_direction,
    load_edits,
    save_edits,
)

CHAT = "{% for m in messages %}b{{ m['content'] }}a{% endfor %}"
PAIRS = [("ab", "ba"), ("aab", "bba"), ("abb", "baa")]


@pytest.fixture
def lm(tiny_lm: Any) -> Any:
    return tiny_lm("a", "b", seed=3)


def odds(model: Any) -> Any:
    return model.score("ab", ["a", "b", "ab"])


@dataclass
class ControlVector:
    """repeng's: its arrays by layer."""

    directions: dict[int, np.ndarray]


def test_a_script_of_repeng_has_its_sums_of_vectors_at_layers_from_the_end(lm: Any) -> None:
    happy, sad = (ControlVector({0: x, 1: -2.0 * x}) for x in (np.arange(16.0), np.ones(16)))
    wanted = {layer: torch.tensor(1.5 * (happy.directions[layer] - 0.5 * sad.directions[layer])) for layer in (0, 1)}
    one, other = Direction(happy.directions), Direction(sad.directions)
    mixed = one - 0.5 * other
    edited = lm.edited(Add(mixed, layer=range(-1, -3, -1), strength=1.5, scope="all"))
    assert odds(edited) == pytest.approx(odds(lm.edited(Add(wanted, scope="all"))))
    for same in (one + -0.5 * other, one + other * -0.5, one - other / 2, -(-1 * one) - other / np.float32(2.0),
                 np.float64(1.0) * one - torch.tensor(0.5) * other, one - 0.5 * Direction(sad.directions),
                 Direction({0: one[0]}) + {1: one[1]} - other / 2.0):  # fmt: skip
        for layer in (0, 1):
            torch.testing.assert_close(same[layer], mixed[layer])


def test_a_sum_of_directions_has_the_layers_of_both_and_no_separation(lm: Any) -> None:
    one = Direction.from_pairs(lm, PAIRS, layers=[0])
    both = one + Direction.from_pairs(lm, PAIRS, layers=[1])
    assert list(both) == [0, 1] and not both.separation and both[0].equal(one[0])
    assert (2.0 * one).separation == one.separation and not (-one).separation
    assert list(both.at(range(1))) == list(both.at([0])) == list(both.at(np.int64(0))) == [0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda one: one + Direction({0: torch.ones(4)}), "of two models"),
        (lambda one: one + Direction(dict(one), of="mlp"), "of='residual' and of='mlp' cannot be added"),
        (lambda one: one * float("nan"), "multiplied by nan"),
        (lambda one: one * np.ones(16), "multiplied by array"),
        (lambda one: one / 0, "divided by 0"),
        (lambda one: one.at(range(1, 3)), r"no vector for all of \[1, 2\]"),
    ],
)
def test_directions_that_make_no_sum_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make(Direction({0: torch.ones(16)}))


def test_a_direction_is_not_added_to_what_is_none() -> None:
    with pytest.raises(TypeError):
        _ = Direction({0: torch.ones(16)}) + 1  # pyright: ignore[reportOperatorIssue]


def test_a_script_of_steering_vectors_reads_and_acts_at_its_tokens(lm: Any) -> None:
    """`read_token_index`, `min_token_index`, and the operators of addition and ablation."""
    trained = Direction.from_pairs(lm, PAIRS, layers=[1], at=-2)
    given = {1: trained[1].half()}  # a SteeringVector's layer_activations
    everywhere = lm.edited(Add(given, strength=1.5, scope="all"))
    assert odds(everywhere) == pytest.approx(odds(lm.edited(Add(trained, strength=1.5, scope=range(0, 99)))), abs=1e-2)
    ablated = lm.edited(ProjectOut(trained, scope="all"))
    left, whole = (capture(model, ["abba"], 1, at=range(4)).at[1] @ trained[1] for model in (ablated, lm))
    assert left.abs().max() < 1e-4 * whole.abs().max()


def test_a_script_of_pasta_has_its_heads_from_json_and_a_part_for_each_prompt(lm: Any) -> None:
    config = json.loads('{"0": [1, 3], "1": [2]}')
    with pytest.raises(ArgumentError, match="keys that JSON has made texts are read by"):
        lm.edited(Emphasise("a", heads=config))
    heads = {int(layer): some for layer, some in config.items()}
    prompts, parts = ["aab", "abba"], [Span("a", at=1), "bb"]
    tasks = [
        lm.edited(Emphasise(part, heads=heads)).prompt(text, max_tokens=2)
        for text, part in zip(prompts, parts, strict=True)
    ]
    together = fk.steer(tasks, fk.regex("a|b|ab"), algorithm="exact")
    for task, result in zip(tasks, together, strict=True):
        assert result.log_evidence == pytest.approx(
            fk.steer(task, fk.regex("a|b|ab"), algorithm="exact").log_evidence, abs=1e-5
        )


def test_a_script_of_axbench_reads_responses_in_a_chat_and_adds_unit_vectors(lm: Any) -> None:
    lm.tokenizer.chat_template = CHAT
    rows = [("a", "bb", "positive"), ("b", "ab", "positive"), ("a", "aa", "negative"), ("b", "ba", "negative")]
    chats = [(lm.prompt(chat=question), answer) for question, answer, _ in rows]
    found = fit_direction(capture(lm, chats[:2], 1, at="mean"), capture(lm, chats[2:], 1, at="mean"))
    unit = found / found[1].norm()
    assert float(unit[1].norm()) == pytest.approx(1.0)
    edited = lm.edited(Add(4.0 * unit))
    same = lm.edited(Add(found[1], layer=1, strength=4.0 / float(found[1].norm())))
    ids = lm.prompt(chat="a").prompts[0].tokens
    torch.testing.assert_close(edited.open([ids], 2).start(), same.open([ids], 2).start(), atol=1e-4, rtol=1e-4)


def test_a_script_of_easysteer_has_a_vector_a_scale_and_places_for_each_request(lm: Any, tmp_path: Path) -> None:
    """One batch of requests, each with the law that it has alone; places are counted from the end of the prompt."""
    Direction.from_pairs(lm, PAIRS).save(tmp_path / "happy.safetensors")
    happy = Direction.load(tmp_path / "happy.safetensors")
    requests: list[Any] = [
        (Add(happy, strength=0.5, scope=Steps(-1, 0)),),
        (Add(happy, strength=-2.0, scope="all"),),
        (Add(happy.at(1), strength=3.0, keep_norm=True), Add(happy, layer=0, scope=Steps(1))),
        (),
    ]
    tasks = [lm.edited(*edits).prompt("aab", max_tokens=2) for edits in requests]
    together = fk.steer(tasks, fk.regex("[ab]*b"), algorithm="exact")
    for g, (task, result) in enumerate(zip(tasks, together, strict=True)):
        alone = fk.steer(task, fk.regex("[ab]*b"), algorithm="exact").log_evidence
        file = save_edits(requests[g], tmp_path / f"{g}.safetensors")
        again = lm.edited(*load_edits(file)).prompt("aab", max_tokens=2)
        loaded = fk.steer(again, fk.regex("[ab]*b"), algorithm="exact").log_evidence
        assert result.log_evidence == pytest.approx(alone, abs=1e-5) == pytest.approx(loaded, abs=1e-5)
    assert len({round(result.log_evidence, 4) for result in together}) == 4  # four laws
