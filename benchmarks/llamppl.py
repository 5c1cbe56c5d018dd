"""How fast does the no-letter-e program run: with LLaMPPL 0.2.3, unchanged on feynkac, and as a feynkac program?

SmolLM2, N particles, T tokens each. LLaMPPL needs an environment of its own, since it pins other libraries:

    python -m venv .venv-llamppl && .venv-llamppl/bin/pip install llamppl==0.2.3
    python benchmarks/llamppl.py                            # N=32, T=100: some minutes on 2 cores, nearly all theirs
    python benchmarks/llamppl.py --particles 8 --tokens 30

Both sides run the same text of a program, cached prompt and all, `THEIRS`; only its import differs. To make all runs as
long, the end of sequence is ruled out by the first mask. A line of JSON follows the table.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMPT = "The weather today is"
THEIRS = """
import asyncio, json, sys, time
from {package} import CachedCausalLM, LMContext, Model, smc_standard

path, particles, tokens, threads, repeats, options = sys.argv[1], *map(int, sys.argv[2:6]), json.loads(sys.argv[6])
import torch
torch.set_num_threads(threads)

class NoE(Model):
    def __init__(self, lm, prompt, max_tokens):
        super().__init__()
        self.context, self.left = LMContext(lm, prompt), max_tokens
        self.mask = set(i for i, v in enumerate(lm.str_vocab) if "e" not in v.lower()) - {{lm.tokenizer.eos_token_id}}

    async def step(self):
        await self.observe(self.context.mask_dist(self.mask), True)
        await self.sample(self.context.next_token())
        self.left -= 1
        if self.left == 0:
            self.finish()

    def immutable_properties(self):
        return {{"mask"}}

lm = CachedCausalLM.from_pretrained(path, "hf", **options)
lm.batch_size = particles
lm.cache_kv(lm.tokenizer.encode({prompt!r}))
asyncio.run(smc_standard(NoE(lm, {prompt!r}, 2), particles))
best = 0.0
for _ in range(repeats):
    lm.clear_cache()
    lm.cache_kv(lm.tokenizer.encode({prompt!r}))
    began = time.perf_counter()
    texts = [str(p.context) for p in asyncio.run(smc_standard(NoE(lm, {prompt!r}, tokens), particles))]
    best = max(best, particles * tokens / (time.perf_counter() - began))
assert not any("e" in text.lower() for text in texts)
print(json.dumps(best))
"""


def measured(python: str, package: str, arguments: argparse.Namespace, path: Path, repeats: int) -> float:
    """Tokens a second of the program in a process of its own."""
    options: dict[str, Any] = {"hf_opts": {"dtype" if package != "llamppl" else "torch_dtype": "float32"}}
    text = THEIRS.format(package=package, prompt=PROMPT)
    numbers = [str(n) for n in (arguments.particles, arguments.tokens, arguments.threads, repeats)]
    command = [python, "-P", "-W", "ignore", "-c", text, str(path), *numbers, json.dumps(options)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=arguments.limit)
    if out.returncode:
        raise RuntimeError(out.stderr)
    return float(out.stdout.strip().splitlines()[-1])


def ours(arguments: argparse.Namespace, path: Path, repeats: int) -> float:
    """Tokens a second of the same model as a program of feynkac."""
    import time

    import torch

    import feynkac as fk

    torch.set_num_threads(arguments.threads)
    lm = fk.CausalLM.from_pretrained(str(path), dtype="float32")

    def allowed(text: str) -> bool:
        return "e" not in text.lower()

    @fk.program
    def no_e(p: Any, max_tokens: int) -> str:
        text = lm.context(PROMPT)
        while len(text) < max_tokens:
            p.observe(text.mask(allowed), True)
            p.sample(text.next_token())
        return str(text)

    best = 0.0
    for tokens in (2, *[arguments.tokens] * repeats):
        began = time.perf_counter()
        fk.steer(no_e(tokens), particles=arguments.particles, seed=1, progress=False)
        best = max(best, arguments.particles * tokens / (time.perf_counter() - began)) if tokens > 2 else best
    return best


def show(name: str, rates: dict[str, float]) -> None:
    others = [f"{rate / rates[name]:6.1f}x: {other}" for other, rate in rates.items() if other != name]
    print(f"{name:<10} {rates[name]:9.1f} tokens/s  {', '.join(others)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--particles", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of ours, of which the best counts; theirs runs once")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for each side")
    parser.add_argument("--python", default=".venv-llamppl/bin/python", help="of the environment with LLaMPPL")
    arguments = parser.parse_args()
    from feynkac.models.language.demo import demo_model_path

    path = demo_model_path()
    rates = {"program": ours(arguments, path, arguments.repeats)}
    show("program", rates)
    rates["unchanged"] = measured(sys.executable, "feynkac.programs.compat.llamppl", arguments, path, arguments.repeats)
    show("unchanged", rates)
    if Path(arguments.python).exists():
        rates["llamppl"] = measured(arguments.python, "llamppl", arguments, path, 1)
        show("llamppl", rates)
    else:
        print(f"no {arguments.python}: LLaMPPL is left out; see the head of this file")
    machine = {"threads": arguments.threads, "machine": platform.machine()}
    setting = {"particles": arguments.particles, "tokens": arguments.tokens, **machine}
    print(json.dumps({"benchmark": "llamppl", **setting, **{name: round(rate, 2) for name, rate in rates.items()}}))


if __name__ == "__main__":
    main()
