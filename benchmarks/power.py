"""Powers of the law: Var(log Z) of runs that draw from the law itself or from its power, with and without a ramp.

Equal prompts of one batch are the replicates; the variance times the tokens forwarded is what a method costs. Where too
few particles find the likely texts the mean of log Z is low, too.

    python benchmarks/power.py               # SmolLM2, some minutes on two cores
"""

from __future__ import annotations

import argparse

import numpy as np

import feynkac as fk
from feynkac.models.language.demo import demo_model_path
from feynkac.models.language.proposals import Masked

PROMPTS = ("It was a dark and windy night, and", "The capital of France is")
METHODS = (("law", None), ("law", 8), ("power", None), ("power", 4), ("power", 8), ("power", 16))


def measure(lm, prompt: str, alpha: float, ramp, drawn: str, options) -> dict:
    power = fk.power(alpha, ramp)
    proposal = Masked() if drawn == "law" else None  # by default the power guides it
    task = lm.prompt(prompt, max_tokens=options.tokens, proposal=proposal)
    results = fk.steer([task] * options.runs, power, particles=options.particles, seed=options.seed, on_death="return")
    log_z = np.array([result.log_evidence for result in results])
    tokens = np.mean([result.forwarded_tokens for result in results])
    return {
        "prompt": prompt[:12], "alpha": alpha, "drawn from": drawn, "ramp": ramp, "mean log Z": log_z.mean(),
        "Var(log Z)": log_z.var(ddof=1), "tokens": tokens, "Var x tokens": log_z.var(ddof=1) * tokens,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lm = fk.CausalLM.from_pretrained(str(demo_model_path()), dtype="float32")
    for prompt in PROMPTS:
        for alpha in (2.0, 4.0):
            for drawn, ramp in METHODS:
                row = measure(lm, prompt, alpha, ramp, drawn, options)
                print(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)


if __name__ == "__main__":
    main()
