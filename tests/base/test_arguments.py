"""Keywords that a function has not: the error names the one that was meant, and nothing else changes."""

from __future__ import annotations

import inspect
import pickle
import traceback
from typing import Any

import pytest

import feynkac as fk
from feynkac.base.arguments import HOMES, NO_NEED, advise_name, suggest_names
from feynkac.base.errors import ArgumentError, UnknownArgument
from feynkac.steering.options import ADVICE, SteerOptions


@pytest.fixture(scope="module")
def lm(tiny_lm) -> Any:
    return tiny_lm()


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UnknownArgument) as caught:
        call(*args, **kwargs)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ArgumentError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("n", "it is called 'particles' here"),
        ("num_particles", "it is called 'particles' here"),
        ("n_particles", "it is called 'particles' here"),
        ("num_return_sequences", "it is called 'particles' here"),
        ("partickles", "did you mean 'particles'?"),
        ("ess_treshold", "did you mean 'ess_threshold'?"),
        ("random_state", "it is called 'seed' here"),
        ("ESSrmin", "it is called 'ess_threshold' here"),
        ("max_new_tokens", "it is 'max_tokens' of lm.prompt(...)"),
        ("max_tokens", "it belongs to lm.prompt(...)"),
        ("temperature", "it belongs to lm.prompt(...)"),
        ("do_sample", "leave it out: tokens are always drawn"),
        ("steps", "max_tokens of lm.prompt(...)"),
        ("prompt", "fk.steer(lm.prompt("),
        ("constraint", "behind the model"),
        ("reward", "behind the model"),
        ("logits_processor", "lm.prompt(...)"),
        ("zzz", "it has model, particles, algorithm"),
    ],
)
def test_a_keyword_that_steer_has_not_is_told_with_the_right_one(lm, given, told) -> None:
    said = refused(fk.steer, lm.prompt("a"), **{given: 8})
    assert said.startswith(f"steer() has no argument '{given}'; ") and told in said


@pytest.mark.parametrize(
    ("call", "given", "told"),
    [
        (lambda lm, **given: lm.prompt("a", **given), "max_new_tokens", "it is called 'max_tokens' here"),
        (lambda lm, **given: lm.prompt("a", **given), "max_tokns", "did you mean 'max_tokens'?"),
        (lambda lm, **given: lm.prompt("a", **given), "stop_strings", "it is called 'stop' here"),
        (lambda lm, **given: lm.prompt("a", **given), "do_sample", "tokens are always drawn"),
        (lambda lm, **given: lm.prompt("a", **given), "particles", "it belongs to fk.steer(...)"),
        (lambda lm, **given: lm.prompt("a", **given), "num_particles", "it is 'particles' of fk.steer(...)"),
        (lambda lm, **given: lm.prompt(**given), "prompt", "it is called 'text' here"),
        (lambda lm, **given: lm.prompt(**given), "messages", "it is called 'chat' here"),
        (lambda lm, **given: fk.CausalLM(lm.model, lm.tokenizer, **given), "eos_token_id", "it is called 'eos' here"),
        (lambda lm, **given: fk.CausalLM.from_pretrained("x", **given), "torch_dtype", "it is called 'dtype' here"),
        (lambda lm, **given: fk.CausalLM.from_pretrained("x", **given), "max_new_tokens", "'max_tokens' of lm.prompt"),
        (lambda lm, **given: fk.regex(**given), "regex", "it is called 'pattern' here"),
        (lambda lm, **given: fk.regex("a", **given), "flags", "it has pattern"),
        (lambda lm, **given: fk.json_schema({}, **given), "whitespce", "did you mean 'whitespace'?"),
        (lambda lm, **given: fk.json_schema(**given), "json_schema", "it is called 'schema' here"),
        (lambda lm, **given: fk.grammar(**given), "cfg", "it is called 'lark' here"),
        (lambda lm, **given: fk.reward(len, **given), "beta", "it is called 'scale' here"),
        (lambda lm, **given: fk.reward(len, **given), "wieght", "it has f, scale"),
        (lambda lm, **given: fk.reward(**given), "function", "it is called 'f' here"),
        (lambda lm, **given: fk.reward(len, **given), "num_workers", "it is called 'workers' here"),
        (lambda lm, **given: fk.phrases(**given), "bad_words", "it is called 'ban' here"),
        (lambda lm, **given: fk.choices(**given), "values", "it is called 'options' here"),
        (lambda lm, **given: fk.check(lm.prompt("a"), **given), "n", "it is called 'particles' here"),
        (lambda lm, **given: fk.program(**given), "max_step", "did you mean 'max_steps'?"),
        (lambda lm, **given: fk.steer(lm.prompt("a", max_tokens=1)).show(**given), "n", "it is called 'rows' here"),
        (lambda lm, **given: fk.steer(lm.prompt("a", max_tokens=1)).sample(**given), "n", "it is called 'k' here"),
        (lambda lm, **given: lm.score("a", ["b"], **given), "ends", "did you mean 'end'?"),
    ],
)  # fmt: skip
def test_a_keyword_of_another_library_is_told_with_ours(lm, call, given, told) -> None:
    said = refused(call, lm, **{given: 3})
    assert f"has no argument '{given}'; " in said and told in said


def test_a_keyword_that_a_program_has_not_is_told_where_it_is_called() -> None:
    @fk.program
    def coin(p, heads=0.5):
        return p.sample(fk.Bernoulli(heads))

    assert "coin() has no argument 'head'; did you mean 'heads'?" in refused(coin, head=1.0)
    assert "it belongs to fk.steer(...)" in refused(coin, particles=4)

    @fk.program
    def open_to_all(p, **given):
        return sorted(given)

    assert fk.steer(open_to_all(particles=4), particles=2).samples == [["particles"]] * 2
    with pytest.raises(TypeError, match="missing a required argument: 'heads'"):
        fk.program(lambda p, heads: heads)()


def test_keywords_that_are_open_reach_whom_they_are_for() -> None:
    """`from_pretrained` hands on what transformers may know, and refuses what only we have a name for."""

    @suggest_names(special="look elsewhere")
    def load(name: str, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    known = {"revision": "main", "attn_implementation": "eager"}
    assert load("x", **known) == known
    assert "it belongs to fk.steer(...)" in refused(load, "x", particles=4)


def test_the_error_is_raised_in_the_call_of_the_user(lm) -> None:
    """The traceback ends two lines behind it."""
    try:
        fk.regex("a", patern="b")
    except UnknownArgument as error:
        frames = traceback.extract_tb(error.__traceback__)
    assert frames[0].filename == __file__ and [frame.name for frame in frames[1:]] == ["checked", "refuse_names"]


def test_signature_name_and_pickle_stay_what_they_are() -> None:
    assert list(inspect.signature(fk.steer).parameters)[:3] == ["model", "potentials", "particles"]
    assert fk.steer.__name__ == "steer" and (fk.steer.__doc__ or "").startswith("Sample from")
    assert pickle.loads(pickle.dumps(fk.regex)) is fk.regex


def test_other_wrong_calls_are_those_of_python(lm) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'pattern'"):
        fk.regex()  # type: ignore
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments"):
        lm.prompt("a", 30)


def test_hints_lead_to_arguments_that_are_there(lm) -> None:
    homes = {
        "fk.steer(...)": fk.steer, "lm.prompt(...)": fk.CausalLM.prompt, "fk.reward(...)": fk.reward,
        "fk.Diffusion.from_pipeline(...)": fk.Diffusion.from_pipeline,
        "fk.CausalLM.from_pretrained(...)": fk.CausalLM.from_pretrained,
    }  # fmt: skip
    assert homes.keys() == HOMES.keys()
    for home, names in HOMES.items():
        assert set(names.split()) <= inspect.signature(homes[home]).parameters.keys(), home
    taken = set(inspect.signature(fk.steer).parameters) - {"potentials"}  # which have no name
    assert not taken & ADVICE.keys() and not taken & NO_NEED.keys()


def test_the_options_of_steer_are_typed_as_steer_is() -> None:
    """`SteerOptions` is what editors and type checkers know: the same keywords, of the same types."""
    given = inspect.get_annotations(SteerOptions)
    told = {name: each.annotation for name, each in inspect.signature(fk.steer).parameters.items()}
    keywords = {name: told[name] for name in list(told)[2:]}
    assert {name: getattr(each, "__forward_arg__", each) for name, each in given.items()} == keywords


def test_a_name_close_to_nothing_is_told_all_that_there_is() -> None:
    assert advise_name("zzz", ["a", "b"]) == "it has a, b" and advise_name("zzz", []) == "it has none by name"
