"""Whether Triton can be used on a device: it compiles when it runs, and needs a C compiler and a driver for that."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

_log = logging.getLogger(__name__)


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether the kernels run on a device; tried once, by a kernel of one line. Where not, torch's operators do.

    Nothing is tried on devices other than CUDA's, and a warning says why where Triton is there and fails.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        from feynkac.models.language.kernels.trial import count_up

        return count_up(device) == [1, 2, 3, 4]
    except Exception as cause:  # a compiler, a driver, a device that is too new: whatever it misses
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        _log.warning("Triton does not run on %s (%s); torch's operators take its place, and are slower", device, reason)
        return False
