"""What does a step cost apart from the model, and what do several prompts gain from running at once?

    python benchmarks/steps.py               # both, a minute on 2 cores
    python benchmarks/steps.py mock          # one part: mock, prompts
    python benchmarks/steps.py mock --profile

"mock": a model whose logits lie ready in a table (V = 49,152, the tokenizer of SmolLM2), 64 particles, a regex on:
microseconds a step, everything but the model. Its logits are random, so that all particles differ.
"prompts": 8 different prompts with 16 particles each, in one run and in 8 runs one after another, on SmolLM2; in turns,
and medians. A line of JSON follows the table.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import platform
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import feynkac as fk
from feynkac.models.language.demo import demo_model_path
from feynkac.models.language.language_model import LanguageModel

PATTERN = r"[^eE]*"
PROMPTS = (
    "The weather today is", "My favourite month is", "On the table there was", "He opened the door and",
    "The capital of this land is", "We walked along the shore, and", "A letter from my aunt said that",
    "In the small shop they sold",
)  # fmt: skip


class Mock(LanguageModel):
    """A model without a forward pass: the logits of every context are a row of one table, peaked at random."""

    def __init__(self, rows: int = 256) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(demo_model_path())
        random = np.random.default_rng(0)
        self.logits = torch.from_numpy(3.0 * random.standard_normal((rows, len(tokenizer)), dtype=np.float32))
        super().__init__(tokenizer, eos=tokenizer.eos_token_id)
        self.logits[:, list(self._eos)] = -20.0

    @property
    def window(self) -> None:
        return None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def n_logits(self) -> int:
        return self.logits.shape[1]

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Any:
        return _Ready(self.logits, prompts)


class _Ready:
    """See `feynkac.models.language.protocols.Contexts`. Rows are taken as they lie, without a copy."""

    def __init__(self, logits: torch.Tensor, prompts: Sequence[Sequence[int]]) -> None:
        self._logits, self.lengths, self.forwarded = logits, np.array([len(prompt) for prompt in prompts]), 0

    def start(self) -> torch.Tensor:
        return self._logits[: len(self.lengths)]

    def extend(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> torch.Tensor:
        grown = tokens >= 0
        self.lengths = self.lengths[parents] + grown
        count = int(grown.sum())
        first = self.forwarded % (len(self._logits) - count + 1)
        self.forwarded += count
        return self._logits[first : first + count]


def interleaved(repeats: int, *measures: Callable[[int], float]) -> list[float]:
    """The median of each measure, taken in turns; the first round warms up and does not count."""
    rounds = [[measure(seed) for measure in measures] for seed in range(repeats + 1)]
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def mock(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds a step without a model."""
    task, pattern = Mock().prompt(PROMPTS[0], max_tokens=options.tokens), fk.regex(PATTERN)

    def run(seed: int) -> float:
        times: list[float] = []
        fk.steer(
            task, pattern, particles=64, seed=seed, progress=False,
            observers=[lambda step: times.append(time.perf_counter())],
        )  # fmt: skip
        return 1e6 * statistics.median(b - a for a, b in itertools.pairwise(times))

    (found,) = interleaved(options.repeats, run)
    print(f"{'mock, N=64, V=49,152, a regex on: microseconds a step':<70}{found:9.0f}  wanted < 8,000", flush=True)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(run, 1)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return {"mock_microseconds": found}


def prompts(options: argparse.Namespace) -> dict[str, float]:
    """Eight prompts in one run, and in eight."""
    lm, pattern = fk.CausalLM.from_pretrained(str(demo_model_path()), dtype="float32"), fk.regex(PATTERN)
    tasks = [lm.prompt(text, max_tokens=options.tokens) for text in PROMPTS]

    def seconds(*runs: list[Any]) -> Callable[[int], float]:
        def measure(seed: int) -> float:
            began = time.perf_counter()
            for run in runs:
                fk.steer(run, pattern, particles=16, seed=seed, progress=False)
            return time.perf_counter() - began

        return measure

    one, eight = interleaved(options.repeats, seconds(tasks), seconds(*[[task] for task in tasks]))
    head = "8 prompts, 16 particles each: seconds in one run, in eight"
    print(f"{head:<70}{one:9.2f} {eight:9.2f}  ratio {eight / one:5.2f}  wanted 2", flush=True)
    return {"prompts_gain": eight / one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["mock", "prompts"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="of the mock model: where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, float] = {}
    for part in options.parts:
        figures |= {"mock": mock, "prompts": prompts}[part](options)
    machine = {"torch": torch.__version__, "threads": options.threads, "machine": platform.machine()}
    print(json.dumps({"benchmark": "steps", **machine, **{name: round(value, 3) for name, value in figures.items()}}))


if __name__ == "__main__":
    main()
