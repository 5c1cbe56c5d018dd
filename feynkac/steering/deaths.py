"""Why every particle of a problem died, and what to do."""

from __future__ import annotations

from typing import Any

from feynkac.base.capabilities import LimitsTokens, Tokenised, has, list_factors
from feynkac.base.contract import Rows
from feynkac.base.errors import AllParticlesDied
from feynkac.base.masks import TokenConstraint, count_least
from feynkac.base.numbers import find_shape
from feynkac.results.result import Result
from feynkac.smc.checks import name_of
from feynkac.steering.exclusions import find_contradiction
from feynkac.steering.problems import name_problem
from feynkac.steering.recorder import Recorder, count_notes, show_samples, write_notes


def explain_death(recorder: Recorder, potential: Any) -> str:
    """Why every particle of a group died, as far as the last population tells, and what to do."""
    step, whole = recorder.step, recorder.whole
    assert step is not None and whole is not None
    rows, state = recorder.members, whole.state
    culprits = recorder.verdicts.describe(step, state, rows)
    blamed = "; ".join(culprits) if culprits else "no token was left that every constraint allows"
    vocabulary = state.vocabulary if isinstance(state, Tokenised) else None
    if contradiction := find_contradiction(potential, vocabulary):
        return f"all {len(rows)} particles had died by step {step.t}: {contradiction}"
    advice = "Use more particles, raise max_tokens, or make the constraint or the reward less severe."
    last = show_samples(state, rows)
    blamed = "; ".join([blamed, *_tell_least(state, rows, potential), *write_notes(count_notes(state, rows))])
    if len(find_shape(last[0])) > 1:  # an array says nothing as text
        blamed = "; ".join(culprits) if culprits else "a guess of -inf promised each that it could not have weight"
        advice = "Use more particles, or make the constraint or the reward less severe."
        return f"all {len(rows)} particles had died by step {step.t}: {blamed}. {advice}"
    shown = ", ".join(map(repr, last[:3])) + (f" and {len(last) - 3} more" if len(last) > 3 else "")
    return f"all {len(rows)} particles had died by step {step.t}: {blamed}. Their last states: {shown}. {advice}"


def _tell_least(state: Any, rows: Rows, potential: Any) -> list[str]:
    """How many tokens the constraints take at least, where that is more than there may be."""
    limit = int(state.limits(rows).max()) if has(state, LimitsTokens) else None
    if limit is None or not isinstance(state, Tokenised):
        return []
    masking = [factor for factor in list_factors(potential) if isinstance(factor, TokenConstraint)]
    least = {name_of(factor): count_least(factor.automaton(state.vocabulary)) for factor in masking}
    return [f"'{name}' takes {n} tokens at least" for name, n in least.items() if n > limit]


def raise_if_dead(deaths: list[str | None], results: list[Result]) -> None:
    """Raise AllParticlesDied for the first group without a survivor; the error carries all results."""
    for g, why in enumerate(deaths):
        if why is not None:
            error = AllParticlesDied(name_problem(g, len(deaths)) + why)
            error.partial = results[0] if len(results) == 1 else results
            raise error
