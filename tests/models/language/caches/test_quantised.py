"""Weights of torchao in eight bits: a particle's weight is that of the model as it runs."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny
from walks import PROMPTS, run_program

from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_eight_bits_is_served_as_it_is() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = tiny("llama")
    before = model(input_ids=torch.tensor([PROMPTS[0]])).logits
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    after = model(input_ids=torch.tensor([PROMPTS[0]])).logits
    assert (before - after).abs().max() > 1e-3  # it is another model
    twins = Twins(model)
    contexts = open_contexts(twins, PROMPTS, 20)
    assert isinstance(contexts, SharedContexts)
    run_program(model, contexts, PROMPTS, 1, steps=8, keep=0.2)
    assert twins.are_copies and twins.is_current
