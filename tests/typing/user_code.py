# pyright: strict
# pyright: reportUnusedExpression=false, reportUnusedFunction=false
"""What a user writes, checked by pyright in `make lint`: types are what an editor shows, and none is Any by accident.

It is never run. A `type: ignore` that is not needed any more is an error: each marks what must be refused.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import feynkac as fk
from feynkac.models.language.prompted import Prompted
from feynkac.potentials import Factor
from feynkac.potentials.diffusion import tempered
from feynkac.programs import Particle, Program


def steer_prompts(lm: fk.CausalLM) -> None:
    task = assert_type(lm.prompt("The weather today is", max_tokens=30, temperature=0.8), Prompted)
    result = assert_type(fk.steer(task, fk.regex(r"[^eE]*"), particles=32, islands=4, seed=0), fk.Result)
    assert_type(fk.steer([task, task], algorithm="beam"), list[fk.Result])
    assert_type(fk.steer([(task, fk.regex("a")), (task, fk.regex("b"))]), list[fk.Result])
    assert_type(result.texts, list[str])
    assert_type(result.weights, NDArray[np.float64])
    assert_type(result.log_evidence, float)
    assert_type(result.log_evidence_interval(), tuple[float, float])
    assert_type(result.history, fk.History)
    assert_type(result.warnings, list[str])
    assert_type(result.posterior(), Mapping[Any, float])
    assert_type(result.sample(3), list[Any])
    assert_type(result.expectation(count_commas), float)
    assert_type(lm.score(task, ["a", "b"]), NDArray[np.float64])
    fk.steer(task, partickles=32)  # type: ignore
    fk.steer(task, particles="many")  # type: ignore
    fk.steer(task, algorithm="lottery")  # type: ignore
    lm.prompt("The weather", max_new_tokens=3)  # type: ignore
    fk.regex()  # type: ignore


def combine_potentials(lm: fk.CausalLM) -> None:
    calm = assert_type(fk.regex(r"[^!?]*") * fk.reward(count_commas) ** 0.5, Factor)
    assert_type(calm * count_commas, Factor)
    assert_type(fk.product(calm, count_commas), Factor)
    assert_type(fk.expert(lm.prompt("A desert.")) * calm, Factor)
    fk.reward(count_commas, every=3, kind="max")
    fk.reward(count_commas, kind="mean")  # type: ignore


def count_commas(text: str) -> float:
    return -0.1 * text.count(",")


@fk.program
def verdict(p: Particle, lm: fk.CausalLM, claim: str, tokens: int = 20) -> tuple[str, bool]:
    text = lm.context(f"Claim: {claim}\nTrue or false? Answer:")
    answer = assert_type(p.sample(text.gen(choices=[" true", " false"])), str)
    assert_type(p.sample(text.next_token()), fk.Token)
    assert_type(p.sample(fk.Normal()), float)
    assert_type(p.once(len, answer), int)
    return answer, assert_type(p.sample(fk.Bernoulli(0.5)), bool)


@fk.program(max_steps=100)
def nested(p: Particle, lm: fk.CausalLM) -> str:
    assert_type(verdict(p, lm, "The moon is made of cheese."), tuple[str, bool])
    answer, _ = assert_type(p.call(verdict, lm, "The sky is green.", tokens=3), tuple[str, bool])
    return answer


def steer_programs(lm: fk.CausalLM) -> None:
    task = assert_type(verdict(lm, "The moon is made of cheese."), Program)
    assert_type(fk.steer(task, particles=16), fk.Result)
    assert_type(nested(lm), Program)
    verdict(lm)  # type: ignore
    verdict(lm, "The moon", tokenz=3)  # type: ignore
    verdict(lm, 3)  # type: ignore


def steer_images(f: Callable[[Any], float], folder: Path) -> None:
    model = assert_type(fk.Diffusion.demo(steps=20), fk.Diffusion)
    result = assert_type(fk.steer(model, fk.reward(f, scale=60.0)), fk.Result)
    fk.steer(model, tempered(fk.reward(f, scale=60.0), "signal", ess=0.9))
    tempered(fk.reward(f), "noise")  # type: ignore
    assert_type(result.save_images(folder), list[Path])
    result.to_json(folder / "result.json")
    assert_type(fk.Result.from_json(folder / "result.json"), fk.Result)


def load_models() -> None:
    assert_type(fk.CausalLM.demo(), fk.CausalLM)
    assert_type(fk.CausalLM.from_pretrained("a hub id", dtype="bfloat16"), fk.CausalLM)
    assert_type(fk.bound_evidence(fk.CausalLM.demo().prompt("a"), runs=8), fk.EvidenceBounds)
    assert_type(fk.__version__, str)
    try:
        fk.steer(fk.CausalLM.demo().prompt("a"))
    except fk.AllParticlesDied as error:
        assert_type(error.step, int | None)
