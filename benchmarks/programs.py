"""What do programs cost, beside the same model steered by a potential, and by themselves?

Runs are interleaved in one process, and medians taken, so that a noisy machine moves both sides alike. One line of
JSON follows the table.

    python benchmarks/programs.py               # all of it, some minutes on 2 cores
    python benchmarks/programs.py alone         # without the language model: seconds
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import feynkac as fk
from feynkac.programs import Bernoulli, Normal, TokenSet, program

PROMPT, TOKENS, PARTICLES = "The weather today is", 100, 32


@program
def no_e(p, lm, prompt, max_tokens):
    text = lm.context(prompt)
    while not text.ended and len(text) < max_tokens:
        token = p.sample(text.next_token())
        p.condition("e" not in token.lower())
    return str(text)


@program
def masked(p, lm, prompt, max_tokens, allowed):
    text = lm.context(prompt)
    while not text.ended and len(text) < max_tokens:
        p.observe(text.mask(allowed), True)
        p.sample(text.next_token())
    return str(text)


@program
def walk(p, steps):
    """A random walk seen through noise: a sample and an observation at each step."""
    x = 0.0
    for _ in range(steps):
        x = p.sample(Normal(0.9 * x, 1.0))
        p.observe(Normal(x, 2.0), 0.5)
    return x


@program
def coins(p, n):
    for _ in range(n):
        p.sample(Bernoulli(0.5))


def interleaved(repeats: int, *measures: Callable[[int], float]) -> list[float]:
    """The median of each measure, taken in turns; the first round warms up and does not count."""
    rounds = []
    for seed in range(repeats + 1):
        rounds.append([measure(seed) for measure in measures])
        gc.collect()
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def against_potentials(lm: Any, repeats: int, tokens: int) -> dict[str, float]:
    """The same law and the same constraint: once checked after the fact, once as a mask."""
    task = lm.prompt(PROMPT, max_tokens=tokens)
    allowed = TokenSet.where(lm.vocabulary, lambda text: "e" not in text.lower())
    allowed |= TokenSet.where(lm.vocabulary, list(lm.vocabulary.eos))
    checked = fk.constraint(lambda text: "e" not in text.lower(), every="token")

    def seconds(model: Any, *potentials: Any) -> Callable[[int], float]:
        def measure(seed: int) -> float:
            began = time.perf_counter()
            result = fk.steer(model, *potentials, particles=PARTICLES, seed=seed, progress=False, on_death="return")
            return (time.perf_counter() - began) / (result.forwarded_tokens or 1)

        return measure

    found = interleaved(
        repeats,
        seconds(no_e(lm, PROMPT, tokens)),
        seconds(task, checked),
        seconds(masked(lm, PROMPT, tokens, allowed)),
        seconds(task, fk.regex("[^eE]*")),
    )
    ours, theirs, mask, regex = (1e3 * x for x in found)
    row("no letter e, condition against constraint: ms a token", ours, theirs, ours / theirs, "<= 1.25")
    row("no letter e, mask against regex: ms a token", mask, regex, mask / regex, "<= 1.25")
    return {"condition_vs_constraint": ours / theirs, "mask_vs_regex": mask / regex}


def alone(repeats: int) -> dict[str, float]:
    """Without a model: N=256, 200 steps, systematic resampling at each; and one replay of 2000 choices."""
    from feynkac.programs.runtime.execution import Execution
    from feynkac.smc.engine import smc
    from feynkac.smc.resample import systematic
    from feynkac.smc.rng import Streams

    def run(seed: int) -> float:
        began, forks = time.perf_counter(), 0
        for step in smc(walk(200), fk.product(), n=256, resample=systematic, rng=Streams(seed)):
            forks += sum(int(parent) != i for i, parent in enumerate(step.rows))
        return time.perf_counter() - began

    model = coins(2001)
    state = model.init(1, Streams(0).at("init", 0))
    for t in range(2000):
        state, _ = model.step(t, state, Streams(0).at("propose", t, (1,)))
    row_ = state.rows[0]

    def replay(seed: int) -> float:
        twin = Execution(state.run, 0, row_.call, row_.tail)
        twin.expected = row_.request
        began = time.perf_counter()
        twin.resume(None)
        return (time.perf_counter() - began) / 2000

    (seconds,) = interleaved(repeats, run)
    (choice,) = interleaved(10 * repeats, replay)
    row("N=256, 200 steps, resampled at each: s", seconds, 1.0, seconds, "<= 1")
    row("replay: microseconds a recorded choice", 1e6 * choice, 1.0, 1e6 * choice, "<= 1")
    return {"alone_seconds": seconds, "replay_microseconds": 1e6 * choice}


def row(name: str, ours: float, other: float, ratio: float, wanted: str) -> None:
    print(f"{name:<56} {ours:9.3f} {other:9.3f}  ratio {ratio:6.2f}  {wanted}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "model", "alone"], default="all")
    parser.add_argument("--model", help="a model's id or folder; by default the one of the demo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    print(f"{'':<56} {'ours':>9} {'other':>9}")
    figures: dict[str, float] = {}
    if options.part in ("all", "alone"):
        figures |= alone(options.repeats)
    if options.part in ("all", "model"):
        from feynkac.models.language.demo import demo_model_path

        lm = fk.CausalLM.from_pretrained(options.model or str(demo_model_path()), dtype="float32")
        figures |= against_potentials(lm, options.repeats, options.tokens)
    figures = {name: round(value, 3) for name, value in figures.items()}
    print(
        json.dumps(
            {
                "benchmark": "programs",
                "python": platform.python_version(),
                "machine": platform.machine(),
                "tokens": options.tokens,
                **figures,
            }
        )
    )


if __name__ == "__main__":
    main()
