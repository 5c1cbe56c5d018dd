"""Calls of masked and discrete diffusion."""

from __future__ import annotations

from typing import Any

import numpy as np

import feynkac as fk
from calls.world import Call, World, look
from feynkac.base.vocabulary import Vocabulary
from feynkac.models import discrete
from feynkac.potentials.discrete import Lookahead


def list_discrete(world: World) -> dict[str, Call]:
    """Kernels, denoisers, proposals, a canvas of three places."""
    chain = discrete.ChainDenoiser(np.array([0.5, 0.5]), np.array([[0.7, 0.3], [0.4, 0.6]]))
    letters = Vocabulary((b"a", b"b"), ())
    reward = fk.reward(len, every="end")
    table = np.array([[0, 1], [1, 0]])
    automaton = discrete.CanvasAutomaton(table, np.array([True, False]), np.array([0, 1]))

    def use(model: Any) -> None:
        look(fk.steer(model, reward, particles=2, seed=0, on_death="return"))

    def run(denoiser: Any = chain, kernel: Any = None, proposal: Any = None, potential: Any = reward) -> None:
        made = discrete.DiscreteDiffusion(denoiser, letters, 3, kernel or discrete.Unmask(3), proposal=proposal)
        look(fk.steer(made, potential, particles=2, seed=0, on_death="return"))

    masked = {"denoiser": chain, "alphabet": letters, "length": 3, "kernel": discrete.Unmask(3), "given": None}
    return {
        "DiscreteDiffusion": Call(discrete.DiscreteDiffusion, masked, use),
        "Unmask": Call(discrete.Unmask, {"length": 3, "per_step": 1}, lambda kernel: run(kernel=kernel)),
        "MaskedNoise": Call(discrete.MaskedNoise, {"steps": 2, "remask": 0.1}, lambda kernel: run(kernel=kernel)),
        "UniformNoise": Call(discrete.UniformNoise, {"steps": 2}),
        "ChainDenoiser": Call(
            discrete.ChainDenoiser, {"initial": chain.initial, "transition": chain.transition}, lambda made: run(made)
        ),
        "multiply of logits": Call(
            discrete.multiply, {"denoisers": [chain, chain]}, lambda made: run(made), many="denoisers"
        ),
        "anneal of logits": Call(discrete.anneal, {"denoiser": chain, "power": 2.0}, lambda made: run(made)),
        "guide of logits": Call(
            discrete.guide, {"conditional": chain, "unconditional": chain, "scale": 2.0}, lambda made: run(made)
        ),
        "LocallyOptimal": Call(discrete.LocallyOptimal, {"potential": reward}, lambda made: run(proposal=made)),
        "FirstOrder": Call(
            discrete.FirstOrder, {"scorer": discrete.by_difference(reward)}, lambda made: run(proposal=made)
        ),
        "by_difference": Call(
            discrete.by_difference, {"potential": reward, "top": 2},
            lambda made: run(proposal=discrete.FirstOrder(made)),
        ),
        "by_gradient": Call(
            discrete.by_gradient, {"reward": lambda x: x.sum((1, 2))},
            lambda made: run(proposal=discrete.FirstOrder(made)),
        ),
        "AutomatonGuided": Call(
            discrete.AutomatonGuided, {"automaton": automaton}, lambda made: run(proposal=made)
        ),
        "CanvasAutomaton": Call(
            discrete.CanvasAutomaton,
            {"delta": table, "accept": np.array([True, False]), "token_class": np.array([0, 1])},
            lambda made: run(proposal=discrete.AutomatonGuided(made)),
        ),
        "Unweighted": Call(discrete.Unweighted, {"proposal": discrete.Base()}, lambda made: run(proposal=made)),
        "Lookahead": Call(Lookahead, {"potential": reward, "samples": 2}, lambda made: run(potential=made)),
        "what a canvas reward returns": Call(
            lambda value: fk.reward(lambda canvas: value, every="end"), {"value": 0.0}, lambda made: run(potential=made)
        ),
        **_masked_lm(use),
    }  # fmt: skip


def _masked_lm(use: Any) -> dict[str, Call]:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    splits = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    splits.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splits, unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = BertForMaskedLM(config).eval()
    lm = fk.MaskedLM(model, tokenizer)
    return {
        "MaskedLM": Call(fk.MaskedLM, {"model": model, "tokenizer": tokenizer}, lambda made: use(made.fill("[MASK]"))),
        "fill": Call(lm.fill, {"text": "a [MASK]"}, use),
        "tokens to fill": Call(lm.fill, {"tokens": [5, 4]}, use),
        "prompt of a masked model": Call(lm.prompt, {"text": "a", "length": 2}, use),
    }
