"""Laws recorded once, and a language model that serves them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import feynkac as fk
from feynkac.models.language.demo import cache_folder, demo_model_path
from feynkac.models.language.language_model import LanguageModel
from recorded.tables import BEHIND, CHECKS, LIMIT, Table


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


class Recorded(LanguageModel):
    """Its next-token laws are those of `table`, which may be exchanged between runs."""

    window, device, n_logits = None, torch.device("cpu"), 49152
    table: Table

    def open(self, prompts: Sequence[Sequence[int]], max_new: int) -> Any:
        return _Contexts(prompts, self.table)


class _Contexts:
    """The texts behind one prompt, or several of one length (see `feynkac.models.language.protocols.Contexts`)."""

    def __init__(self, prompts: Sequence[Sequence[int]], table: Table) -> None:
        self._table, self._behind = table, len(prompts[0])
        self._texts: list[list[int]] = [[] for _ in prompts]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([self._behind + len(text) for text in self._texts])

    def start(self) -> torch.Tensor:
        return torch.from_numpy(self._table.find(self._texts))

    def extend(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> torch.Tensor:
        pairs = zip(parents.tolist(), tokens.tolist(), strict=True)
        self._texts = [[*self._texts[i], token] if token >= 0 else self._texts[i] for i, token in pairs]
        return torch.from_numpy(self._table.find(self._texts))
