"""Arguments that a function has not: which one was meant, told where the call is."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

from feynkac.base.errors import UnknownArgument, quote

F = TypeVar("F", bound=Callable[..., Any])

# What other libraries and their papers call it, after what it is called here: of several, the first that there is.
_FOREIGN = {
    ("particles", "texts", "k", "rows", "most", "runs"): (
        "n N num_particles n_particles nparticles num_samples n_samples num_return_sequences num_beams beam_size "
        "best_of population_size count size"
    ),
    ("max_tokens", "steps"): (
        "max_new_tokens max_length max_new_length max_completion_tokens num_tokens n_tokens max_steps"
    ),
    ("steps", "max_tokens"): "num_inference_steps num_steps n_steps timesteps",
    ("stop", "until"): "stop stop_strings stop_sequences stop_words stop_at until",
    ("chat",): "messages conversation system system_prompt",
    ("tokens",): "input_ids token_ids prompt_token_ids prompt_ids ids",
    ("text", "model", "prompts"): "prompt inputs input prompt_text",
    ("temperature",): "temp",
    ("repetition_penalty",): "frequency_penalty presence_penalty",
    ("seed",): "random_state random_seed rng generator manual_seed",
    ("ess_threshold",): "threshold ess_thr ess_min ESSrmin ess_limit resample_threshold",
    ("resampler",): "resample resampling resampling_method resampling_scheme resample_method",
    ("algorithm",): "method sampler strategy inference",
    ("observers",): "callback callbacks collect collectors hooks",
    ("progress",): "verbose progress_bar show_progress use_tqdm",
    ("islands",): "n_islands num_islands n_chains num_chains populations",
    ("sweeps",): "n_sweeps num_sweeps n_iterations iterations",
    ("dtype",): "torch_dtype precision",
    ("eos",): "eos_token eos_token_id stop_token_ids",
    ("eta",): "noise stochasticity",
    ("prompt",): "text",
    ("pattern",): "regex regexp expression",
    ("schema",): "json_schema output_type response_format",
    ("lark",): "grammar cfg ebnf",
    ("options",): "choices values answers allowed",
    ("ban",): "bad_words bad_words_ids banned forbidden exclude",
    ("require",): "force_words required include must_include",
    ("f",): "fn func function reward reward_fn reward_func reward_function scorer score_fn predicate verifier",
    ("scale", "power"): "beta weight coefficient lmbda temperature_scale strength",
    ("kind",): "potential potential_type potential_kind",
    ("every",): "interval resample_every resample_frequency when unit frequency",
    ("alpha",): "exponent power gamma",
    ("workers",): "num_workers n_workers max_workers n_jobs threads num_threads",
    ("retries",): "max_retries n_retries num_retries",
    ("timeout",): "time_limit max_time",
}  # fmt: skip
_OURS: dict[str, list[tuple[str, ...]]] = {}
for _names, _foreign in _FOREIGN.items():
    for _name in _foreign.split():
        _OURS.setdefault(_name, []).append(_names)

HOMES = {
    "fk.steer(...)": (
        "particles algorithm resampler ess_threshold islands sweeps moves on_death observers executor budget"
    ),
    "lm.prompt(...)": (
        "max_tokens stop chat at_limit temperature top_k top_p min_p repetition_penalty no_repeat_ngram_size "
        "logits_processor proposal tools documents template"
    ),
    "fk.Diffusion.from_pipeline(...)": "steps eta",
    "fk.CausalLM.from_pretrained(...)": "dtype device eos",
    "fk.reward(...)": "scale every",
}
"""Who has the arguments that are most often given to somebody else."""
_HOME = {name: home for home, names in HOMES.items() for name in names.split()}

NO_NEED = {
    "do_sample": "leave it out: tokens are always drawn, from the law that temperature, top_k and top_p make",
    "logits": "a model is asked for its logits by itself; wrap it, fk.CausalLM(model, tokenizer)",
    "early_stopping": "leave it out: a text ends as its prompt says, lm.prompt(..., max_tokens=, stop=)",
    "pad_token_id": "leave it out: nothing is padded",
    "use_cache": "leave it out: what was forwarded is always kept",
    "length_penalty": "leave it out, and weigh lengths with fk.length or a reward",
    "generation_config": "give what it says to lm.prompt(...): max_tokens, temperature, top_k, top_p and so on",
}
"""What has no counterpart here, and what to do instead."""


def suggest_names(**advice: str) -> Callable[[F], F]:
    """A decorator of public functions: a keyword that they have not is refused by UnknownArgument, with the right one.

    `advice`: what to do in place of keywords that this function is given by mistake. A function with `**kwargs` of
    its own gets those that nobody here has a name for. Types and signature stay as they are.
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters.values()
        names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        known, is_open = frozenset(names), any(each.kind is each.VAR_KEYWORD for each in parameters)

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if not kwargs.keys() <= known:
                foreign = kwargs.keys() - known
                refuse_names(function.__qualname__, foreign if not is_open else filter(is_ours, foreign), names, advice)
            return function(*args, **kwargs)

        return cast(F, checked)

    return decorate


def is_ours(name: str) -> bool:
    """Whether something in this library has an argument of that name or meaning."""
    return name in _HOME or any(ours in _HOME for ours in _list_meanings(name))


def refuse_names(
    called: str, foreign: Iterable[str], names: Collection[str], advice: Mapping[str, str] | None = None
) -> None:
    """Raises UnknownArgument for the first of the `foreign` keywords: `called` has `names` alone."""
    for name in sorted(foreign):
        said = (advice or {}).get(name) or advise_name(name, [each for each in names if each not in ("self", "cls")])
        raise UnknownArgument(f"{called.removesuffix('.__init__')}() has no argument {quote(name)}; {said}")


def advise_name(name: str, names: Collection[str]) -> str:
    """What to write in place of the keyword `name`, for a function that has `names`."""
    meant = [ours for ours in _list_meanings(name) if ours in names]
    if meant:
        return f"it is called {quote(meant[0])} here"
    if name in NO_NEED:
        return NO_NEED[name]
    if name in _HOME:
        return f"it belongs to {_HOME[name]}"
    if begun := [each for each in names if each.startswith(f"{name}_")]:
        return f"did you mean {quote(begun[0])}?"
    elsewhere = [ours for ours in _list_meanings(name) if ours in _HOME]
    if elsewhere:
        return f"it is {quote(elsewhere[0])} of {_HOME[elsewhere[0]]}"
    if close := difflib.get_close_matches(name, names, n=1):
        return f"did you mean {quote(close[0])}?"
    if close := difflib.get_close_matches(name, _HOME, n=1):
        return f"did you mean {quote(close[0])} of {_HOME[close[0]]}?"
    return f"it has {', '.join(names)}" if names else "it has none by name"


def _list_meanings(name: str) -> list[str]:
    """What a foreign name is called here, the likeliest first."""
    return [ours for names in _OURS.get(name, ()) for ours in names]
