"""What cannot be saved, or is another run, is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import count_a, set_tiny_lm, writing
from resumed import stop_at

import feynkac as fk
from feynkac.base.errors import ArgumentError
from feynkac.base.memory import Memory
from feynkac.models.diffusion import DiffusionSampler, GaussianMixture, ddpm
from feynkac.models.diffusion.composition import guide
from feynkac.models.diffusion.semantic import Concept, EditedDenoiser, EditedProposal, SemanticGuidance
from feynkac.models.discrete import ChainDenoiser, DiscreteDiffusion, MaskedNoise, Unmask, anneal, cosine
from feynkac.potentials.diffusion import linear, observed
from feynkac.smc.resample import never
from feynkac.steering.checkpoints.places import describe_potentials
from feynkac.steering.problems import read_problems


@pytest.fixture(autouse=True, scope="module")
def _models(tiny_lm) -> None:
    set_tiny_lm(tiny_lm)


@pytest.fixture
def task(tiny_lm) -> Any:
    return tiny_lm("a", "b", "c").prompt("a", max_tokens=8)


@pytest.fixture
def saved(task: Any, tmp_path: Path) -> Path:
    """The checkpoint of a run of that task which was stopped."""
    options = {"particles": 8, "seed": 1, "observers": [stop_at(2)]}
    fk.steer(task, fk.reward(count_a), checkpoint=tmp_path / "run", **options)
    return tmp_path / "run"


# --- before the run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"algorithm": "exact"}, "algorithm='exact': it is one listing"),
        ({"executor": fk.LocalExecutor()}, "with executor=: the pieces of a run"),
    ],
)
def test_a_way_of_sampling_that_is_not_saved_is_refused(task, options, told, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=told):
        fk.steer(task, particles=8, checkpoint=tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


def test_particle_gibbs_over_programs_is_refused_before_it_begins(task, tmp_path) -> None:
    with pytest.raises(ArgumentError, match="with algorithm='gibbs': a Program has paths that cannot be written"):
        fk.steer(writing(task.lm), algorithm="gibbs", checkpoint=tmp_path / "run")
    assert not list(tmp_path.iterdir())


class Silent(fk.CausalLM):
    """A model whose contexts say nothing of being saved."""

    def open(self, prompts: Any, max_new: int) -> Any:
        contexts = super().open(prompts, max_new)
        contexts.save = None  # pyright: ignore[reportAttributeAccessIssue]
        return contexts


@pytest.mark.parametrize("of", ["the model", "an expert", "a proposal"])
def test_a_cache_that_cannot_be_written_is_refused(task, of, tmp_path) -> None:
    silent = Silent(task.lm.model, task.lm.tokenizer, eos=(0,))
    given = {
        "the model": [silent.prompt("a", max_tokens=8)],
        "an expert": [task, fk.expert(silent.prompt("b"))],
        "a proposal": [task.lm.prompt("a", max_tokens=8, proposal=silent.prompt("b"))],
    }
    with pytest.raises(ArgumentError, match="with SharedContexts: what they keep cannot be written"):
        fk.steer(*given[of], particles=8, checkpoint=tmp_path / "run")
    assert not list(tmp_path.iterdir())


class Walk:
    """A model that says nothing of being saved."""

    def init(self, n: int, rng: Any) -> Any:
        return np.zeros(n)

    def step(self, t: int, state: Any, rng: Any) -> Any:
        return state, np.zeros(len(state))

    def done(self, state: Any) -> Any:
        return np.ones(len(state), bool)


def test_a_model_that_cannot_be_saved_is_refused(tmp_path) -> None:
    with pytest.raises(ArgumentError, match="Walk cannot: give it the methods prepare_saving, identify, save and load"):
        fk.steer(Walk(), checkpoint=tmp_path / "run")


def test_a_path_that_is_taken_is_refused(task, saved) -> None:
    before = saved.read_bytes()
    with pytest.raises(ArgumentError, match=r"is there already; fk\.resume"):
        fk.steer(task, fk.reward(count_a), checkpoint=saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "told"),
    [("", " is a folder"), ("none/run", ": there is no folder"), ("long" * 100, " cannot be written: File name too l")],
)
def test_a_path_that_cannot_be_written_to_is_refused(task, path, told, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=f"checkpoint='.*'{told}"):
        fk.steer(task, checkpoint=tmp_path / path)


@pytest.mark.parametrize("given", [3, True, {"path": "run"}])
def test_what_is_no_path_is_refused(task, given) -> None:
    with pytest.raises(ArgumentError, match=r"give a path, or fk\.Checkpoint"):
        fk.steer(task, checkpoint=given)


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1.5}, {"seconds": -1.0}, {"seconds": "soon"}])
def test_an_interval_that_is_none_is_refused(options, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        fk.Checkpoint(tmp_path / "run", **options)


# --- at the first step -----------------------------------------------------------------------------------------------


@fk.program
def keeping(p):
    p.once(object)
    for _ in range(3):
        p.sample(fk.Bernoulli(0.5))
    return 1


def test_a_value_of_a_program_that_cannot_be_written_is_named_at_once(tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"once\(object\) of program 'keeping' has <object") as caught:
        fk.steer(keeping(), checkpoint=tmp_path / "run")
    assert caught.value.step == 0


class Strange:
    """A potential that remembers under a key that no other process knows."""

    def level(self, t: int, state: Any, rows: Any) -> Any:
        memory: Memory = state.memory
        memory.array(object, 0.0)
        return np.zeros(len(rows))

    def final(self, state: Any, rows: Any) -> Any:
        return np.zeros(len(rows))


def test_a_memory_that_cannot_be_written_is_named_at_once(task, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"memory.* is <class 'object'>, which cannot be written"):
        fk.steer(task, Strange(), checkpoint=tmp_path / "run")


# --- another run -----------------------------------------------------------------------------------------------------


def test_another_model_is_refused(saved, tiny_lm) -> None:
    other = tiny_lm("a", "b", "c", seed=1).prompt("a", max_tokens=8)
    with pytest.raises(ArgumentError, match=r"is of another run: model, weights is '.*', and was '"):
        fk.resume(saved, other, fk.reward(count_a))


def test_one_changed_weight_is_another_model(saved, tiny_lm) -> None:
    lm = tiny_lm("a", "b", "c")
    lm.model.get_input_embeddings().weight.data[0, 0] += 1.0
    with pytest.raises(ArgumentError, match="model, weights"):
        fk.resume(saved, lm.prompt("a", max_tokens=8), fk.reward(count_a))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"text": "b"}, "model, prompt is 'b', and was 'a'"),
        ({"max_tokens": 9}, "model, max_tokens is 9, and was 8"),
        ({"temperature": 0.5}, "model, temperature is 0.5, and was 1.0"),
        ({"stop": "c"}, r"model, stop is \['c'\], and was \[\]"),
        ({"at_limit": "end"}, "model, at_limit is 'end', and was 'truncate'"),
    ],
)
def test_another_prompt_is_refused(saved, task, options, told) -> None:
    given = {"text": "a", "max_tokens": 8, **options}
    with pytest.raises(ArgumentError, match=told):
        fk.resume(saved, task.lm.prompt(**given), fk.reward(count_a))


@pytest.mark.parametrize(
    ("potentials", "told"),
    [
        ([], r"is missing \('reward\(count_a\)'\)"),
        ([fk.reward(len)], r"is is 'reward\(len\)', and was 'reward\(count_a\)'"),
        ([fk.reward(count_a, scale=2.0)], "scale is 2.0, and was 1.0"),
        ([fk.reward(count_a), fk.regex("a*")], "was not there"),
    ],
)
def test_other_potentials_are_refused(saved, task, potentials, told) -> None:
    with pytest.raises(ArgumentError, match=told):
        fk.resume(saved, task, *potentials)


@pytest.mark.parametrize("options", [{"particles": 9}, {"seed": 2}, {"islands": 2}, {"algorithm": "importance"},
                                     {"ess_threshold": 0.1}, {"resampler": "systematic"}])  # fmt: skip
def test_another_way_of_sampling_is_refused(saved, task, options) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ArgumentError, match=f"{name} is {value!r}, and was"):
        fk.resume(saved, task, fk.reward(count_a), **options)


def test_the_same_options_may_be_given_again(saved, task) -> None:
    options = {"particles": 8, "seed": 1, "islands": 1, "algorithm": "smc", "ess_threshold": 0.5, "resampler": "ssp"}
    assert fk.resume(saved, task, fk.reward(count_a), **options).complete


def test_another_number_of_problems_is_refused(saved, task) -> None:
    with pytest.raises(ArgumentError, match=r"is missing|was not there"):
        fk.resume(saved, [task, task], fk.reward(count_a))


def test_another_kind_of_model_is_refused(saved, task) -> None:
    with pytest.raises(ArgumentError, match="is of another run"):
        fk.resume(saved, writing(task.lm), fk.reward(count_a))


def test_a_resampler_of_ones_own_is_given_again(task, tmp_path) -> None:
    from feynkac.smc.resample import adaptive, systematic

    mine = adaptive(systematic, 0.9)
    run = {"particles": 8, "seed": 1, "resampler": mine}
    fk.steer(task, fk.reward(count_a), checkpoint=tmp_path / "run", observers=[stop_at(1)], **run)
    with pytest.raises(ArgumentError, match="has a resampler of its own"):
        fk.resume(tmp_path / "run", task, fk.reward(count_a))
    found = fk.resume(tmp_path / "run", task, fk.reward(count_a), resampler=mine)
    whole = fk.steer(task, fk.reward(count_a), **run)
    assert found.log_weights.tobytes() == whole.log_weights.tobytes() and found.samples == whole.samples


def mix_two(scale: float) -> Any:
    one, two = (GaussianMixture([1.0], [[mean, 0.0]], 1.0) for mean in (0.0, 1.0))
    return guide(one, two, scale)


def make_sampler(denoiser: Any, **options: Any) -> DiffusionSampler:
    return DiffusionSampler(denoiser, ddpm(3), (2,), **options)


def edit(scale: float) -> EditedDenoiser:
    mixture = GaussianMixture([1.0], [[0.0, 0.0]], 1.0)
    return EditedDenoiser(mixture, SemanticGuidance(Concept(mixture, scale)))


def make_canvas(seed: int = 0, power: float = 1.0, kernel: Any = None) -> DiscreteDiffusion:
    transition = np.random.default_rng(seed).dirichlet([1.0, 1.0], size=2)
    denoiser = ChainDenoiser(np.array([0.5, 0.5]), transition)
    return DiscreteDiffusion(anneal(denoiser, power), 2, 3, Unmask(3) if kernel is None else kernel)


ALIKE = {
    "the powers of a composition": (make_sampler(mix_two(3.0)), make_sampler(mix_two(5.0))),
    "the scale of a concept": (make_sampler(edit(1.0)), make_sampler(edit(2.0))),
    "whether a proposal weighs": tuple(
        make_sampler(mix_two(1.0), proposal=EditedProposal(edit(1.0).guidance, weighted=weighted))
        for weighted in (True, False)
    ),
    "the power of a canvas": (make_canvas(power=1.0), make_canvas(power=2.0)),
    "the order of a canvas": (make_canvas(), make_canvas(kernel=Unmask(3, order="left"))),
    "the schedule of a canvas": (make_canvas(kernel=MaskedNoise(4)), make_canvas(kernel=MaskedNoise(4, cosine))),
    "what a denoiser says of masks": (make_canvas(seed=0), make_canvas(seed=1)),
}


@pytest.mark.parametrize("what", ALIKE)
def test_models_of_one_kind_and_of_other_laws_are_other_runs(what, tmp_path) -> None:
    was, now = ALIKE[what]
    fk.steer(was, checkpoint=tmp_path / "run", particles=4, seed=0, resampler=never, observers=[stop_at(0)])
    with pytest.raises(ArgumentError, match="is of another run: model, "):
        fk.resume(tmp_path / "run", now, resampler=never)
    fk.resume(tmp_path / "run", was, resampler=never)


LONG = "a" * 100
NAMED_ALIKE: dict[str, Callable[[Any, float], Any]] = {
    "a pattern": lambda lm, x: fk.regex(f"{LONG}{x:g}"),
    "answers": lambda lm, x: fk.choices([LONG, f"{LONG}{x:g}"]),
    "phrases": lambda lm, x: fk.phrases(ban=[LONG, f"{x:g}"]),
    "tokens": lambda lm, x: fk.tokens(ban=[*range(100), int(100 * x)]),
    "a grammar": lambda lm, x: fk.grammar(f'start: "{LONG}{x:g}"'),
    "a schema": lambda lm, x: fk.json_schema({"type": "string", "description": LONG, "minLength": int(100 * x)}),
    "weights of transitions": lambda lm, x: fk.wfsa([("s", "[ab]", "s", -x)], start="s", final="s"),
    "weights of patterns": lambda lm, x: fk.wfsa({LONG: 0.0, "b": -x}),
    "shares of experts": lambda lm, x: fk.mixture([lm.prompt("a"), lm.prompt("b")], [x, 1.0 - x]),
    "steps of a text": lambda lm, x: fk.process_reward(len, every=re.compile(f"{x:g}")),
    "steps of a run": lambda lm, x: fk.reward(len, every=(1, int(100 * x))),
    "what was observed": lambda lm, x: observed(linear(torch.eye(1)), torch.tensor([x]), 0.1),
    "what follows a marker": lambda lm, x: fk.after("b", fk.regex(f"{LONG}{x:g}")),
}


@pytest.mark.parametrize("what", NAMED_ALIKE)
def test_potentials_of_one_name_and_of_other_targets_are_told_apart(what, tiny_lm) -> None:
    lm, make = tiny_lm("a", "b", "c"), NAMED_ALIKE[what]
    was, same, other = (describe_potentials(read_problems(lm.prompt("a"), [make(lm, x)])) for x in (0.25, 0.25, 0.75))
    assert was == same != other
    assert [each["is"] for each in was.values()] == [each["is"] for each in other.values()]
