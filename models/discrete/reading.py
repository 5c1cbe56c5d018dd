"""The parts of a discrete diffusion, as a user gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arrays import read_whole_array
from feynkac.base.capabilities import Ranks, has, offers
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_whole, read_count
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.composition import Composition
from feynkac.models.discrete.denoiser import check_denoiser
from feynkac.models.discrete.kernel import Kernel
from feynkac.models.discrete.kernels import Unmask
from feynkac.models.discrete.proposals import Proposal

_WHO = "DiscreteDiffusion"


def read_alphabet(alphabet: Any) -> tuple[Vocabulary | int, int]:
    """The clean tokens, and their number. Raises ArgumentError."""
    if isinstance(alphabet, Vocabulary):
        return alphabet, alphabet.size
    if as_whole(alphabet) is None:
        raise ArgumentError(f"{_WHO}: alphabet is {quote(alphabet)}; give a Vocabulary, or the number of clean tokens")
    count = read_count(f"{_WHO}: alphabet", alphabet, " tokens")
    return count, count


def check_parts(denoiser: Any, kernel: Any, proposal: Any) -> None:
    """Raises ArgumentError for what is no denoiser, no kernel or no proposal."""
    if not isinstance(denoiser, Composition):
        check_denoiser(_WHO, denoiser)
    if not offers(kernel, Kernel):
        raise ArgumentError(
            f"{_WHO}: kernel is {quote(kernel)}; give one, such as Unmask(length) or MaskedNoise(steps)"
        )
    if proposal is not None and not offers(proposal, Proposal):
        raise ArgumentError(f"{_WHO}: proposal is {quote(proposal)}; give one, such as LocallyOptimal(potential)")


def check_fit(kernel: Kernel, denoiser: Any) -> None:
    """Raises ArgumentError for a denoiser that cannot be asked what the kernel asks."""
    if not kernel.hides and has(denoiser, Ranks):
        raise ArgumentError(f"{type(denoiser).__name__} fills in masks, which uniform diffusion has not; use Unmask")
    if isinstance(denoiser, Composition) and any(has(each, Ranks) for each in denoiser.experts):
        raise ArgumentError(
            "a composition needs the probabilities of all tokens from each expert, and one of these keeps the "
            "likeliest only; ask for all of them, as by MaskedLM(..., top=None)"
        )
    if isinstance(denoiser, Composition) and kernel.hides and not kernel.permanent:
        raise ArgumentError("a composition of experts has no corrector for tokens that are masked again; remask=0")


def read_given(given: Any, length: int, k: int, kernel: Kernel) -> NDArray[np.int64]:
    """(length,) the tokens that stay, -1 where the canvas is open. Raises ArgumentError."""
    template = _read_template(given, length, k)
    if not kernel.hides and (template >= 0).any():
        raise ArgumentError("uniform diffusion has noise at every position, so that none can be given; use MaskedNoise")
    if (template >= 0).all():
        raise ArgumentError("every position of the canvas is given; leave -1 where the model is to write")
    if isinstance(kernel, Unmask) and kernel.length < (opened := int((template < 0).sum())):
        raise ArgumentError(f"Unmask({kernel.length}) of a canvas with {opened} open positions; give Unmask({opened})")
    return template


def _read_template(given: Any, length: int, k: int) -> NDArray[np.int64]:
    if given is None:
        return np.full(length, -1)
    advice = f"given must hold {length} token ids from 0 to {k - 1}, or -1 where the canvas is open"
    template = read_whole_array(f"{_WHO}: given", given, advice)
    if template.shape != (length,) or template.max() >= k or template.min() < -1:
        raise ArgumentError(f"{_WHO}: given is {quote(given)}; {advice}")
    return template
