"""The opening of contexts: what a model's window, layers and devices allow, and which cache serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from feynkac.base.errors import ModelError
from feynkac.models.language.protocols import Contexts

if TYPE_CHECKING:
    import torch

    from feynkac.models.language.caches.remembered import Remembered
    from feynkac.models.language.caches.twin import Twins
    from feynkac.models.language.editing.contract import Spans
    from feynkac.models.language.editing.edits import Edits


def open_contexts(
    twins: Twins,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    edits: Sequence[Edits | None] = (),
    spans: Spans | None = None,
) -> Contexts:
    """Contexts that continue the non-empty `prompts` by up to `max_new` tokens each (a hint to allocate by).

    `edits` (G,): what is changed for each prompt, if anything is; `spans` tells where in `prompts` the spans lie that
    they name.

    The prompt's keys and values are kept once where the model's attention allows it, else the model's own cache is
    used. Raises ModelError if a prompt and its continuation do not fit the model's window, for a model that is not as
    a whole on one device, and for one that neither cache serves right (see `feynkac.models.language.caches.agreement`).
    """
    from feynkac.models.language.caches.agreement import check_plain
    from feynkac.models.language.caches.plain import PlainContexts
    from feynkac.models.language.caches.shared import SharedContexts
    from feynkac.models.language.editing.edits import Laid

    longest = max(len(prompt) for prompt in prompts) + max_new
    _check_fits(twins.model, longest, max_new)
    kinds = list(dict.fromkeys([None, *edits]))  # what has no edits is checked first, for what edits are measured by
    laid = None if spans is None else Laid(edits, [len(prompt) for prompt in prompts], spans)
    if shares_prompt(twins, longest, kinds):
        return SharedContexts(twins, prompts, max_new, laid)
    for kind in kinds:
        check_plain(twins, kind)
    return PlainContexts(twins, prompts, laid)


def remember_prompt(
    twins: Twins, prompt: tuple[int, ...], most: int, edits: Edits | None = None, spans: Spans | None = None
) -> Remembered:
    """Keep the keys and values of `prompt` for later runs (see `CausalLM.remember`).

    Raises ModelError where the model's own cache has to serve, ArgumentError for more bytes than `most`.
    """
    import torch

    from feynkac.models.language.caches.prefill import Prefill
    from feynkac.models.language.editing.edits import NOTHING, Laid

    _check_fits(twins.model, len(prompt) + 1, 1)
    if not shares_prompt(twins, len(prompt) + 1, [None, edits]):
        raise ModelError(
            f"{type(twins.model).__name__} keeps its own cache, which cannot be remembered: its attention, hooks "
            "or recurrent states do not fit a prompt that is shared"
        )
    laid = NOTHING if spans is None else Laid([edits], [len(prompt)], spans)
    changes = twins.remembered.count_changes(edits)
    with torch.inference_mode():
        (prefix,) = Prefill(twins, laid, [prompt], np.zeros(1, np.int64)).run()
    return twins.remembered.add(prefix, edits, most, changes)


def shares_prompt(twins: Twins, longest: int, edits: Sequence[Edits | None] = (None,)) -> bool:
    """Whether texts of up to `longest` tokens can share their prompt's keys and values.

    Asks the model's configuration first, and then the model itself, once.
    """
    from feynkac.models.language.caches.agreement import shares_prompts

    supported = getattr(twins.model, "_supports_attention_backend", False)
    fits = supported and longest <= find_attention_window(twins.model)
    return fits and all(shares_prompts(twins, kind) for kind in edits)


def find_window(model: Any) -> int | None:
    """The positions that a model has; None where it sets no limit."""
    window = getattr(_text_config(model), "max_position_embeddings", None)
    return None if window is None or window < 0 else window  # XLNet's is -1


def find_attention_window(model: Any) -> float:
    """How far back every layer attends, in tokens; 0 if some layer does not attend at all (recurrent, hybrid)."""
    config = _text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = {
        "full_attention": float("inf"),
        "sliding_attention": getattr(config, "sliding_window", None) or float("inf"),
        "chunked_attention": getattr(config, "attention_chunk_size", None) or float("inf"),
    }
    if not kinds:  # one kind of layer: a window counts if there is one
        return windows["sliding_attention"] if getattr(config, "use_sliding_window", True) else float("inf")
    return min(windows.get(kind, 0.0) for kind in kinds)


def find_longest(model: Any) -> int | None:
    """Tokens that a text may have, its prompt included; None where there is no limit to what its law is."""
    window, border = find_window(model), find_rope_border(model)
    return window if border == float("inf") else int(min(border, float("inf") if window is None else window))


def find_rope_border(model: Any) -> float:
    """The position from which on a pass turns all of its positions by other angles; infinity where there is none."""
    config = _text_config(model)
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [each for each in (given, *given.values()) if isinstance(each, Mapping)]  # one for each kind of layer
    alike = [each for each in parts if each.get("rope_type", each.get("type")) == "longrope"]
    own = getattr(config, "original_max_position_embeddings", None)
    borders = [each.get("original_max_position_embeddings") or own for each in alike]
    return min((border for border in borders if border), default=float("inf"))


def find_device(model: Any) -> torch.device:
    """The device that a model takes its tokens on."""
    return model.get_input_embeddings().weight.device


def check_whole(model: Any) -> None:
    """Raise ModelError for a model in parts, and for one whose parameters were never loaded.

    A model that transformers spread out itself moves its own tensors and is left to it.
    """
    if hasattr(model, "hf_device_map"):
        return
    devices = sorted(map(str, {parameter.device for parameter in model.parameters()}))
    if len(devices) > 1:
        raise ModelError(f"the model's parameters are on {' and '.join(devices)}; move it with lm.model.to(device)")
    if devices == ["meta"]:
        raise ModelError("the model's parameters are on the device meta, which holds no numbers; load it again")


def _text_config(model: Any) -> Any:
    """The configuration of the language part, where a model has others."""
    return model.config.get_text_config(decoder=True)


def _check_fits(model: Any, longest: int, max_new: int) -> None:
    window = find_window(model)
    if window is not None and longest > window:
        raise ModelError(
            f"a prompt of {longest - max_new} tokens and {max_new} new ones do not fit the {window} positions of "
            f"{type(model).__name__}; shorten the prompt or ask for at most {max(0, window - longest + max_new)} tokens"
        )
    check_rope(model, longest, f"a prompt of {longest - max_new} tokens and {max_new} new ones reach")


def check_rope(model: Any, longest: int, what: str = "") -> None:
    """Raise ModelError where `longest` tokens, which `what` tells of, pass the border that `find_rope_border` gives."""
    border = find_rope_border(model)
    if longest > border:
        raise ModelError(
            f"{what or f'a text of {longest} tokens reaches'} beyond position {border:g}, where "
            f"{type(model).__name__} (longrope) turns all positions of a pass by other angles: the law of a text would "
            "depend on the texts beside it; stay below, or load the model with other rope_parameters"
        )
