"""The warnings of a result: that they come, that they do not come in vain, and that their advice helps."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import feynkac as fk
from feynkac.results.doubts import list_doubts
from feynkac.smc.diagnostics import Diagnostics

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def doubt(ess=(8.0, 8.0), resampled=(), n=16, never_resamples=False, of_texts=True, **changes) -> list[str]:
    values = {
        "log_parts": [0.0], "part_spread": 0.1, "spread": 0.1, "last_spread": 0.1, "tail": math.nan,
        "heaviest_particle": 0.1, "heaviest_part": 1.0, "ancestors": 9,
    }  # fmt: skip
    found = Diagnostics(**{**values, **changes})
    return list_doubts(found, list(ess), list(resampled), n, never_resamples=never_resamples, of_texts=of_texts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heaviest_particle": 0.7}, "one particle carries 70%"),
        ({"resampled": (1,), "log_parts": [0.0] * 4, "heaviest_part": 0.95}, "one of 4 islands carries 95%"),
        ({"last_spread": 0.5, "tail": 0.9}, "heavy tail, of index 0.9"),
        ({"spread": 2.0, "ancestors": 1}, "foreseen error is 2.0 nats; all particles descend from a single one"),
        ({"ess": (9.0, 1.2)}, "the posterior rests on 1.2 of 16"),
    ],
)
def test_each_reason_is_said(changes, said) -> None:
    (text,) = doubt(**changes)
    assert said in text


def test_nothing_is_said_without_a_reason() -> None:
    assert doubt() == [] and doubt(tail=0.9) == [] and doubt(log_parts=[0.0, 0.0], heaviest_part=0.95) == []
    assert doubt(n=1, ess=(1.0,), heaviest_particle=1.0) == []


def test_the_advice_fits_the_course_of_the_run() -> None:
    late, early = {"spread": 1.5, "last_spread": 1.4, "ess": (16.0, 1.6)}, {"spread": 2.0, "resampled": (1, 2, 3)}
    assert "give the potential a level on the way" in doubt(**late)[0]
    assert "a proposal that knows the target helps most" in doubt(**early)[0]
    assert "then a twist, then" in doubt(**early)[0]
    assert 'then a twist (of latents tempered(reward, "signal", ess=0.9)), then' in doubt(**early, of_texts=False)[0]
    assert "about 256" in doubt(**early)[0]  # 16 particles times (2.0 / 0.5) squared
    assert "algorithm='smc', which resamples" in doubt(**late, never_resamples=True)[0]


def test_warnings_fire_on_twenty_known_problems() -> None:
    """Of runs more than 2 nats off at least 95 % warn, of those within 0.5 at most 10 %: 25 runs of each problem."""
    from evidence import judge, rate, repeat
    from known.problems import make_problems

    rows = [judge(problem, repeat(problem, 25, seed=10_000)) for problem in make_problems()]
    assert len(rows) == 20 and sum(row["far"] for row in rows) > 50 and sum(row["near"] for row in rows) > 200
    assert rate(rows, "far") >= 0.95 and rate(rows, "near") <= 0.10


def test_the_advice_is_right() -> None:
    """Where a problem is hopeless, what its warning asks for brings the error below a third."""
    from evidence import measure_error, repeat
    from known.problems import follow_advice, make_problems

    for problem in make_problems():
        if problem.advised is None:
            continue
        asks = "a level on the way" if isinstance(problem.advised, type(problem.potential)) else "that knows the target"
        warned = [w for result in repeat(problem, 20) for w in result.warnings if "evidence" in w]
        assert sum(asks in w for w in warned) >= 0.8 * len(warned) > 10, problem.name
        before, after = measure_error(problem, 20, seed=0), measure_error(follow_advice(problem), 20, seed=0)
        assert after < before / 3.0, problem.name


def test_a_single_population_says_at_least(capsys) -> None:
    from known.problems import make_problems

    problem = make_problems()[0]
    for options, said in (
        ({"islands": 1}, "it may be higher: islands=4 would show how far"),
        ({"islands": 4}, ", between "),
    ):
        result = fk.steer(problem.model, problem.potential, particles=256, seed=0, **options)
        replace(result, samples=list(range(256))).show()
        shown = capsys.readouterr().out
        assert "(95 % sure)" in shown and said in shown


def test_an_estimate_below_what_is_certain_is_called_too_low(capsys) -> None:
    from known.problems import make_problems

    problem = make_problems()[0]
    result = fk.steer(problem.model, problem.potential, particles=64, seed=0)
    result = replace(result, samples=list(range(64)))
    replace(result, lower_bound=result.log_evidence + 1.0).show()
    assert f"which is too low: by the texts that are known it is at least {result.log_evidence + 1.0:.2f}" in (
        capsys.readouterr().out
    )


def test_the_confidence_is_checked() -> None:
    from known.problems import make_problems

    problem = make_problems()[0]
    result = fk.steer(problem.model, problem.potential, particles=64, seed=0)
    for wrong in (0.0, 1.0, 95):
        with pytest.raises(fk.ArgumentError, match="between 0 and 1"):
            result.log_evidence_interval(wrong)
    narrow, wide = result.log_evidence_interval(0.5), result.log_evidence_interval(0.99)
    assert wide[0] < narrow[0] < result.log_evidence


def test_of_a_run_that_was_stopped_or_biased_no_interval_is_known(capsys) -> None:
    from known.problems import make_problems

    problem = make_problems()[0]
    options = {"particles": 64, "islands": 4, "seed": 0, "observers": [lambda step: step.t == 3]}
    stopped = fk.steer(problem.model, problem.potential, **options)
    assert not stopped.complete and stopped.log_evidence_interval() == (-math.inf, math.inf)
    replace(stopped, samples=list(range(64))).show()
    assert "nats of the target so far" in (shown := capsys.readouterr().out) and "sure" not in shown
    whole = fk.steer(problem.model, problem.potential, particles=64, islands=4, seed=0)
    assert replace(whole, biased=True).log_evidence_interval() == (-math.inf, math.inf)
