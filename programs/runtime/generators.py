"""Random numbers of other libraries, keyed by a particle's own uniform."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_GLOBAL_GENERATORS = threading.RLock()
"""Held while the global generators are not as their owner left them."""


def make_generator(u: float, number: int = 0) -> np.random.Generator:
    """A generator keyed by a uniform of 53 bits, and a number."""
    return np.random.Generator(np.random.Philox(key=[read_bits(u), number]))


def read_bits(u: Any) -> int:
    """The 53 bits of a uniform. Raises NotImplementedError for one that stands for all values at once."""
    if not isinstance(u, float):
        raise NotImplementedError(
            "random numbers of other libraries cannot be enumerated; use Bernoulli or Categorical of feynkac.programs"
        )
    return int(u * 2**53)


@contextmanager
def seed_generators(seed: int) -> Iterator[None]:
    """The global generators of Python, numpy and (if it is there) torch seeded, and put back afterwards.

    One thread at a time: another one that draws by this function waits. A thread that uses a global generator by itself
    meanwhile is not held up, and draws from the seeded one.
    """
    with _GLOBAL_GENERATORS:
        of_torch = _list_torch_generators()
        python_state = random.getstate()
        numpy_state = np.random.get_state()  # noqa: NPY002
        torch_states = [generator.get_state() for generator in of_torch]
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            for generator in of_torch:
                generator.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for generator, state in zip(of_torch, torch_states, strict=True):
                generator.set_state(state)


def _list_torch_generators() -> list[Any]:
    """Torch's default generators. Those of a CUDA that is not in use yet are left alone: `manual_seed` starts them."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    found = [torch.default_generator]
    if torch.cuda.is_initialized():
        found.extend(torch.cuda.default_generators)
    if torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found
