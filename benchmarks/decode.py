"""Does steering cost more than plain sampling from the same model?

Everything on (a regex, ESS threshold 0.5; texts of exactly T tokens on both sides), against `model.generate` and the
floor, one bare forward pass of the same number of single tokens. Runs are interleaved in one process, and medians
taken, so that a noisy machine moves both sides alike. One line of JSON follows the table.

    python benchmarks/decode.py                 # all of it, about ten minutes on 2 cores
    python benchmarks/decode.py short           # one part: short, long, growth, memory, import
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS = 30
PATTERN = r"[^eE]*"
TEXT = (
    "The weather today is one of the few things that strangers will talk about while they wait for a train, and so it "
    "has to carry more than it was made for: boredom, kindness, the wish to be left alone, a first attempt at love. "
)


class Setting:
    """One model, one prompt length, one number of particles."""

    def __init__(self, lm: Any, particles: int, prompt: int, tokens: int = TOKENS) -> None:
        import torch

        ids = lm.tokenizer(TEXT * (prompt // 40 + 1))["input_ids"][:prompt]
        self.lm, self.particles, self.tokens = lm, particles, tokens
        self.ids, self.prompt = torch.tensor([ids]), lm.prompt(tokens=ids, max_tokens=tokens)
        self.seed = 0

    def steered(self) -> float:
        """Seconds a token, everything on."""
        began = time.perf_counter()
        self._steer()
        return (time.perf_counter() - began) / (self.particles * self.tokens)

    def _steer(self, *observers: Callable[[Any], None]) -> None:
        import feynkac as fk

        self.seed += 1
        constraint = fk.regex(PATTERN) * fk.length(min=self.tokens, unit="token")
        fk.steer(
            self.prompt, constraint, particles=self.particles, seed=self.seed, progress=False, observers=observers
        )  # fmt: skip

    def steered_step(self) -> float:
        """Seconds a step, prefill apart."""
        times: list[float] = []
        self._steer(lambda step: times.append(time.perf_counter()))
        return statistics.median(b - a for a, b in itertools.pairwise(times[1:]))

    def generated(self) -> float:
        """Seconds a token of `model.generate`, plain sampling."""
        import torch

        began = time.perf_counter()
        with torch.inference_mode():
            out = self.lm.model.generate(
                self.ids, attention_mask=torch.ones_like(self.ids), do_sample=True, top_k=0, max_new_tokens=self.tokens,
                min_new_tokens=self.tokens, num_return_sequences=self.particles,
                pad_token_id=self.lm.vocabulary.eos[0],
            )  # fmt: skip
        assert out.shape == (self.particles, self.ids.shape[1] + self.tokens)
        return (time.perf_counter() - began) / (self.particles * self.tokens)

    def bare_forward(self) -> float:
        """Seconds of one forward pass of as many single tokens, with nothing before them."""
        import torch

        ids = self.ids[:, :1].expand(self.particles, 1)
        began = time.perf_counter()
        with torch.inference_mode():
            self.lm.model(input_ids=ids, use_cache=True)
        return time.perf_counter() - began


def interleaved(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, taken in turns; the first round warms up and does not count."""
    rounds = []
    for _ in range(repeats + 1):
        rounds.append([measure() for measure in measures])
        gc.collect()
    return [statistics.median(column) for column in zip(*rounds[1:] or rounds, strict=True)]


def short(lm: Any, repeats: int) -> dict[str, float]:
    """Prompt of 5 tokens: against generate, and a step against the floor."""
    setting = Setting(lm, 128, 5)
    ours, theirs, step, floor = interleaved(
        repeats, setting.steered, setting.generated, setting.steered_step, setting.bare_forward
    )
    row("N=128, prompt 5: tokens/s", 1 / ours, 1 / theirs, theirs / ours, ">= 1.6")
    row("N=128, prompt 5: ms a step against a bare forward", 1e3 * step, 1e3 * floor, step / floor, "<= 1.35")
    return {"short_vs_generate": theirs / ours, "step_vs_forward": step / floor}


def long(lm: Any, repeats: int) -> dict[str, float]:
    """Prompt of 500 tokens."""
    ratios = {}
    for particles, wanted in ((128, 12), (32, 6)):
        setting = Setting(lm, particles, 500)
        # The prefill of N copies of the prompt takes generate minutes: one round of it is enough.
        (theirs,) = interleaved(0, setting.generated)
        (ours,) = interleaved(repeats, setting.steered)
        row(f"N={particles}, prompt 500: tokens/s", 1 / ours, 1 / theirs, theirs / ours, f">= {wanted}")
        ratios[f"long_{particles}_vs_generate"] = theirs / ours
    return ratios


def growth(lm: Any, repeats: int) -> dict[str, float]:
    """Time a step at T = 200 against T = 50."""
    few, many = Setting(lm, 64, 5, 50), Setting(lm, 64, 5, 200)
    short_step, long_step = interleaved(max(repeats // 2, 1), few.steered_step, many.steered_step)
    row("N=64: ms a step, T=200 against T=50", 1e3 * long_step, 1e3 * short_step, long_step / short_step, "")
    return {"growth_200_vs_50": long_step / short_step}


def memory() -> dict[str, float]:
    """Peak memory above the loaded model, N=128, prompt 2000, T=64, in a process of its own.

    By its own rule glibc keeps some 0.4 GB that the run has freed; told any threshold, it gives them back.
    """
    peaks = {}
    for name, settings in {"memory_gb": {}, "memory_given_back_gb": {"MALLOC_TRIM_THRESHOLD_": "131072"}}.items():
        out = subprocess.run(
            [sys.executable, __file__, "--peak"], capture_output=True, text=True, check=True, env=os.environ | settings
        )
        peaks[name] = float(out.stdout.strip().splitlines()[-1])
    for name, told in {"memory_gb": "GB above the model", "memory_given_back_gb": "the same, freed given back"}.items():
        row(f"N=128, prompt 2000, T=64: {told}", peaks[name], 0.9, peaks[name] / 0.9, "<= 1")
    return peaks


def peak() -> None:
    """Print the gigabytes that a run adds to the peak resident set after loading and compiling."""
    lm = load()
    Setting(lm, 2, 5, 4).steered()
    setting = Setting(lm, 128, 2000, 64)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    setting.steered()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident) / 1e9)


def imports(repeats: int) -> dict[str, float]:
    """`import feynkac`, which must not load torch."""

    def seconds(module: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-c", f"import {module}"], check=True)
        return time.perf_counter() - began

    ours, python = interleaved(max(repeats, 3), lambda: seconds("feynkac"), lambda: seconds("sys"))
    row("import feynkac: ms, Python's own start taken off", 1e3 * (ours - python), 500, (ours - python) / 0.5, "<= 1")
    return {"import_ms": 1e3 * (ours - python)}


def row(name: str, ours: float, other: float, ratio: float, wanted: str) -> None:
    print(f"{name:<52} {ours:9.2f} {other:9.2f}  ratio {ratio:6.2f}  {wanted}", flush=True)


def load() -> Any:
    import feynkac as fk
    from feynkac.models.language.demo import demo_model_path

    return fk.CausalLM.from_pretrained(str(demo_model_path()), dtype="float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=["short", "long", "growth", "memory", "import"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        return peak()
    lm = load() if {"short", "long", "growth"} & set(arguments.parts) else None
    print(f"{'':<52} {'feynkac':>9} {'other':>9}", flush=True)
    figures: dict[str, Any] = {}
    for part in arguments.parts:
        if part in ("memory", "import"):
            figures |= memory() if part == "memory" else imports(arguments.repeats)
        else:
            figures |= {"short": short, "long": long, "growth": growth}[part](lm, arguments.repeats)
    machine = {"torch": torch.__version__, "threads": arguments.threads, "machine": platform.machine()}
    print(json.dumps({"benchmark": "decode", **machine, **{k: round(v, 3) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
