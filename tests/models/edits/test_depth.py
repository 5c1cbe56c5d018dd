"""Layers left out, against models that were built without them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_edited import PROMPTS, walk
from tiny import tiny

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.models.edits import SkipLayers
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere


def opened(model: Any, *kinds: Any) -> Any:
    edits = [kind and Edits([kind], Anatomy(model)) for kind in kinds]
    return open_contexts(Twins(model), PROMPTS, 8, edits, Anywhere(4, torch.device("cpu")))


def read_last(model: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bamba"])
def test_a_model_without_its_last_layers_is_the_shorter_model(kind: str) -> None:
    model = tiny(kind)
    shorter = copy.deepcopy(model)
    name = Anatomy(model).name_block(0).rpartition(".")[0]
    layers, parent = shorter.get_submodule(name), shorter.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], layers[:1])
    shorter.config.num_hidden_layers = parent.config.num_hidden_layers = 1
    skip = SkipLayers(range(1, 2))

    def wanted(text: list[int], g: int) -> torch.Tensor:
        return read_last(model if g == 1 else shorter, text)

    walk(opened(model, skip, None, skip, skip), PROMPTS, 1, wanted)
    assert (read_last(model, PROMPTS[0]) - read_last(shorter, PROMPTS[0])).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_layer_is_left_out_from_the_prompts_last_token_on(kind: str) -> None:
    model, name = tiny(kind), Anatomy(tiny(kind)).name_block(0)

    def wanted(text: list[int], g: int) -> torch.Tensor:
        from_here = (torch.arange(len(text)) >= len(PROMPTS[g]) - 1)[:, None]

        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
            given = args[0] if args else kwargs["hidden_states"]
            new = torch.where(from_here, given, out[0] if isinstance(out, tuple) else out)
            return (new, *out[1:]) if isinstance(out, tuple) else new

        handle = model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
        try:
            return read_last(model, text)
        finally:
            handle.remove()

    skip = SkipLayers(0, scope="response")
    walk(opened(model, skip, skip, skip, skip), PROMPTS, 2, wanted)


def test_an_early_exit_is_an_expert_beside_the_whole_model(tiny_lm: Any) -> None:
    lm = tiny_lm("a", "b")
    early = lm.edited(SkipLayers(-1))
    contrast = fk.ensemble([lm.prompt("a", max_tokens=2), early.prompt("a", max_tokens=2)], [1.5, -0.5])
    texts = [lm.score("a", ["b"], end=False), early.score("a", ["b"], end=False)]
    laws = [torch.log_softmax(each.open([lm.begin("a")], 2).start()[0].double(), 0) for each in (lm, early)]
    wanted = torch.log_softmax(1.5 * laws[0] - 0.5 * laws[1], 0)
    assert texts[0] != texts[1]
    assert contrast.lm.score(contrast, ["b"], end=False)[0] == pytest.approx(float(wanted[lm.begin("b")[-1]]), abs=1e-5)


def test_layers_that_do_not_exist_cannot_be_skipped(tiny_lm: Any) -> None:
    with pytest.raises(ArgumentError, match=r"layers 0\.\.1"):
        tiny_lm("a").edited(SkipLayers(range(1, 3)))
    with pytest.raises(ArgumentError, match="scope is"):
        tiny_lm("a").edited(SkipLayers(1, scope="late"))  # pyright: ignore[reportArgumentType]
