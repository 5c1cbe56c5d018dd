"""The recording of next-token laws, once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import feynkac as fk
from feynkac.models.language.demo import cache_folder, demo_model_path
from recorded.tables import BEHIND, CHECKS, LIMIT


def find_laws() -> Path:
    """The folder with the laws of all checks; the first time they are recorded, which takes a minute or two."""
    digest = hashlib.sha256(repr((CHECKS, BEHIND, LIMIT)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"laws-{demo_model_path().name}-{digest}"
    if not folder.is_dir():
        lm = fk.CausalLM.from_pretrained(str(demo_model_path()))
        with tempfile.TemporaryDirectory(dir=cache_folder()) as unfinished:
            whole = Path(unfinished) / "laws"
            whole.mkdir()
            for name in CHECKS:
                _record(lm, whole, name)
            os.rename(whole, folder)
    return folder


def _record(lm: fk.CausalLM, folder: Path, name: str) -> None:
    """Write the laws behind the beginnings of some texts that the model writes under a check."""
    prompt, pattern = CHECKS[name]
    task = lm.prompt(prompt, max_tokens=LIMIT)
    texts = fk.steer(task, fk.regex(pattern + BEHIND), particles=8, seed=0).texts
    laws: dict[tuple[int, ...], NDArray[np.float32]] = {}
    for text in dict.fromkeys(texts):
        ids = lm.spell(text)
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*task.prompts[0].tokens, *ids]])).logits[0, -len(ids) - 1 :]
        laws.update((tuple(ids[:k]), logits[k].float().numpy()) for k in range(len(ids) + 1))
    contexts = sorted(laws, key=len)
    np.save(folder / f"{name}.npy", np.array([laws[tokens] for tokens in contexts], np.float32))
    (folder / f"{name}.json").write_text(json.dumps(contexts))
