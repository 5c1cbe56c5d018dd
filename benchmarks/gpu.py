"""What a step costs on a GPU: against the two floors under it, and against `model.generate`.

Models in the shape of Llama with random weights, in bfloat16; nothing is downloaded. A step is one token of all
particles, constraint, draw and resampling included. No step of N distinct texts can be faster than

- its bytes (weights, keys and values of the prompt once and of each particle's own tokens, logits) over the bandwidth,
- its operations (two for each weight and token, and those of attention) over the peak of matrix products,

both as measured here, just before. `generate` draws as many texts of the same prompt, a copy of it for each. A table,
then one line of JSON with the machine's description.

    python benchmarks/gpu.py                        # all of it, on a CUDA device
    python benchmarks/gpu.py --models 1B --particles 256 --prompts 128
    python benchmarks/gpu.py --smoke                # a tiny model on the CPU, for the logic
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

TOKENS = 32
GOAL = 1.5
"""Times the higher floor, at 8B and 256 particles."""


@dataclass(frozen=True)
class Shape:
    """A model in the shape of Llama."""

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int

    def make_config(self) -> Any:
        """The configuration of transformers."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.inner,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.key_heads,
            max_position_embeddings=8192, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Elements of a head."""
        return self.width // self.heads

    @property
    def weights(self) -> int:
        """Numbers that a step multiplies by: those of all layers and of the output."""
        attention = 2 * self.width * self.width + 2 * self.width * self.key_heads * self.size
        return self.layers * (attention + 3 * self.width * self.inner) + self.width * self.vocabulary

    def count_bytes(self, particles: int, prompt: int, own: float) -> float:
        """Of one step in half precision, each particle with `own` tokens of its own; logits are float32."""
        keys_and_values = 4 * self.layers * self.key_heads * self.size * (prompt + particles * own)
        return 2 * self.weights + keys_and_values + 4 * particles * self.vocabulary

    def count_operations(self, particles: int, prompt: int, own: float) -> float:
        """Of one step: multiplications and additions."""
        return 2 * particles * self.weights + 4 * particles * (prompt + own) * self.width * self.layers


SHAPES = {
    "135M": Shape(576, 1536, 30, 9, 3, 49152),
    "1B": Shape(2048, 8192, 16, 32, 8, 128256),
    "8B": Shape(4096, 14336, 32, 32, 8, 128256),
    "tiny": Shape(32, 48, 2, 4, 2, 300),
}


def build(shape: Shape, device: str) -> Any:
    """A language model of random weights, its tokens the numbers from 0 on in hexadecimal."""
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    import feynkac as fk

    words = Tokenizer(BPE(vocab={f"{i:x} ": i for i in range(shape.vocabulary)}, merges=[]))
    words.decoder = decoders.Fuse()
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(shape.make_config(), dtype=torch.bfloat16)
    return fk.CausalLM(model.eval(), PreTrainedTokenizerFast(tokenizer_object=words), eos=[0])


def synchronise(device: str) -> None:
    """Wait for all that the device has been asked."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def time_call(f: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """The median of the seconds that `f` takes; the first call does not count."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        began = time.perf_counter()
        f()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure_device(device: str, smoke: bool) -> tuple[float, float]:
    """Bytes a second that are read and written together, and operations a second of products in bfloat16."""
    import torch

    n, width = (1 << 20, 128) if smoke else (1 << 30, 8192)
    source = torch.ones(n, dtype=torch.bfloat16, device=device)
    target, square = torch.empty_like(source), torch.ones(width, width, dtype=torch.bfloat16, device=device)
    bandwidth = 4 * n / time_call(lambda: target.copy_(source), device)
    return bandwidth, 2 * width**3 / time_call(lambda: square @ square, device)


def time_step(lm: Any, ids: list[int], particles: int, tokens: int) -> float:
    """Seconds of the median step of a run with a constraint, prefill apart."""
    import feynkac as fk

    task, times = lm.prompt(tokens=ids, max_tokens=tokens), list[float]()
    constraint = fk.regex("[^e]*") * fk.length(min=tokens, unit="token")
    for seed in range(2):  # the first run compiles
        times.clear()
        observers = [lambda step: times.append(time.perf_counter())]
        fk.steer(task, constraint, particles=particles, seed=seed, progress=False, observers=observers)
    return statistics.median(b - a for a, b in itertools.pairwise(times[1:]))


def time_generated(lm: Any, ids: list[int], particles: int, tokens: int, device: str) -> float | None:
    """Seconds a step of `generate`, prefill apart; None where memory runs out."""
    import torch

    rows = torch.tensor([ids], device=device)

    def generate(n: int) -> None:
        lm.model.generate(
            rows, attention_mask=torch.ones_like(rows), do_sample=True, top_k=0, max_new_tokens=n, min_new_tokens=n,
            num_return_sequences=particles, pad_token_id=0,
        )  # fmt: skip

    try:
        with torch.inference_mode():
            whole, first = (time_call(lambda n=n: generate(n), device, 1) for n in (tokens, 1))
    except torch.OutOfMemoryError:
        return None
    return (whole - first) / (tokens - 1)


def compare(
    name: str, lm: Any, particles: int, prompt: int, tokens: int, peaks: tuple[float, float], device: str
) -> Any:
    """One row of the table."""
    shape, (bandwidth, peak) = SHAPES[name], peaks
    ids = [1 + i % (shape.vocabulary - 1) for i in range(prompt)]
    of_bytes = shape.count_bytes(particles, prompt, tokens / 2) / bandwidth
    of_operations = shape.count_operations(particles, prompt, tokens / 2) / peak
    floor, step = max(of_bytes, of_operations), time_step(lm, ids, particles, tokens)
    theirs = time_generated(lm, ids, particles, tokens, device)
    generated = "out of memory" if theirs is None else f"{1e3 * theirs:8.2f}"
    print(
        f"{name:>5} {particles:>5} {prompt:>6} {1e3 * step:>9.2f} {1e3 * of_bytes:>9.2f} {1e3 * of_operations:>9.2f} "
        f"{step / floor:>7.2f} {generated:>13}",
        flush=True,
    )
    return {
        "model": name, "particles": particles, "prompt": prompt, "step": step, "floor_of_bytes": of_bytes,
        "floor_of_operations": of_operations, "times_floor": step / floor, "generate": theirs,
    }  # fmt: skip


def describe(device: str, peaks: tuple[float, float]) -> dict[str, Any]:
    """The machine, the versions, the day."""
    import torch
    import transformers

    name = platform.processor() or platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    return {
        "device": name, "bytes_per_second": peaks[0], "operations_per_second": peaks[1], "torch": torch.__version__,
        "transformers": transformers.__version__, "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["135M", "1B", "8B"], choices=list(SHAPES))
    parser.add_argument("--particles", nargs="+", type=int, default=[16, 64, 256, 1024])
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 4096])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.models, given.particles, given.prompts, given.tokens = ["tiny"], [4, 8], [8, 40], 6
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    import torch

    given = parse(arguments)
    device = "cpu" if given.smoke else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured (--smoke tries the logic on the CPU)")
        return
    peaks = measure_device(device, given.smoke)
    print("model     N prompt   ms/step  bytes ms    ops ms times floor   generate ms")
    rows = []
    for name in given.models:
        lm = build(SHAPES[name], device)
        for particles, prompt in itertools.product(given.particles, given.prompts):
            rows.append(compare(name, lm, particles, prompt, given.tokens, peaks, device))
    print(json.dumps({"gpu": rows, "goal": GOAL, **describe(device, peaks)}))


if __name__ == "__main__":
    main()
