"""docs/methods.md: every block of code runs, and every system of the table has a section."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import feynkac as fk

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"
TEXT = PAGE.read_text(encoding="utf-8")
OPENING, *_SECTIONS = TEXT.split("\n### ")
SECTIONS = {part.split("\n")[0]: part for part in _SECTIONS}
ROWS = re.findall(r"^\| (.+?) \| \[(.+?)\]\(#(.+?)\) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
SYSTEMS = 58
WITHOUT_CODE = {"C2SER, PRELUDE, LeTFuser"}
"""What the page says is outside."""


def list_blocks(part: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


CODED = [title for title, part in SECTIONS.items() if list_blocks(part)]


class Planted:
    """A sparse autoencoder whose features are random directions."""

    def __init__(self, width: int, seed: int, count: int = 40) -> None:
        rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
        self.rows = rows / rows.norm(dim=1, keepdim=True)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.rows.T)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.rows


def make_names(lm: fk.CausalLM) -> dict[str, Any]:
    """What the page's blocks may use: its opening around `lm`, and stand-ins for what only a reader has."""
    from feynkac.models.diffusion import GaussianMixture

    names: dict[str, Any] = {"__name__": "page"}
    first, second = list_blocks(OPENING)
    imports, _, opened = first.partition("\nlm = ")
    assert opened.startswith("fk.CausalLM.from_pretrained(")
    exec(compile(imports, str(PAGE), "exec"), names)
    names["lm"] = lm
    exec(compile(second, str(PAGE), "exec"), names)
    tuned = copy.deepcopy(lm.model)
    for layer in tuned.model.layers:
        layer.mlp.down_proj.weight.data *= 1.1
    eager = copy.deepcopy(lm.model)
    eager.set_attn_implementation("eager")
    width = lm.model.config.hidden_size
    return names | {
        "sae": Planted(width, 0), "sae_before": Planted(width, 1),
        "tuned": fk.CausalLM(tuned, lm.tokenizer, eos=lm.vocabulary.eos), "eager": eager,
        "prior": GaussianMixture([0.7, 0.3], [[-2.0, 0.0], [3.0, 1.0]], 0.5),
        "depth": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)),
    }  # fmt: skip


def run(names: dict[str, Any], title: str, folder: Path) -> dict[str, Any]:
    """The names that a section leaves behind, which begins with its own copy of those of the page."""
    found = dict(names)
    if "pipe" in SECTIONS[title]:
        pytest.importorskip("diffusers")
        from feynkac.models.diffusion.folder import open_pipeline

        found["pipe"] = open_pipeline(str(ROOT / "benchmarks" / "train" / "digits"))
    if "esm" in SECTIONS[title]:
        found["esm"], found["letters"] = make_esm(folder)
    for block in list_blocks(SECTIONS[title]):
        exec(compile(block, f"{PAGE}: {title}", "exec"), found)
    return found


def make_esm(folder: Path) -> tuple[Any, Any]:
    """A random model with the tokens of ESM-2, and its tokenizer."""
    from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EsmForMaskedLM(
            EsmConfig(
                vocab_size=33, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                max_position_embeddings=64, position_embedding_type="rotary", mask_token_id=32, pad_token_id=1,
            )
        )  # fmt: skip
    return model.eval(), EsmTokenizer(str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def made() -> dict[fk.CausalLM, dict[str, Any]]:
    """The names that sections begin with, by their model, from the first of them on."""
    return {}


@pytest.mark.parametrize("title", CODED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_lines_of_every_system_run(lm_for: Any, made: Any, title: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("vaderSentiment")
    lm = lm_for("\n".join(list_blocks(SECTIONS[title])))
    if lm not in made:
        made[lm] = make_names(lm)
    run(made[lm], title, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_lines_run_on_the_demos_model(smollm2: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("vaderSentiment")
    names = make_names(fk.CausalLM.from_pretrained(str(smollm2)))
    for title in CODED:
        run(names, title, tmp_path)


def test_every_system_stands_in_the_table_and_has_a_section() -> None:
    assert len(ROWS) == SYSTEMS == len({name for name, *_ in ROWS})
    for _, title, anchor, _, measured in ROWS:
        assert title in SECTIONS and measured
        assert anchor == re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    assert {title for _, title, *_ in ROWS} == set(SECTIONS)


def test_no_system_takes_more_than_fifteen_lines() -> None:
    assert set(SECTIONS) - set(CODED) == WITHOUT_CODE
    for title, part in SECTIONS.items():
        lines = [line for block in list_blocks(part) for line in block.splitlines() if line.strip()]
        assert len(lines) <= 15, title
