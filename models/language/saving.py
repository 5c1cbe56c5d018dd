"""Populations of texts as trees, and what a run of them is told by (see `feynkac.base.capabilities.Saves`).

Keys and values are written as they are: another pass over the same tokens would have other shapes, and its last bits
with them. Automata are not: their states are numbers of one process, so that each text is walked again.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.digests import digest, digest_weights
from feynkac.base.memory import Memory
from feynkac.models.language.companions import check_companions, load_companions, save_companions
from feynkac.models.language.editing.edits import Edits
from feynkac.models.language.protocols import require_saving
from feynkac.models.language.texts import Texts
from feynkac.smc.checks import name_of

if TYPE_CHECKING:
    from feynkac.models.language.laws.law import Law
    from feynkac.models.language.prompted import Prompted
    from feynkac.models.language.prompts.prompt import Prompt

_LAW = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")


def check_saving(model: Prompted) -> None:
    """Raises ArgumentError for prompts whose texts stand on more than can be written."""
    require_saving(model.lm.open_prompts(model.prompts, model.max_steps))
    check_companions(model)


def save_texts(model: Prompted, state: Texts) -> dict[str, Any]:
    """A population of texts; of one in which no text runs the keys and values are left out."""
    return {
        "arrays": {name: getattr(state, name) for name in _list_arrays()},
        "memory": state.memory.save(),
        "forwarded": state.forwarded,
        "contexts": require_saving(state.contexts).save() if state.running.any() else None,
        "companions": save_companions(model, state),
    }


def load_texts(model: Prompted, saved: dict[str, Any]) -> Texts:
    """What `save_texts` gave, with contexts of its own."""
    contexts = model.lm.open_prompts(model.prompts, model.max_steps)
    if saved["contexts"] is not None:
        require_saving(contexts).load(saved["contexts"])
    arrays, vocabulary = saved["arrays"], model.lm.vocabulary
    return Texts(
        **arrays,
        vocabulary=vocabulary,
        prompts=model.prompts,
        contexts=contexts,
        constraints=tuple(problem.constraints for problem in model.problems),
        automata=_walk(model, arrays["ids"], arrays["length"], arrays["group"]),
        memory=Memory.load(saved["memory"]),
        forwarded=saved["forwarded"],
        companions=load_companions(model, contexts, saved["companions"]),
    )


def _list_arrays() -> list[str]:
    return [each.name for each in fields(Texts) if "NDArray" in str(each.type) and each.name != "automata"]


def _walk(
    model: Prompted, ids: NDArray[np.int64], length: NDArray[np.int64], group: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N, C) the states of all automata behind texts of `length` (N,) tokens."""
    states = model.columns.start[group]
    for t in range(int(length.max(initial=0))):
        rows = np.flatnonzero(length > t)
        states[rows] = model.columns.advance(states[rows], ids[rows, t], group[rows])
    return states


def identify_prompt(prompt: Prompt, proposal: Any) -> dict[str, Any]:
    """What tells a prompt from others."""
    return {
        "prompt": prompt.text if prompt.text is not None else list(map(dict, prompt.chat or ())),
        "its tokens": list(prompt.tokens),
        "max_tokens": prompt.max_tokens,
        "stop": [stop.decode("utf-8", "replace") for stop in prompt.stop],
        "at_limit": prompt.at_limit,
        **_identify_law(prompt.law),
        "proposal": None if proposal is None else type(proposal).__name__,
        # Prompts of one batch may have different ones, or none.
        **({"edits": prompt.variant.identify()} if isinstance(prompt.variant, Edits) else {}),
    }


def _identify_law(law: Law) -> dict[str, Any]:
    return {**{name: getattr(law, name) for name in _LAW}, "logits_processor": list(map(name_of, law.logits_processor))}


def digest_model(model: Any) -> str:
    """A number that tells models of transformers apart: configuration, names, shapes, and some of each weight."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _OF_LIBRARIES}
    return digest(json.dumps(config, sort_keys=True, default=str), digest_weights(model.named_parameters()))


_OF_LIBRARIES = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""What a configuration says of where a model came from, and not of what it is."""
