"""Does a steered model help as a proposal? The variance of the log evidence, at equal tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

import feynkac as fk
from behaviours.methods import fit_caa
from behaviours.texts import Behaviour

SCALE = 6.0


def compare_proposals(lm: Any, behaviour: Behaviour, runs: int, particles: int) -> list[dict[str, Any]]:
    """Var(log Z) x tokens of SMC with the reward, tokens drawn from the base, and from a mixture with the edited model.

    A run with the proposal forwards each text twice, and has half of the particles. In brackets of the ratio: the 95 %
    interval of a bootstrap over the runs.
    """
    edit = fit_caa(lm, behaviour)
    question = behaviour.questions[0]
    reward = fk.reward(behaviour.reward, scale=SCALE, every="word")
    edited = question.ask(lm.edited(edit))
    settings = {"base": (question.ask(lm), particles)}
    settings |= {f"CAA, mixed with {mix:g} base": (question.ask(lm, proposal=edited, mix=mix), particles // 2)
                 for mix in (0.1, 0.5)}  # fmt: skip
    rows, rng = [], np.random.default_rng(0)
    pick = rng.integers(0, runs, (1000, runs))
    for name, (task, n) in settings.items():
        found = fk.steer([task] * runs, reward, particles=n, seed=0, progress=False)
        log_z = np.array([each.log_evidence for each in found])
        tokens = float(np.mean([each.forwarded_tokens or 0 for each in found]))
        costs = log_z[pick].var(axis=1, ddof=1) * tokens
        low, high = np.quantile(costs, [0.025, 0.975])
        rows.append(
            {
                "proposal": name,
                "particles": n,
                "runs": runs,
                "tokens a run": tokens,
                "sd of log Z": float(log_z.std(ddof=1)),
                "log of mean Z": float(np.logaddexp.reduce(log_z) - np.log(runs)),
                "Var x tokens": float(log_z.var(ddof=1) * tokens),
                "interval": [float(low), float(high)],
            }
        )
        print(rows[-1], flush=True)
    return rows
