"""The distinct token histories of a run, and the keys and values that a language model keeps of them.

Particles with the same history share one *context* and carry its number, so forking a particle costs nothing, and each
history is forwarded once. A copy is made only where two particles with one history choose different tokens.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feynkac.base.contract import Rows
from feynkac.base.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_log = logging.getLogger(__name__)


class Contexts(Protocol):
    """U live contexts of one model, numbered from 0. Shapes: C contexts after a call, F of them forwarded by it."""

    forwarded: int
    """Tokens forwarded so far: those of the prompts, and one for each extension."""

    def start(self) -> Tensor:
        """Forward each prompt once: context g is prompt g. Returns their (G, V) float32 next-token logits."""
        ...

    def extend(self, parents: Rows, tokens: NDArray[np.int64]) -> Tensor:
        """Make the live contexts these C: context i is context `parents[i]`, then `tokens[i]`.

        A token of -1 keeps the parent as it is, without a forward pass. The pairs must be distinct. A context that is
        no one's parent is freed. Returns the (F, V) float32 logits of the extended contexts, in order.
        """
        ...

    def append(self, parents: Rows, tokens: Sequence[Sequence[int]], *, every: bool = False) -> Tensor:
        """As `extend`, by several tokens at once: context i is `parents[i]`, then `tokens[i]`; an empty list keeps it.

        Two contexts of one parent need distinct tokens, but one list may begin with the other. Returns the (F, V)
        float32 logits after the last token of each extended context, in order; with `every` those after each token of
        the first extended context, then of the second, and so on.
        """
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) tokens of each context, its prompt among them."""
        ...


def open_contexts(model: Any, prompts: Sequence[Sequence[int]], max_new: int) -> Contexts:
    """A store for continuations of the non-empty `prompts`, up to `max_new` tokens each (a hint to allocate by).

    The prompt's keys and values are kept once where the model's attention allows it, else the model's own cache is
    used. Raises ModelError if a prompt and its continuation do not fit the model's window, and for a model that is not
    as a whole on one device.
    """
    from feynkac.models.language.plain_cache import PlainContexts
    from feynkac.models.language.shared_cache import SharedContexts

    longest = max(len(prompt) for prompt in prompts) + max_new
    _check_fits(model, longest, max_new)
    device_of(model)
    if shares_prompt(model, longest):
        return SharedContexts(model, prompts, max_new)
    return PlainContexts(model, prompts)


def shares_prompt(model: Any, longest: int) -> bool:
    """Whether texts of up to `longest` tokens can share their prompt's keys and values.

    Asks the model's configuration first, and then the model itself, once: a short run of the shared cache has to agree
    with the model's own attention.
    """
    if not getattr(model, "_supports_attention_backend", False) or longest > attention_window(model):
        return False
    if model not in _verdicts:
        _verdicts[model] = _agrees(model)
    return _verdicts[model]


_verdicts: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def attention_window(model: Any) -> float:
    """How far back every layer attends, in tokens; 0 if some layer does not attend at all (recurrent, hybrid)."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = {
        "full_attention": float("inf"),
        "sliding_attention": getattr(config, "sliding_window", None) or float("inf"),
        "chunked_attention": getattr(config, "attention_chunk_size", None) or float("inf"),
    }
    if not kinds:  # one kind of layer: a window counts if there is one
        return windows["sliding_attention"] if getattr(config, "use_sliding_window", True) else float("inf")
    return min(windows.get(kind, 0.0) for kind in kinds)


def device_of(model: Any) -> torch.device:
    """The device of a model that is on one; one that transformers spread out itself moves its own tensors.

    Raises ModelError for a model in parts, and for one whose parameters were never loaded.
    """
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if not hasattr(model, "hf_device_map"):
        if len(devices) > 1:
            raise ModelError(f"the model's parameters are on {' and '.join(devices)}; move it with lm.model.to(device)")
        if devices == ["meta"]:
            raise ModelError("the model's parameters are on the device meta, which holds no numbers; load it again")
    return model.get_input_embeddings().weight.device


def _check_fits(model: Any, longest: int, max_new: int) -> None:
    window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if window is not None and longest > window:
        raise ModelError(
            f"a prompt of {longest - max_new} tokens and {max_new} new ones do not fit the {window} positions of "
            f"{type(model).__name__}; shorten the prompt or ask for at most {max(0, window - longest + max_new)} tokens"
        )


def _agrees(model: Any) -> bool:
    """Whether the shared cache gives the model's own logits, on forks of two short prompts of different lengths."""
    import torch

    from feynkac.models.language.shared_cache import SharedContexts

    vocab = model.get_input_embeddings().weight.shape[0]
    ids = (np.arange(1, 12) * 7919 % vocab).tolist()
    prompts, new = [ids[:4], ids[4:6]], np.array(ids[6:11])
    texts = [prompts[0] + ids[7:8], prompts[0] + ids[6:7] + ids[9:10], prompts[1] + [ids[8], ids[10]]]
    try:
        contexts = SharedContexts(model, prompts, 2)
        contexts.start()
        contexts.extend(np.array([0, 0, 1]), new[:3])
        kept = np.array([1, 0, 2]), np.array([-1, new[3], new[4]])
        found = contexts.extend(*kept)
        with torch.inference_mode():
            device = model.get_input_embeddings().weight.device
            wanted = [model(input_ids=torch.tensor([text], device=device)).logits[0, -1].float() for text in texts[1:]]
    except Exception as cause:  # whatever an unknown architecture trips over, it has its own cache to fall back on
        _log.info("%s keeps its own cache: %s", type(model).__name__, cause)
        return False
    expected = torch.stack(wanted)
    error = (found - expected).abs().max().item() / max(expected.std().item(), 1e-30)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.25
    if not error <= tolerance:  # also if it is no number
        _log.info("%s keeps its own cache: the shared one is off by %.2g", type(model).__name__, error)
    return error <= tolerance
