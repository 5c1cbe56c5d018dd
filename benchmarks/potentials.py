"""What constraints cost: masks of a batch, compiling for a large vocabulary, memory of what is remembered.

128 particles draw from a fixed law under the masks (a token's mass falls with its id, as in a vocabulary of merges), so
that texts differ and no model is needed. Times are the CPU's. Warm: the same constraint has run before, on other texts.
One line of JSON follows the tables.

    python benchmarks/potentials.py             # all of it, some three minutes on 2 cores
    python benchmarks/potentials.py masks       # one section: masks, compiling, memory

A section is a function without arguments that prints its table and returns its numbers: add it to `SECTIONS`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

import feynkac as fk
from feynkac.base.masks import TokenAutomaton, mask_within, unpack
from feynkac.base.vocabulary import Vocabulary

PARTICLES, STEPS, RUNS = 128, 40, 5
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def brackets(depth: int, byte: bytes) -> int | None:
    """Brackets that close, at most 9 deep."""
    depth += {b"(": 1, b")": -1}.get(byte, 0)
    return depth if 0 <= depth <= 9 else None


def banned_words(n: int) -> list[str]:
    """Words such as lists of bad ones hold."""
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwypvbgk")
    return sorted({"".join(rng.choice(letters, size=rng.integers(5, 12))) for _ in range(n)})


CONSTRAINTS: dict[str, Callable[[], Any]] = {
    'regex("[^eE]*")': lambda: fk.regex("[^eE]*"),
    'regex(".{0,2000}")': lambda: fk.regex(".{0,2000}"),
    r'regex(r"(\w{1,20} ){3,8}\w+\.")': lambda: fk.regex(r"(\w{1,20} ){3,8}\w+\."),
    "choices of 1,000 texts": lambda: fk.choices([f"option {i}: {i * 7919 % 1000}" for i in range(1000)]),
    "phrases, 5,000 banned": lambda: fk.phrases(ban=banned_words(5000), ignore_case=True),
    "length in sentences": lambda: fk.length(min=2, max=5, unit="sentence"),
    "wfsa of 2 states (mask)": lambda: fk.wfsa([("s", "[^e]", "s", -0.1), ("s", "e", "t", 0.5)], "s", "t").factors[0],
    "parser of 10 states": lambda: fk.parser(brackets, 0, lambda depth: depth == 0),
    "canonical": fk.canonical,
    "json_schema of three properties": lambda: fk.json_schema(SCHEMA),
}


@cache
def smollm2() -> Vocabulary:
    """The vocabulary of SmolLM2, 49,152 tokens."""
    from tokenizers import Tokenizer

    from feynkac.models.language.demo import demo_model_path

    return Vocabulary.from_tokenizer(Tokenizer.from_file(str(demo_model_path() / "tokenizer.json")), eos=[0, 2])


def walk(automaton: TokenAutomaton, seed: int, limit: int = 200) -> Iterator[tuple[float, float, int]]:
    """Milliseconds of masks and of advance, and the number of distinct states, of each step of a batch."""
    vocabulary, rng = smollm2(), np.random.default_rng(seed)
    law = 1.0 / (10.0 + np.arange(vocabulary.size))
    states = np.full(PARTICLES, automaton.start, dtype=np.int64)
    for t in range(STEPS):
        began = time.process_time()
        distinct, inverse = np.unique(states, return_inverse=True)
        masks = mask_within(automaton, distinct, np.full(len(distinct), limit - t))
        masked = time.process_time()
        weight = unpack(masks, vocabulary.size) * law
        weight[:, vocabulary.ends] = 0.0
        total = weight.cumsum(axis=1)
        drawn = np.array([np.searchsorted(total[i], rng.random() * total[i, -1], side="right") for i in inverse])
        drawn = np.minimum(drawn, vocabulary.size - 1)
        before = time.process_time()
        after = automaton.advance(states, drawn)
        yield 1e3 * (masked - began), 1e3 * (time.process_time() - before), len(distinct)
        states = np.where(after >= 0, after, automaton.start)  # a text that has ended begins anew


def measure_masks() -> dict[str, Any]:
    """Each constraint over the vocabulary of SmolLM2: what a step of the batch takes."""
    vocabulary, numbers = smollm2(), {}
    print(f"\n{PARTICLES} particles, {vocabulary.size:,} tokens; ms a step, medians of {RUNS * STEPS} warm steps")
    print(f"{'':36}{'compile, s':>12}{'cold masks':>12}{'masks':>10}{'advance':>10}{'states':>8}")
    for name, make in CONSTRAINTS.items():
        began = time.process_time()
        automaton = make().automaton(vocabulary)
        compiled = time.process_time() - began
        cold = statistics.mean(step[0] for step in walk(automaton, 0))
        steps = [step for run in range(1, RUNS + 1) for step in walk(automaton, run)]
        masks, advance, states = (statistics.median(column) for column in zip(*steps, strict=True))
        print(f"{name:36}{compiled:12.2f}{cold:12.2f}{masks:10.3f}{advance:10.3f}{states:8.0f}")
        numbers[name] = {"compile_s": compiled, "cold_ms": cold, "masks_ms": masks, "advance_ms": advance}
    return numbers


def make_large(size: int = 128_000) -> Vocabulary:
    """A vocabulary of distinct tokens: those of SmolLM2, and pairs of them."""
    rng, tokens = np.random.default_rng(0), dict.fromkeys(token for token in smollm2().tokens if token)
    ids = np.flatnonzero(smollm2().with_text)
    while len(tokens) < size - 1:
        left, right = (smollm2().tokens[int(i)] for i in rng.choice(ids, 2))
        tokens.setdefault((left + right)[:16])
    return Vocabulary((b"", *tokens), (0,))


def measure_compiling() -> dict[str, Any]:
    """Seconds to the first mask over 128,000 tokens, what is made once for the vocabulary included."""
    numbers = {}
    for make in CONSTRAINTS.values():  # compiled code is loaded
        make().automaton(smollm2()).masks(np.zeros(1, dtype=np.int64))
    print("\nseconds to the first mask, 128,000 tokens that no constraint has seen")
    for name, make in CONSTRAINTS.items():
        if name == "canonical":
            continue  # of a tokenizer only
        vocabulary, constraint = make_large(), make()
        began = time.process_time()
        automaton = constraint.automaton(vocabulary)
        automaton.masks(np.array([automaton.start], dtype=np.int64))
        numbers[name] = time.process_time() - began
        print(f"{name:36}{numbers[name]:12.2f}")
    return numbers


def measure_memory() -> dict[str, Any]:
    """MB that a constraint holds after it was asked for the masks of very many states."""
    vocabulary, numbers = smollm2(), {}
    makers = {
        'regex(".{0,20000}"), all states': (lambda: fk.regex(".{0,20000}"), 20_000),
        "phrases, 5,000 banned": (lambda: fk.phrases(ban=banned_words(5000)), 10_000),
        "parser, all states different": (lambda: fk.parser(lambda text, byte: (text + byte)[-9:], b""), 40),
        "canonical": (fk.canonical, 10_000),
    }
    print("\nMB held after the masks of so many states")
    for name, (make, n) in makers.items():
        tracemalloc.start()
        automaton = make().automaton(vocabulary)
        states = np.array([automaton.start], dtype=np.int64)
        for i in range(n):
            automaton.masks(states if name.startswith("parser") else np.array([i], dtype=np.int64))
            if name.startswith("parser"):
                states = automaton.advance(states, np.array([1000 + i]))
        numbers[name] = tracemalloc.get_traced_memory()[0] / 1e6
        tracemalloc.stop()
        print(f"{name:36}{n:12,}{numbers[name]:12.1f}")
    return numbers


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "masks": measure_masks,
    "compiling": measure_compiling,
    "memory": measure_memory,
}


def main() -> None:
    """Print the tables of some sections, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="all of them unless some are named")
    chosen = parser.parse_args().sections or list(SECTIONS)
    numbers = {name: SECTIONS[name]() for name in chosen}
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    print(json.dumps({"feynkac": fk.__version__, **machine, **numbers}))


if __name__ == "__main__":
    sys.exit(main())
