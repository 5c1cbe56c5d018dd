"""What does a token cost under a check that can only be asked about one token: with feynkac, and with genlm-control?

The same checks, the same model file (SmolLM2), the same number of particles, medians of runs in turn. genlm-control
0.4.1 needs an environment of its own:

    python -m venv .venv-genlm && .venv-genlm/bin/pip install genlm-control==0.4.1
    python benchmarks/lazy.py                               # N=16, T=20: some minutes, nearly all theirs
    python benchmarks/lazy.py --peer OTHER/bin/python --particles 8 --tokens 10

A line of JSON follows the table. All times are processor time. A token is one of a particle; they are counted by
spelling the texts anew. Besides the whole time there is that outside of the model's passes, which hooks on the model
take: sampling, checks, and what each side does with logits. genlm-control's default asks for two accepted draws of a
token, as does draws=2.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

PROMPT = "It was a dark and windy night, and"
CHECKS = r'''
import regex

PATTERNS = {
    "date": r" (January|February|March|April|May|June|July|August|September|October|November|December) \d\d?, \d{4}\.",
    "words": r"( [a-z]{2,9})+[.!?]",
    "schema": r' \{"name": "[A-Za-z ]{1,20}", "age": (0|[1-9]\d{0,2}), "tags": \[("[a-z]+"(, "[a-z]+"){0,3})?\]\}',
}
calls = 0
passes = [0.0, 0.0]

def watch(model):
    """Count the seconds that a model of transformers takes."""
    import time
    def begin(*_):
        passes[1] = time.process_time()
    def end(*_):
        passes[0] += time.process_time() - passes[1]
    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end)

def make(name):
    """The check of texts so far, and that of whole ones; each counts."""
    pattern = regex.compile(PATTERNS.get(name, ""))

    def prefix(text):
        global calls
        calls += 1
        return "e" not in text.lower() if name == "no e" else pattern.fullmatch(text, partial=True) is not None

    def complete(text):
        global calls
        calls += 1
        return "e" not in text.lower() if name == "no e" else pattern.fullmatch(text) is not None

    return prefix, complete
'''
NAMES = ("no e", "words", "date", "schema")
THEIRS = """
import asyncio, json, math, sys, time
import torch
torch.set_num_threads(int(sys.argv[4]))
from genlm.control import AWRS, Potential, PromptedLLM

class Check(Potential):
    def __init__(self, name):
        super().__init__(list(range(256)))
        self.checks = make(name)

    async def prefix(self, context):
        return 0.0 if self.checks[0](bytes(context).decode("utf-8", "ignore")) else -math.inf

    async def complete(self, context):
        return 0.0 if self.checks[1](bytes(context).decode("utf-8", "ignore")) else -math.inf

path, particles, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
llm = PromptedLLM.from_name(path, backend="hf")
watch(llm.model.model)
llm.set_prompt_from_str(sys.argv[5])
samplers = {name: AWRS(llm, Check(name).coerce(llm, f=b"".join)) for name in json.loads(sys.argv[6])}

def run(name, tokens):
    return asyncio.run(samplers[name].smc(n_particles=particles, ess_threshold=0.5, max_tokens=tokens))

for line in sys.stdin:
    name, warm = json.loads(line)
    calls, passes[0] = 0, 0.0
    began = time.process_time()
    try:
        result, error = run(name, 2 if warm else tokens), None
        texts = [b"".join(bytes(token) for token in context if isinstance(getattr(token, "byte_string", token), bytes))
                 .decode("utf-8", "replace") for context in result.contexts]
    except Exception as raised:
        error, texts = f"{type(raised).__name__}: {raised}", []
    print(json.dumps([time.process_time() - began, passes[0], calls, texts, error]), flush=True)
"""


class Peer:
    """A process of genlm-control that runs what it is told."""

    def __init__(self, arguments: argparse.Namespace, path: Path) -> None:
        numbers = [str(n) for n in (arguments.particles, arguments.tokens, arguments.threads)]
        command = [
            arguments.peer,
            "-W",
            "ignore",
            "-c",
            CHECKS + THEIRS,
            str(path),
            *numbers,
            PROMPT,
            json.dumps(NAMES),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, name: str, warm: bool = False) -> list[Any]:
        """Seconds, those in the model, calls of the check, texts, and what was raised."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([name, warm]), file=self._process.stdin, flush=True)
        while line := self._process.stdout.readline():
            if line.startswith("["):
                return json.loads(line)
        raise RuntimeError("the process of genlm-control has ended")


class Ours:
    """The same on feynkac."""

    def __init__(self, arguments: argparse.Namespace, lm: Any, checks: dict[str, Any], draws: int) -> None:
        self._lm, self._checks, self._draws = lm, checks, draws
        self._particles, self._tokens = arguments.particles, arguments.tokens

    def run(self, name: str, warm: bool = False) -> list[Any]:
        """The same of feynkac. The constraint is new, and knows no verdicts."""
        import time

        import feynkac as fk

        self._checks["calls"], self._checks["passes"][0] = 0, 0.0
        began = time.process_time()
        prefix, complete = self._checks["make"](name)
        task = self._lm.prompt(PROMPT, max_tokens=2 if warm else self._tokens, at_limit="end")
        result = fk.steer(
            task, fk.lazy(prefix, accepts=complete, draws=self._draws), particles=self._particles, on_death="return"
        )
        return [time.process_time() - began, self._checks["passes"][0], self._checks["calls"], list(result.texts), None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".venv-genlm/bin/python", help="the interpreter that has genlm-control")
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--checks", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    import feynkac as fk
    from feynkac.models.language.demo import demo_model_path

    path = demo_model_path()
    torch.set_num_threads(arguments.threads)
    lm, checks = fk.CausalLM.from_pretrained(str(path)), dict[str, Any]()
    exec(CHECKS, checks)
    checks["watch"](lm.model)
    sides: dict[str, Any] = {f"feynkac, draws={k}": Ours(arguments, lm, checks, k) for k in (2, 4)}
    if Path(arguments.peer).exists():
        sides["genlm-control"] = Peer(arguments, path)
    else:
        print(f"no {arguments.peer}: feynkac runs alone (see the top of this file)")
    table: dict[str, dict[str, Any]] = {}
    for name in arguments.checks:
        runs: dict[str, list[Any]] = {side: [] for side in sides}
        for side in sides.values():
            side.run(name, warm=True)
        for _ in range(arguments.repeats):
            for side, runner in sides.items():
                seconds, inside, calls, texts, error = runner.run(name)
                if error is not None:
                    print(f"{side} on {name!r}: {error}")
                    continue
                tokens = sum(len(lm.spell(text)) + 1 for text in texts)
                runs[side].append((1e3 * seconds / tokens, 1e3 * (seconds - inside) / tokens, calls / tokens))
        table[name] = {side: [statistics.median(x) for x in zip(*some, strict=True)] for side, some in runs.items()}
        for side, some in table[name].items():
            told = "{:8.2f} ms, {:8.2f} ms outside of the model, {:7.2f} calls a token".format(*some) if some else "-"
            print(f"{name:8} {side:18} {told}")
    print(json.dumps({"benchmark": "lazy", "machine": platform.machine(), **vars(arguments), "table": table}))


if __name__ == "__main__":
    main()
