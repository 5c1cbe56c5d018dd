"""Masked language models of transformers as models of discrete diffusion."""

from __future__ import annotations

import itertools
import pickle
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from discrete_truth import masked_law, unmask_law
from torch import nn

import feynkac as fk
from feynkac.models.discrete.frames import Framed, RankedFrame
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise, Unmask
from feynkac.models.discrete.masked_lm import MaskedLM
from feynkac.smc.engine import smc
from feynkac.smc.resample import never
from feynkac.smc.testing import expectation

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "##b", "c", "d"]


def make_tokenizer(words: list[str], **names: str) -> Any:
    """A WordPiece tokenizer, which puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = {piece: i for i, piece in enumerate([*SPECIAL, *words])}
    spelling = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))  # type: ignore[call-arg]
    spelling.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    spelling.decoder = decoders.WordPiece()  # type: ignore[assignment]
    spelling.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"mask_token": "[MASK]", **names}
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=spelling, **special, **{k: v for k, v in names.items() if v})


def make_bert(size: int, positions: int = 16, seed: int = 0) -> Any:
    """A random model that is sure of something."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=positions, initializer_range=0.8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForMaskedLM(config).eval().double()


def make_esm(folder: Path) -> tuple[Any, Any]:
    from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

    (folder / "vocab.txt").write_text(
        "\n".join(["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "<null_1>", "<mask>"])
    )
    config = EsmConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=1,
        max_position_embeddings=32, position_embedding_type="rotary", mask_token_id=8, token_dropout=True,
        initializer_range=0.8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return EsmForMaskedLM(config).eval().double(), EsmTokenizer(str(folder / "vocab.txt"))


TOKENIZER = make_tokenizer(WORDS)
BERT = make_bert(len(SPECIAL) + len(WORDS))


def make_law(model: Any, before: list[int], after: list[int], clean: list[int], mask: int) -> Any:
    """p(canvas, t): (L, K), from the model itself."""

    def p(canvas: tuple[int, ...], t: float) -> np.ndarray:
        ids = [*before, *([*clean, mask][x] for x in canvas), *after]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, len(before) : len(before) + len(canvas)]
        return logits[:, clean].double().softmax(-1).numpy()

    return p


def assert_law(model: Any, potential: Any, truth: dict[str, float]) -> None:
    """The masses of the texts are those of `truth`, for one particle, by enumeration."""

    def masses(rng: Any) -> np.ndarray:
        *_, last = smc(model, potential, n=1, resample=never, rng=rng)
        (text,) = last.state.texts(np.arange(1))
        return np.array([np.exp(last.log_weight[0]) * (text == each) for each in truth])

    np.testing.assert_allclose(expectation(masses), list(truth.values()), atol=1e-12)


def spell(law: dict[Any, float], pieces: list[str]) -> dict[str, float]:
    return {"".join(pieces[x] for x in canvas): mass for canvas, mass in law.items()}


PIECES = [" a", "b", " c", " d"]
FLAT = fk.reward(lambda text: 0.7 * text.count("b") - 0.4 * text.startswith(" d"), every="end")


def tilt(law: dict[str, float]) -> dict[str, float]:
    return {text: mass * np.exp(0.7 * text.count("b") - 0.4 * text.startswith(" d")) for text, mass in law.items()}


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("order", ["random", "confident"])
def test_a_prompt_is_followed_by_masks_that_are_filled_in(top: int | None, order: Any) -> None:
    lm = MaskedLM(BERT, TOKENIZER, top=top)
    assert [lm.vocabulary.text([i]) for i in range(4)] == PIECES
    model = lm.prompt("a c", 2, kernel=Unmask(2, order=order))
    assert isinstance(model.denoiser, RankedFrame if top else Framed)
    p = make_law(BERT, [2, 5, 7], [3], [5, 6, 7, 8], 4)
    assert_law(model, FLAT, tilt(spell(unmask_law(p, 2, 4, 1, order), PIECES)))


@pytest.mark.parametrize("top", [None, 1])
def test_a_text_with_masks_keeps_what_is_written(top: int | None) -> None:
    model = MaskedLM(BERT, TOKENIZER, top=top).fill("[MASK] c [MASK]")
    p = make_law(BERT, [2], [3], [5, 6, 7, 8], 4)
    law = dict[str, float]()
    for order in [(0, 2), (2, 0)]:
        for values in itertools.product(range(4), repeat=2):
            canvas, mass = [4, 2, 4], 0.5
            for place, value in zip(order, values, strict=True):
                mass *= p(tuple(canvas), 0.0)[place, value]
                canvas[place] = value
            text = "".join(PIECES[x] for x in canvas)
            law[text] = law.get(text, 0.0) + mass
    assert_law(model, FLAT, tilt(law))


@pytest.mark.parametrize("top", [None, 1])
def test_a_protein_is_written_by_an_esm_model(tmp_path: Path, top: int | None) -> None:
    model, tokenizer = make_esm(tmp_path)
    lm = MaskedLM(model, tokenizer, top=top)
    assert lm.vocabulary.tokens == (b"L", b"A", b"G")
    law = spell(masked_law(make_law(model, [0], [2], [4, 5, 6], 8), 2, 3, [0.0, 0.5, 1.0]), ["L", "A", "G"])
    flat = fk.reward(lambda text: 0.0)
    assert_law(lm.prompt("", 2, kernel=MaskedNoise(2)), flat, law)
    given = lm.fill("<mask>A<mask>G")
    (result,) = {text[1::2] for text in fk.steer(given, flat, particles=8, seed=0).texts}
    assert result == "AG"


@pytest.mark.parametrize("top", [None, 1])
def test_a_regular_expression_holds_a_masked_text(top: int | None) -> None:
    model, constraint = MaskedLM(BERT, TOKENIZER, top=top).prompt("d", 2), fk.regex(" [ac]b?| d d")
    p = make_law(BERT, [2, 8], [3], [5, 6, 7, 8], 4)
    law = spell(unmask_law(p, 2, 4, 1, "random"), PIECES)
    truth = {text: mass * bool(re.fullmatch(" [ac]b?| d d", text)) for text, mass in law.items()}
    assert_law(model.constrain([constraint]), constraint, truth)


def test_only_some_tokens_may_be_written_while_others_may_be_given() -> None:
    lm = MaskedLM(BERT, TOKENIZER, only=[" a", " d"], temperature=1e6)
    found = fk.steer(lm.fill("c [MASK] [MASK]"), fk.reward(lambda text: 0.0), particles=64, seed=0)
    assert set(found.texts) == {" c a a", " c a d", " c d a", " c d d"}


def test_logits_may_stand_one_position_early() -> None:
    class Early(nn.Module):
        """As Dream's: what is said of a token stands at the one before it."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = make_bert(9)
            self.config = self.bert.config

        def forward(self, input_ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.bert(input_ids=input_ids).logits.roll(-1, dims=1))

    early: Any = Early()
    canvas = np.array([[4, 0, 4], [1, 4, 4]])
    straight = MaskedLM(BERT, TOKENIZER).prompt("c", 3).denoiser.log_probs(canvas, 0.0)
    shifted = MaskedLM(early, TOKENIZER, shifted=True).prompt("c", 3).denoiser.log_probs(canvas, 0.0)
    np.testing.assert_allclose(shifted, straight, atol=1e-12)


def test_a_mask_that_the_tokenizer_does_not_name_is_given() -> None:
    nameless = make_tokenizer(WORDS, mask_token="")
    with pytest.raises(fk.ModelError, match=r"has no mask token; give that of the model, MaskedLM\(\.\.\., mask=id\)"):
        MaskedLM(BERT, nameless)
    for mask in (4, "[MASK]"):
        lm = MaskedLM(BERT, nameless, mask=mask)
        assert lm.mask == "[MASK]" and 4 not in lm.tokens.ids
        assert fk.steer(lm.prompt("a", 2), fk.reward(len), particles=4, seed=0).complete
    with pytest.raises(fk.ArgumentError, match="mask is '<mask>', which is no token of"):
        MaskedLM(BERT, nameless, mask="<mask>")


def test_an_end_of_the_text_is_written_where_one_is_named() -> None:
    lm = MaskedLM(BERT, TOKENIZER, eos=3)
    found = fk.steer(lm.prompt("a", 3), fk.reward(lambda text: 0.0), particles=64, seed=0)
    assert {len(text.split()) for text in found.texts} > {3} or "" in found.texts
    assert lm.vocabulary.eos and not any("[SEP]" in text for text in found.texts)


def test_a_chat_is_written_by_the_tokenizers_template() -> None:
    tokenizer = make_tokenizer(WORDS)
    lm = MaskedLM(BERT, tokenizer)
    with pytest.raises(fk.ModelError, match="has no chat template"):
        lm.prompt(chat=[{"role": "user", "content": "a"}], length=2)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}d"
    model = lm.prompt(chat=[{"role": "user", "content": "a c"}], length=2)
    assert model.denoiser.before == (5, 7, 8) and model.denoiser.after == ()
    assert lm.prompt(chat="a c", length=2).denoiser.before == (5, 7, 8)
    with pytest.raises(fk.ArgumentError, match="does not read 'name' of chat"):
        lm.prompt(chat=[{"role": "user", "content": "a", "name": "c"}], length=2)


def test_the_model_that_was_given_stays_as_it_is() -> None:
    model = make_bert(9).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lm = MaskedLM(model, TOKENIZER)
    fk.steer(lm.prompt("a", 2), fk.reward(len), particles=4, seed=0)
    assert model.training and all(module.training for module in model.modules())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(one is other for one, other in zip(model.parameters(), lm._twin.parameters(), strict=True))


def test_canvases_are_answered_alike_in_any_batch() -> None:
    canvas = np.random.default_rng(0).integers(0, 5, (5, 3))
    answers = [MaskedLM(BERT, TOKENIZER, batch=b).prompt("a", 3).denoiser.log_probs(canvas, 0.0) for b in (1, 2, 5)]
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-12)
    np.testing.assert_allclose(answers[1], answers[2], atol=1e-12)


def test_a_model_in_half_precision_has_a_law_in_float64() -> None:
    half = make_bert(9).to(torch.bfloat16)
    law = MaskedLM(half, TOKENIZER).prompt("a", 3).denoiser.log_probs(np.full((1, 3), 4), 0.0)
    assert law.dtype == np.float64
    np.testing.assert_allclose(np.exp(law).sum(axis=-1), 1.0, atol=1e-12)


def test_the_temperature_divides_the_logits() -> None:
    warm, cold = (MaskedLM(BERT, TOKENIZER, temperature=t).prompt("a", 2).denoiser for t in (1.0, 0.5))
    canvas = np.full((1, 2), 4)
    squared = np.exp(2.0 * warm.log_probs(canvas, 0.0))
    np.testing.assert_allclose(np.exp(cold.log_probs(canvas, 0.0)), squared / squared.sum(-1, keepdims=True), rtol=1e-9)


def test_texts_with_the_same_surroundings_run_in_one_batch() -> None:
    lm = MaskedLM(BERT, TOKENIZER)
    one, two = fk.steer([lm.fill("a [MASK]"), lm.fill("c [MASK]")], fk.reward(len), particles=8, seed=0)
    assert {text[:2] for text in one.texts} == {" a"} and {text[:2] for text in two.texts} == {" c"}


def test_a_model_travels_to_other_processes() -> None:
    model = pickle.loads(pickle.dumps(MaskedLM(BERT, TOKENIZER).fill("a [MASK]")))
    assert fk.steer(model, fk.reward(len), particles=4, seed=0).complete


def test_a_run_is_saved_and_taken_up_again(tmp_path: Path) -> None:
    model, potential = MaskedLM(BERT, TOKENIZER, top=2).prompt("a", 4), fk.reward(lambda text: text.count("b"))
    whole = fk.steer(model, potential, particles=8, seed=0)
    steps = fk.stream(model, potential, particles=8, seed=0, checkpoint=tmp_path / "run")
    next(iter(steps))
    assert fk.resume(tmp_path / "run", model, potential).texts == whole.texts


def test_many_tokens_take_little_memory() -> None:
    words = [f"w{i}" for i in range(4000)] + [str(i) for i in range(1000)]
    lm = MaskedLM(make_bert(len(SPECIAL) + len(words), 32).float(), make_tokenizer(words), top=16)
    model, length, n = lm.prompt("w1", 12), 12, 16
    numbers = fk.regex(r"( \d+)+")
    assert lm.vocabulary.size == 5000
    fk.steer(model, numbers, particles=2, seed=0)  # compiles
    tracemalloc.start()
    result = fk.steer(model, numbers, particles=n, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(re.fullmatch(r"( \d+)+", text) for text in result.texts)
    assert peak < n * length * 5000 * 8 / 2, "half of one table of all tokens"


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_causal_model_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    causal = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=16, n_embd=16, n_layer=2, n_head=2)).eval()
    with pytest.raises(fk.ModelError, match=r"GPT2LMHeadModel reads from left to right only.*use fk\.CausalLM"):
        MaskedLM(causal, TOKENIZER)
    with pytest.raises(fk.ModelError, match="reads from left to right only"):
        MaskedLM(causal, TOKENIZER, shifted=True)


def test_a_model_without_an_output_layer_is_refused() -> None:
    with pytest.raises(fk.ModelError, match="without logits for each token; load it with its output layer"):
        MaskedLM(BERT.bert, TOKENIZER)
    with pytest.raises(fk.ModelError, match="Identity cannot be asked about token ids"):
        MaskedLM(nn.Identity(), TOKENIZER)  # type: ignore[arg-type]


def test_a_text_longer_than_the_models_positions_is_refused() -> None:
    lm = MaskedLM(make_bert(9, positions=6), TOKENIZER)
    assert lm.window == 6 and lm.prompt("a", 3).length == 3
    with pytest.raises(
        fk.ArgumentError, match="the text has 7 tokens, 3 of them around the canvas, and the model reads 6"
    ):
        lm.prompt("a", 4)


def test_the_positions_of_a_model_that_counts_from_its_padding() -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=10, pad_token_id=1,
    )  # fmt: skip
    lm = MaskedLM(RobertaForMaskedLM(config), TOKENIZER)
    assert lm.window == 8 and fk.steer(lm.prompt("a", 5), fk.reward(len), particles=2, seed=0).complete
    with pytest.raises(fk.ArgumentError, match="reads 8 at most"):
        lm.prompt("a", 6)


def test_a_text_without_masks_or_with_those_of_another_tokenizer_is_refused() -> None:
    lm = MaskedLM(BERT, TOKENIZER)
    with pytest.raises(fk.ArgumentError, match=r"has no mask; write '\[MASK\]' where"):
        lm.fill("a c")
    with pytest.raises(fk.ArgumentError, match="holds '<mask>', which is another tokenizer's mask"):
        lm.fill("a <mask>")
    with pytest.raises(fk.ArgumentError, match="tokens has no mask; the id of the mask is 4"):
        lm.fill(tokens=[2, 5, 3])
    with pytest.raises(fk.ArgumentError, match=r"the prompt has masks of its own.*lm\.fill"):
        lm.prompt("a [MASK]", 2)


def test_another_number_of_masks_than_are_written_is_refused() -> None:
    tokenizer = make_tokenizer(WORDS, mask_token="")
    lm = MaskedLM(BERT, tokenizer, mask=4)  # which it does not keep apart from other text
    with pytest.raises(
        fk.ArgumentError, match="2 times, of which the tokenizer made 0 masks; give the model's token ids"
    ):
        lm.fill("[MASK] a [MASK]")
    assert lm.fill(tokens=[2, 4, 5, 3]).length == 2


def test_a_special_token_within_a_text_is_refused() -> None:
    lm = MaskedLM(BERT, TOKENIZER)
    for text, token in (("a [SEP] [MASK]", r"\[SEP\]"), ("a x [MASK]", r"\[UNK\]")):
        with pytest.raises(fk.ArgumentError, match=rf"token 2 of the text, '{token}', has no text.*lm\.prompt"):
            lm.fill(text)


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": 0}, "temperature is 0"), ({"top": 0}, "top is 0"), ({"batch": 0}, "batch is 0"),
    ({"eos": 99}, "eos is 99; give a token id below 9"), ({"only": ["zebra"]}, "only holds 'zebra', which is the"),
    ({"only": []}, "only is empty"), ({"mask": 99}, "mask is 99, which is no token of"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fk.FeynkacError, match=message):
        MaskedLM(BERT, TOKENIZER, **options)


def test_wrong_arguments_of_a_text_are_refused() -> None:
    lm = MaskedLM(BERT, TOKENIZER)
    with pytest.raises(fk.ArgumentError, match="length is missing"):
        lm.prompt("a")
    with pytest.raises(fk.ArgumentError, match="length is 0"):
        lm.prompt("a", 0)
    with pytest.raises(fk.ArgumentError, match="one of text and chat="):
        lm.prompt(length=2)
    with pytest.raises(fk.ArgumentError, match="give a string"):
        lm.fill(["a [MASK]"])  # type: ignore[arg-type]
    with pytest.raises(fk.ArgumentError, match="UniformNoise has no masks"):
        lm.prompt("a", 2, kernel=UniformNoise(2))
    with pytest.raises(fk.ArgumentError, match="the tokenizer is None"):
        MaskedLM(BERT, None)  # type: ignore[arg-type]
    with pytest.raises(fk.ArgumentError, match="the model is 'bert'"):
        MaskedLM("bert", TOKENIZER)  # type: ignore[arg-type]


def test_a_model_is_loaded_from_a_folder(tmp_path: Path) -> None:
    BERT.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    lm = fk.MaskedLM.from_pretrained(str(tmp_path), top=2)
    assert lm.top == 2 and fk.steer(lm.fill("a [MASK]"), fk.reward(len), particles=2, seed=0).complete
    with pytest.raises(fk.ModelError, match="cannot load a masked language model from"):
        fk.MaskedLM.from_pretrained(str(tmp_path / "nothing"))
