"""A pipeline of diffusers from its folder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from feynkac.base.errors import ArgumentError, ModelError, quote
from feynkac.base.extras import needing

DEMO = Path(__file__).with_name("digits")
"""Handwritten digits of 8 x 8 pixels, trained by benchmarks/train/digits.py: a pipeline that comes with the package."""


def open_pipeline(folder: str | os.PathLike[str], dtype: str = "float32", device: str | None = None) -> Any:
    """The pipeline that `pipe.save_pretrained(folder)` wrote, ready for `Diffusion.from_pipeline`.

    `dtype`: a floating type of torch by its name. Raises ModelError for a folder without a pipeline, MissingExtra
    where diffusers is missing, and ArgumentError for an unknown type.
    """
    place = Path(folder)
    if not os.path.isfile(place / "model_index.json"):
        what = "has no model_index.json" if os.path.isdir(place) else "is no folder"
        raise ModelError(f"{place} {what}; give the folder of a pipeline, as pipe.save_pretrained(folder) writes it")
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise ArgumentError(f"dtype {quote(dtype)} is no type of torch; try float32, float16 or bfloat16")
    with needing("diffusion", "pipelines are run by diffusers"):
        diffusers: Any = importlib.import_module("diffusers")
    diffusers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            spare = importlib.util.find_spec("accelerate") is not None  # said, lest diffusers print that it is missing
            pipe = diffusers.DiffusionPipeline.from_pretrained(place, torch_dtype=precision, low_cpu_mem_usage=spare)
        return pipe if device is None else pipe.to(device)
    except Exception as cause:
        raise ModelError(f"cannot load the pipeline in {place}: {cause}") from cause
