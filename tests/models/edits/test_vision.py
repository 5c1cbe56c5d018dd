"""The text part of a vision-language model, with random weights: captured and edited as any decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_edited import PROMPTS, recompute, vector, walk
from tokenizers_of_kinds import byte_level, wrap

import feynkac as fk
from feynkac.models.edits import Add, Direction
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.editing import Anatomy
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.editing.spans import Anywhere


@pytest.fixture(scope="module")
def llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=319)
    ).eval()


def test_the_decoder_of_a_vision_language_model_is_edited(llava: Any) -> None:
    anatomy, v = Anatomy(llava), vector(3)
    name = anatomy.name_block(0)
    assert name == "model.language_model.layers.0" and anatomy.width == 32
    kind = Edits([Add(v, layer=0)], anatomy)
    contexts = open_contexts(Twins(llava), PROMPTS, 8, [kind, None, kind, kind], Anywhere(4, torch.device("cpu")))

    def wanted(text: list[int], g: int) -> torch.Tensor:
        def change(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return value + (g != 1) * (at >= len(PROMPTS[g]) - 1)[:, None] * v

        return recompute(llava, name, text, change)

    walk(contexts, PROMPTS, 1, wanted)


def test_directions_are_fitted_to_its_texts_and_steer_it(llava: Any) -> None:
    lm = fk.CausalLM(llava, wrap(byte_level()), eos=2)
    pairs = [("the cat sat", "the mat sat"), ("yes cat", "yes mat"), ("a cat", "a mat")]
    calm = lm.edited(Add(Direction.from_pairs(lm, pairs), layer=0, strength=8.0))
    results = fk.steer([lm.prompt("the cat", max_tokens=3), calm.prompt("the cat", max_tokens=3)], particles=4, seed=0)
    assert [result.complete for result in results] == [True, True]
    assert abs(calm.score("the cat", [" sat"], end=False)[0] - lm.score("the cat", [" sat"], end=False)[0]) > 0.01
