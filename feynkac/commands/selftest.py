"""Small runs whose answers are known exactly: `feynkac doctor` computes them on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

ROUNDING = 1e-4
"""Nats by which sums over texts may differ: a language model's logits are float32."""


class Coins:
    """Two tosses of a fair coin: states are (N, t) arrays of 0 and 1."""

    class State:
        """What N particles have tossed."""

        def __init__(self, tossed: np.ndarray) -> None:
            self.tossed = tossed

        def __len__(self) -> int:
            return len(self.tossed)

        def fork(self, rows: Any) -> Coins.State:
            """The tosses of `rows`."""
            return Coins.State(self.tossed[rows])

    def init(self, n: int, rng: Any) -> State:
        """No toss yet."""
        return self.State(np.zeros((n, 0)))

    def step(self, t: int, state: State, rng: Any) -> tuple[State, Any]:
        """One toss more of each."""
        heads = np.array([[float(u < 0.5)] for u in rng.uniform(len(state))])
        return self.State(np.hstack([state.tossed, heads])), np.zeros(len(state))

    def done(self, state: State) -> Any:
        """After two tosses."""
        return np.full(len(state), state.tossed.shape[1] == 2)


class Heads:
    """exp(number of heads), foreseen after each toss."""

    def level(self, t: int, state: Any, rows: Any) -> Any:
        """(R,) the heads so far."""
        return state.tossed[rows].sum(axis=1)

    def final(self, state: Any, rows: Any) -> Any:
        """(R,) all heads."""
        return state.tossed[rows].sum(axis=1)


def check_engine() -> None:
    """The mean evidence over all runs of two particles is the sum over all tosses. Raises AssertionError."""
    from feynkac.smc.engine import smc
    from feynkac.smc.resample import systematic
    from feynkac.smc.testing import expectation

    def run(rng: Any) -> float:
        *_, last = smc(Coins(), Heads(), n=2, resample=systematic, rng=rng)
        return math.exp(last.log_z)

    _compare(math.log(expectation(run)), 2.0 * math.log((1.0 + math.e) / 2.0), 1e-12, "the mean evidence of all runs")


def check_language(device: str) -> None:
    """Evidences of a tiny random model are sums over texts by transformers alone. Raises AssertionError."""
    import feynkac as fk

    lm = make_tiny(device)
    sums = dict(sum_texts(lm.model))
    listed = fk.steer(lm.prompt("a", max_tokens=3), fk.regex("[ab]{2}"), algorithm="exact")
    _compare(listed.log_evidence, sums["two letters and the end"], ROUNDING, "the evidence of listed texts")
    drawn = fk.steer(lm.prompt("a", max_tokens=1), fk.regex("[ab]"), particles=4, seed=0, progress=False)
    _compare(drawn.log_evidence, sums["one letter"], ROUNDING, "the evidence of drawn texts")


def make_tiny(device: str) -> Any:
    """A random Llama whose tokens are an end of sequence, "a", "b" and "e"."""
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from feynkac.models.language.lm import CausalLM

    words = Tokenizer(BPE(vocab={"</s>": 0, "a": 1, "b": 2, "e": 3}, merges=[]))
    words.decoder = decoders.Fuse()
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
    return CausalLM(model.to(device), PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"), eos=0)


def sum_texts(model: Any) -> Iterator[tuple[str, float]]:
    """The log-probabilities, behind "a", of a letter a or b, and of two of these and the end, by the model itself."""
    import torch

    def log_p(*ids: int) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([[1, *ids]], device=model.device)).logits[0].double().log_softmax(1)
        return sum(float(logits[i, token]) for i, token in enumerate(ids))

    yield "one letter", math.log(sum(math.exp(log_p(x)) for x in (1, 2)))
    pairs = [(x, y) for x in (1, 2) for y in (1, 2)]
    yield "two letters and the end", math.log(sum(math.exp(log_p(x, y, 0)) for x, y in pairs))


def _compare(found: float, true: float, tolerance: float, what: str) -> None:
    if not abs(found - true) <= tolerance:
        raise AssertionError(f"{what} is {found:.9f} nats, and {true:.9f} is right")
