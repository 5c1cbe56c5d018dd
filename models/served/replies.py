"""What servers answer, read with care: servers leave out fields, and some ignore what they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from feynkac.base.errors import ModelError, quote

_ENDS = ("stop", "eos", "eos_token")
_TELLS = ("stop_reason", "matched_stop")
"""Where vLLM and SGLang tell what a text stopped at: a string, the id of a token, or null for its end."""


class Choice(NamedTuple):
    """One text of a reply."""

    text: str
    ended: bool
    """Whether the model ended it; else it was cut at its limit, or at a string."""
    stop: str | None
    """The string at which the server has cut it, which is no part of `text`."""
    spelling: tuple[tuple[str, float], ...] | None
    """Its tokens with their log-probabilities in nats; None where the server tells none."""


class Echo(NamedTuple):
    """The tokens of a prompt, and the log-probability of each behind those before; None for the first."""

    tokens: tuple[str, ...]
    log_probs: tuple[float | None, ...]


def read_part(reply: Any, name: str) -> dict[str, Any]:
    """The object under `name` in a reply; an empty one where there is none."""
    found = reply.get(name) if isinstance(reply, dict) else None
    return found if isinstance(found, dict) else {}


def read_models(reply: Any) -> list[dict[str, Any]]:
    """The models that a server lists."""
    found = reply.get("data") if isinstance(reply, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def read_choices(reply: Any, stops: Sequence[str], *, log_probs: bool) -> list[Choice]:
    """The texts of a reply, at least one. Raises ModelError for what is no reply of the completions API."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ModelError(f"the server answers without any text: {quote(reply, 300)}")
    return [_read_choice(each, stops, log_probs) for each in sorted(choices, key=_find_index)]


def _find_index(choice: Any) -> int:
    """The number of a text: some servers list them as they are done, short ones first."""
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else 0


def _read_choice(choice: Any, stops: Sequence[str], log_probs: bool) -> Choice:
    text = choice.get("text") if isinstance(choice, dict) else None
    why = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(text, str) or why not in (*_ENDS, "length"):
        raise ModelError(
            f"the server answers {quote(choice, 300)}, which is no finished text: each needs a `text`, and a "
            f"`finish_reason` that is 'stop' or 'length'"
        )
    stop = _find_stop(choice) if why in _ENDS and stops else None
    spelling = None
    if log_probs and (spelling := _read_spelling(choice)) is None:
        raise ModelError(
            "this server returns no log-probabilities; leave out log_probs=True, and log_drawn will be None"
        )
    return Choice(text, why in _ENDS and stop is None, stop, spelling)


def _find_stop(choice: dict[str, Any]) -> str | None:
    """The string that a text has stopped at; None for an end of sequence."""
    if not any(name in choice for name in _TELLS):
        raise ModelError(
            f"the server does not tell whether {quote(choice.get('text'), 80)} has ended or stopped at a string, as "
            "vLLM and SGLang do"
        )
    said = [choice.get(name) for name in _TELLS]
    return next((each for each in said if isinstance(each, str)), None)


def _read_spelling(choice: dict[str, Any]) -> tuple[tuple[str, float], ...] | None:
    found = read_part(choice, "logprobs")
    tokens, log_probs = found.get("tokens"), found.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(log_probs, list) or None in log_probs:
        return None
    return tuple(zip(map(str, tokens), map(float, log_probs), strict=False))


def read_echo(reply: Any) -> Echo:
    """The prompt as a reply echoes it. Raises ModelError for a server that does not."""
    choice = read_choices(reply, (), log_probs=False)[0]
    found, length = read_part(reply["choices"][0], "logprobs"), read_part(reply, "usage").get("prompt_tokens")
    tokens, log_probs = found.get("tokens"), found.get("token_logprobs")
    told = [each for each in (tokens, log_probs) if isinstance(each, list)]
    if len(told) < 2 or not isinstance(length, int) or min(map(len, told)) < length:
        raise ModelError(
            "this server does not echo a prompt with its log-probabilities (it was asked for echo and logprobs, and "
            f"returned {quote(choice.text)}), so that no given text can be observed. Draw the text, and weigh it by "
            "p.factor or p.condition; or observe it by an fk.CausalLM"
        )
    return Echo(tuple(map(str, told[0][:length])), tuple(told[1][:length]))


def score(before: Echo, whole: Echo, text: str) -> float:
    """The log-probability in nats of `text`, which is what `whole` has more than `before`.

    Raises ModelError where the tokens of `before` are not the first ones of `whole`.
    """
    start = len(before.tokens)
    if whole.tokens[:start] != before.tokens:
        raise ModelError(
            f"the server spells the text before {quote(text)} and that text with one token across their border, so "
            "that the one cannot be observed behind the other; let the text begin where a token does, as with the "
            "blank before a word"
        )
    nats = whole.log_probs[start:]
    if None in nats:
        raise ModelError(f"the server tells no log-probability of the first token of {quote(text)}; open the context "
                         "behind a prompt")  # fmt: skip
    return float(sum(each for each in nats if each is not None))
