"""Kinds of language models with ways to run them, by enumeration.

Edited models, ensembles and bytes of them meet moves, masks, laziness, powers, proposals of prompts, and each other in
one batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from edited_models import Remembered, wild
from test_language_model import last
from toys import find_kernel, sum_over_runs

import feynkac as fk
from feynkac.models.language.lm import CausalLM
from feynkac.smc.conditional import csmc, select
from feynkac.smc.engine import smc
from feynkac.smc.redraws import Redraw
from feynkac.smc.rejuvenation import Rejuvenation
from feynkac.smc.resample import islands, never, shrink, systematic
from feynkac.steering.problems import read_problems


@pytest.fixture(autouse=True)
def _known(monkeypatch: Any) -> None:
    found: dict[Any, Any] = {}
    monkeypatch.setattr(CausalLM, "_open", lambda lm, prompts, edits, max_new: Remembered(found, lm, prompts, edits))


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Any:
    return tiny_lm("a", "b", seed=3)


def make(kind: str, lm: Any, limit: int = 3, text: str = "a", **options: Any) -> Any:
    edited = wild(lm)
    if kind == "edited":
        return edited.prompt(text, max_tokens=limit, **options)
    if kind == "an ensemble with an edited member":
        given = [lm.prompt(text, max_tokens=limit, **options), edited.prompt("b"), lm.prompt("b", temperature=0.5)]
        return fk.ensemble(given, [1.5, -0.5, 0.5])
    return fk.bytewise(edited, beam=None).prompt(text, max_tokens=limit, **options)


KINDS = ("edited", "an ensemble with an edited member", "bytes of an edited model")


def list_masses(task: Any) -> dict[tuple[int, ...], float]:
    """The mass of every text, in float64, from the logits that runs see, text by text."""
    prompt, vocabulary = task.prompts[0], task.lm.vocabulary
    ends, found, front = list(vocabulary.eos), dict[tuple[int, ...], float](), {(): 1.0}
    for k in range(prompt.max_tokens + 1):
        longer = {}
        for ids, mass in front.items():
            if any(stop in vocabulary.bytes(ids) for stop in prompt.stop) or (
                k == prompt.max_tokens and prompt.at_limit == "truncate"
            ):
                found[ids] = mass
                continue
            p = find_law(task, ids)
            found[ids] = mass * p[ends].sum()
            longer |= {(*ids, v): mass * p[v] for v in np.flatnonzero(p).tolist() if v not in ends}
        front = longer if k < prompt.max_tokens else {}
    return found


def find_law(task: Any, ids: tuple[int, ...]) -> np.ndarray:
    contexts = task.lm.open_prompts(task.prompts, 8)
    logits = contexts.start()
    for token in ids:
        logits = contexts.extend(np.array([0]), np.array([token]))
    scaled = logits[0].double().numpy() / task.prompts[0].law.temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled))


def check(source: Any, potentials: Any, weighs: Any, n: int = 1, moves: Any = None, choose: Any = systematic) -> None:
    """E[Z] = Z and E[sum w 1{x}] = Z P(x) for every text x of every problem.

    `weighs`: for each problem a function of a text and of its mass under the model. `moves`: steps between moves,
    block, tail, and chains. `choose`: how more than one particle is resampled.
    """
    problems = read_problems(source, potentials)
    model, potential = problems.join(), problems.weigh()
    targets = []
    for task, weigh in zip(problems.models, weighs, strict=True):
        target: dict[str, float] = {}
        for ids, mass in list_masses(task).items():
            text = task.lm.vocabulary.text(ids)
            target[text] = target.get(text, 0.0) + mass * weigh(text, mass)
        targets.append(target)
    rejuvenation: Any = ()
    if moves is not None:
        every, block, tail, chains = moves
        waste_free = () if chains is None else (shrink(systematic, chains), n // chains)
        rejuvenation = Rejuvenation(Redraw(model, potential, block, tail), every, *waste_free)

    def run(rng: Any) -> list[Any]:
        resample = choose if n > 1 else never
        step = last(smc(model, potential, n=[n] * len(targets), resample=resample, rng=rng, moves=rejuvenation))
        found = []
        for part, target in zip(step.groups, targets, strict=True):
            texts = step.state.texts(range(part.start, part.stop))
            found += [np.exp(step.log_weight[part]) @ [text == each for each in texts] for text in target]
        return found

    mean = np.split(sum_over_runs(run), np.cumsum([len(target) for target in targets])[:-1])
    for some, target in zip(mean, targets, strict=True):
        z = sum(target.values())
        np.testing.assert_allclose(some / z, np.array(list(target.values())) / z, rtol=0, atol=1e-6)


def reward(text: str) -> float:
    return math.exp(0.7 * text.count("b"))


REWARD = fk.reward(lambda text: 0.7 * text.count("b"))
WAYS: dict[str, Any] = {
    "redrawn behind a mask": ((1, (2, 1, 0, None)), {}, [REWARD, fk.regex("a*b?a*")],
                              lambda text, _: reward(text) * (text.count("b") < 2)),
    "waste-free": ((2, (2, 1, 0, 1)), {}, [REWARD, fk.regex("aab|abb|bab")],
                   lambda text, _: reward(text) * (text in ("aab", "abb", "bab"))),
    "redrawn, with an end that is forced": ((1, (2, 1, 0, None)), {"at_limit": "end"},
                                            [REWARD, fk.constraint(lambda text: len(text) != 1)],
                                            lambda text, _: reward(text) * (len(text) != 1)),
    "redrawn, with a stop string": ((1, (2, 1, 0, None)), {"stop": ["ba"]}, [REWARD], lambda text, _: reward(text)),
    "redrawn under a power": ((1, (2, 1, 0, None)), {}, [fk.power(1.7, 3), fk.regex("[ab]{3}|[ab]")],
                              lambda text, mass: (len(text) in (1, 3)) * mass**0.7),
    "redrawn before a tail": ((1, (3, 1, 1, None)), {}, [REWARD, fk.regex("a*b?a*")],
                              lambda text, _: reward(text) * (text.count("b") < 2)),
    "redrawn along a list": ((1, (2, 1, 0, None)), {}, [fk.choices(["aba", "abb", "b"]), REWARD],
                             lambda text, _: reward(text) * (text in ("aba", "abb", "b"))),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_exact_in_every_way_to_run_it(lm: Any, kind: str, way: str) -> None:
    (n, moves), options, potentials, weigh = WAYS[way]
    if kind.startswith("an ensemble") and "stop" in options:
        options = {}
    check(make(kind, lm, **options), potentials, [weigh], n, moves)


def propose(kind: str, lm: Any, mix: float = 0.2, limit: int = 2, **options: Any) -> Any:
    """A prompt that draws from another of this kind."""
    base = fk.bytewise(lm, beam=None) if kind.startswith("bytes") else lm
    proposal = make(kind, lm, text="b")
    return base.prompt("a", max_tokens=limit, proposal=proposal, mix=mix, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_proposes_for_a_lazy_target(lm: Any, kind: str) -> None:
    weigh = lambda text, _: reward(text) * (text != "a")  # noqa: E731
    check(propose(kind, lm, limit=1), [fk.lazy(lambda text: text != "a"), REWARD], [weigh])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_proposes_beside_others_in_one_batch(lm: Any, kind: str) -> None:
    """Three problems: two with a proposal each, one along a list with none."""
    one, two = propose(kind, lm, limit=1), propose(kind, lm, mix=0.6, limit=2)
    third = (fk.bytewise(lm, beam=None) if kind.startswith("bytes") else lm).prompt("b", max_tokens=1)
    third = third if third.lm is one.lm else one.lm.prompt("b", max_tokens=1)
    two = two if two.lm is one.lm else one.lm.prompt("a", max_tokens=2, proposal=make(kind, lm, text="b"), mix=0.6)
    check(
        [one, (two, fk.regex("a|b|ab")), (third, fk.choices(["a", "b"]))],
        [REWARD],
        [
            lambda text, _: reward(text),
            lambda text, _: reward(text) * (text in ("a", "b", "ab")),
            lambda text, _: reward(text) * (text in ("a", "b")),
        ],
    )


def test_edited_and_plain_prompts_of_one_batch_are_redrawn_on_islands(lm: Any) -> None:
    """Two problems of two particles, each of which is an island of its own."""
    pair = [(make("edited", lm, 1), fk.regex("a|b")), (lm.prompt("b", max_tokens=1), fk.regex("b?"))]
    weighs = [lambda text, _: reward(text) * (text in ("a", "b")), lambda text, _: reward(text) * (text in ("", "b"))]
    check(pair, [REWARD], weighs, 2, (1, 1, 0, None), islands(systematic, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_particle_gibbs_keeps_the_posterior_of_every_kind_of_model(lm: Any, kind: str) -> None:
    batch = read_problems([(make(kind, lm, 1), REWARD)], ())
    model: Any = batch.join()
    potential = batch.weigh()
    vocabulary = batch.models[0].lm.vocabulary
    masses = {ids: mass * reward(vocabulary.text(ids)) for ids, mass in list_masses(batch.models[0]).items()}
    paths = [ids or (vocabulary.eos[0],) for ids in masses]
    pi = np.array(list(masses.values())) / sum(masses.values())

    def sweep(rng: Any, path: Any) -> Any:
        step = last(csmc(model, potential, np.array(path), n=2, rng=rng))
        return tuple(model.trace(step.state, select(step, rng)).tolist())

    np.testing.assert_allclose(pi @ find_kernel(sweep, paths), pi, rtol=0, atol=1e-6)
