"""Edits of parameters against models whose parameters were really changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_edited import recompute, vector, walk
from tiny import tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import Add, ScaleHeads, Shift
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere

PROMPTS = [[5, 9, 3, 7, 1], [4, 8], [5, 9, 3, 7, 1], [8, 2, 6, 11, 30]]


def opened(model: Any, *kinds: Any) -> Any:
    edits = [kind and Edits(kind, Anatomy(model)) for kind in kinds]
    return open_contexts(Twins(model), PROMPTS, 8, edits, Anywhere(4, torch.device("cpu")))


def differences(model: Any, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"]
    return {name: 0.3 * torch.randn_like(model.get_parameter(name)) for name in names}


def changed(model: Any, strength: float, share: float = 1.0) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, difference in differences(model).items():
            kept = difference.flatten().abs().sort(descending=True).values[: int(share * difference.numel())]
            other.get_parameter(name).add_(strength * difference * (difference.abs() >= kept[-1]))
    return other


@pytest.mark.parametrize(("strength", "share"), [(1.0, 1.0), (-0.7, 1.0), (1.0, 0.25)])
def test_a_task_vector_is_the_model_with_other_weights(strength: float, share: float) -> None:
    model = tiny("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = changed(model, strength, share)
    edit = Shift(differences(model), strength, share)
    walk(opened(model, [edit], [edit], [edit], [edit]), PROMPTS, 1, lambda text, g: plain(other, text))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def plain(model: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()


def test_a_change_of_a_tied_parameter_is_one_of_all_that_are_tied_to_it() -> None:
    """As in the models from which differences are taken: `named_parameters` names such a parameter once."""
    model = tiny("llama", tie_word_embeddings=True)
    difference = 0.3 * torch.randn_like(model.get_input_embeddings().weight)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(difference)
    assert other.lm_head.weight is other.get_input_embeddings().weight
    for names in (["model.embed_tokens.weight"], ["model.embed_tokens.weight", "lm_head.weight"]):
        kind = [Shift(dict.fromkeys(names, difference))]
        walk(opened(model, kind, kind, kind, kind), PROMPTS, 1, lambda text, g: plain(other, text))


def test_edited_weights_follow_the_models_own(tiny_lm: Any) -> None:
    """Those written to in place, and those of another precision."""
    lm = tiny_lm("a", "b")
    name = "model.layers.0.mlp.down_proj.weight"
    difference = 0.3 * torch.randn(lm.model.get_parameter(name).shape)
    edited = lm.edited(Shift({name: difference}))
    edited.open([[1, 2]], 2).start()
    with torch.no_grad():
        lm.model.get_parameter(name).mul_(0.5)
    other = copy.deepcopy(lm.model)
    with torch.no_grad():
        other.get_parameter(name).add_(difference)
    torch.testing.assert_close(edited.open([[1, 2]], 2).start()[0], plain(other, [1, 2]), atol=1e-5, rtol=1e-5)
    lm.model.double()
    assert edited.open([[1, 2]], 2).start().isfinite().all()


def test_weights_add_up_in_their_order_and_go_with_other_edits() -> None:
    model, v = tiny("llama"), vector(3)
    half = Shift(differences(model), 0.5)
    other = changed(model, 1.0)
    kind = [half, Add(v, layer=0, scope="all"), half]
    walk(
        opened(model, kind, kind, kind, kind), PROMPTS, 2,
        lambda text, g: recompute(other, "model.layers.0", text, lambda value, at: value + v),
    )  # fmt: skip


def test_edited_weights_share_no_batch_with_others(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    name = "model.layers.0.mlp.down_proj.weight"
    shifted = lm.edited(Shift({name: torch.ones_like(lm.model.get_parameter(name))}))
    tasks = [lm.prompt("a", max_tokens=3), shifted.prompt("a", max_tokens=3)]
    with pytest.raises(ArgumentError, match="run them apart"):
        fk.steer(tasks, particles=2)
    expert = fk.steer(lm.prompt("a", max_tokens=3), fk.expert(shifted.prompt("a")), particles=4, seed=0)
    assert expert.log_evidence < 0.0
    assert not shifted.open([[1]], 2).start().allclose(lm.open([[1]], 2).start())


def test_heads_are_scaled_as_by_their_slices_of_the_output_projection() -> None:
    model = tiny("llama")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].self_attn.o_proj.weight[:, 8:16] *= 0.0
        other.model.layers[1].self_attn.o_proj.weight[:, 24:32] *= 2.5
    kind = [ScaleHeads({(0, 1): 0.0, (-1, 3): 2.5})]
    contexts = opened(model, kind, None, kind, kind)
    walk(contexts, PROMPTS, 3, lambda text, g: plain(model if g == 1 else other, text))


def test_parameters_that_are_tied_are_shifted_together_unless_each_is_named() -> None:
    model = tiny("gpt2")
    torch.manual_seed(3)
    difference = 0.3 * torch.randn_like(model.lm_head.weight)
    both, one = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        both.transformer.wte.weight.add_(difference)
        one.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + difference)
    assert both.lm_head.weight is both.transformer.wte.weight
    nothing = torch.zeros_like(difference)
    kinds: dict[Any, Any] = {
        Shift({"transformer.wte.weight": difference}): both,
        Shift({"lm_head.weight": difference}): both,
        Shift({"transformer.wte.weight": difference, "lm_head.weight": difference}): both,
        Shift({"transformer.wte.weight": nothing, "lm_head.weight": difference}): one,
    }
    for edit, other in kinds.items():
        walk(opened(model, *[[edit]] * 4), PROMPTS, 1, lambda text, g, other=other: plain(other, text), steps=1)
    edits = Edits([Shift({"lm_head.weight": difference})], Anatomy(model))
    with Twins(model).borrow() as twin, edits.parameters.swap(twin.model):
        assert twin.model.lm_head.weight is twin.model.transformer.wte.weight


def errors(lm: Any) -> dict[str, Any]:
    return {
        "names the parameter 'lm_foot.weight'": lambda: lm.edited(Shift({"lm_foot.weight": torch.ones(2)})),
        "is (2,) and the parameter (3, 16)": lambda: lm.edited(Shift({"lm_head.weight": torch.ones(2)})),
        "share is 0.0": lambda: lm.edited(Shift({"lm_head.weight": torch.ones(3, 16)}, share=0.0)),
        "the strength of weights is <function": lambda: lm.edited(
            Shift({"lm_head.weight": torch.ones(3, 16)}, strength=lambda steps: steps)  # pyright: ignore[reportArgumentType]
        ),
        "the strength of weights is '2'": lambda: lm.edited(
            Shift({"lm_head.weight": torch.ones(3, 16)}, strength="2")  # pyright: ignore[reportArgumentType]
        ),
        "differences are given as": lambda: lm.edited(Shift({})),
        "the factor of (0, 1) is nan": lambda: lm.edited(ScaleHeads({(0, 1): float("nan")})),
        "the factor of (0, 1) is <function": lambda: lm.edited(
            ScaleHeads({(0, 1): lambda steps: steps})  # pyright: ignore[reportArgumentType]
        ),
        "factors is [(0, 1)]": lambda: lm.edited(ScaleHeads([(0, 1)])),  # pyright: ignore[reportArgumentType]
        "layer is (0, 1); give one number": lambda: lm.edited(
            ScaleHeads({((0, 1), 1): 0.0})  # pyright: ignore[reportArgumentType]
        ),
        "holds NaN or infinity": lambda: lm.edited(Shift({"lm_head.weight": torch.full((3, 16), float("nan"))})),
        "(0, 9) is no (layer, head): this model has heads 0..3": lambda: lm.edited(ScaleHeads({(0, 9): 0.0})),
        "this model has layers 0..1": lambda: lm.edited(ScaleHeads({(5, 0): 0.0})),
    }


@pytest.mark.parametrize("wanted", list(errors(None)))
def test_weights_that_do_not_fit_are_refused_where_they_are_made(tiny_lm: Any, wanted: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        errors(tiny_lm("a", "b"))[wanted]()
    assert wanted in str(caught.value)
