"""Canvases as trees (see `feynkac.base.capabilities.Saves`): the answers of the denoiser among them, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Ranks, has
from feynkac.base.digests import digest
from feynkac.base.memory import Memory
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.composition import Composition
from feynkac.models.discrete.denoiser import LogitsDenoiser, Tokens
from feynkac.models.discrete.outputs import Outputs, list_experts
from feynkac.models.discrete.path import Past
from feynkac.smc.rng import KeyedRng

if TYPE_CHECKING:
    from feynkac.models.discrete.model import DiscreteDiffusion

ARRAYS = ("tokens_now", "dead", "free", "group", "since", "origin")
_PAST = ("parents", "rows", "places", "tokens")
_DIGITS = 6
"""Decimals of a denoiser's answers that tell it from others."""


def save_canvas(state: Canvas) -> dict[str, Any]:
    """A population of canvases."""
    outputs = state.outputs
    return {
        "arrays": {name: getattr(state, name) for name in ARRAYS},
        "time": state.time,
        "forwarded": state.forwarded,
        "memory": state.memory.save(),
        "past": [tuple(getattr(link, name) for name in _PAST) for link in _list_links(state.past)],
        "outputs": {"slot": outputs.slot, "table": outputs.table, "known": outputs.known},
        "rng": state.rng.save() if isinstance(state.rng, KeyedRng) else None,
    }


def load_canvas(model: DiscreteDiffusion, saved: dict[str, Any]) -> Canvas:
    """What `save_canvas` gave."""
    past: Past | None = None
    for link in saved["past"]:
        past = Past(past, *link)
    assert past is not None
    return Canvas(
        **saved["arrays"],
        kernel=model.kernel,
        outputs=Outputs(model.denoiser, **saved["outputs"]),
        time=saved["time"],
        alphabet=model.alphabet,
        memory=Memory.load(saved["memory"]),
        past=past,
        forwarded=saved["forwarded"],
        constraints=model.constraints,
        rng=None if saved["rng"] is None else KeyedRng.load(saved["rng"]),
    )


def identify(model: DiscreteDiffusion) -> dict[str, Any]:
    """What tells a model from others; of its denoiser, the answers on the canvas that it begins with."""
    settings = {name: value for name, value in vars(model.kernel).items() if isinstance(value, int | float | str)}
    tables = {
        name: digest(value.tolist()) for name, value in vars(model.kernel).items() if isinstance(value, np.ndarray)
    }
    return {
        "kernel": {"kind": type(model.kernel).__name__, **settings, **tables},
        "length": model.length,
        "tokens": model.alphabet if isinstance(model.alphabet, int) else model.alphabet.digest,
        "given": model.given.tolist(),
        "proposal": type(model.proposal).__name__,
        "denoiser": _digest_denoiser(model),
        "powers": list(model.denoiser.powers) if isinstance(model.denoiser, Composition) else [1.0],
    }


def _digest_denoiser(model: DiscreteDiffusion) -> str:
    canvas = np.where(model.given[:1] >= 0, model.given[:1], model.k if model.kernel.hides else 0)
    level = model.kernel.noise_level(0)
    answers = [_ask(each, canvas, level) for each in list_experts(model.denoiser)]
    return digest(*(_round(answer) for answer in answers))


def _ask(denoiser: LogitsDenoiser, canvas: Tokens, level: float) -> NDArray[np.float64]:
    """Some of the answers, in nats."""
    asked = denoiser.rank(canvas, level)[1] if has(denoiser, Ranks) else denoiser.log_probs(canvas, level)
    return np.asarray(asked, np.float64)


def _round(answer: NDArray[np.float64]) -> list[float]:
    return np.round(np.exp(answer), _DIGITS).ravel()[:64].tolist()


def _list_links(past: Past | None) -> list[Past]:
    """The links of a past, the first one first."""
    links = []
    while past is not None:
        links.append(past)
        past = past.before
    return links[::-1]
