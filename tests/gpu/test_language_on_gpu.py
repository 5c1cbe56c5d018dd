"""Language models on the device: contexts against a full recompute, draws and runs against those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from same_draws import compare, make

import feynkac as fk
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.draws.next_token import draw_tokens, score_tokens, sum_masses

pytestmark = pytest.mark.gpu
PROMPTS = [[5, 9, 3, 7, 1] * 30, [4], [5, 9, 3, 7, 1] * 30, [8, 2, 6, 11, 30]]
_COMMON: dict[str, Any] = dict(
    hidden_size=256, intermediate_size=512, num_hidden_layers=3, max_position_embeddings=1024
)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", dict(vocab_size=4096, num_attention_heads=8, num_key_value_heads=2, head_dim=64)),
    "qwen3": ("Qwen3", dict(vocab_size=32768, num_attention_heads=6, num_key_value_heads=2, head_dim=128)),
    "gemma": ("Gemma", dict(vocab_size=262144, num_attention_heads=4, num_key_value_heads=1, head_dim=256)),
}


def build(name: str, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model of a shape, of random weights, with attention of some contrast."""
    torch.manual_seed(0)
    kind, own = SHAPES[name]
    config = getattr(transformers, f"{kind}Config")(**_COMMON, **own, pad_token_id=None, eos_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "proj" in parameter_name:
                parameter.mul_(4.0)
    return model.to(device=device, dtype=dtype)


def recompute(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """(F, V) float32 logits behind each text, by a pass of its own."""
    with torch.inference_mode():
        ids = [torch.tensor([text], device=model.device) for text in texts]
        return torch.stack([model(input_ids=each).logits[0, -1].float() for each in ids])


def walk(contexts: Any, steps: int, most: int, vocabulary: int) -> tuple[list[list[int]], torch.Tensor]:
    """Random forks, keeps and drops by up to `most` tokens: the texts forwarded, and the logits behind them."""
    rng, texts = np.random.default_rng(0), [list(prompt) for prompt in PROMPTS]
    grown, found = list(texts), [contexts.start()]
    for _ in range(steps):
        parents = rng.integers(len(texts), size=rng.integers(2, 40))
        new = [rng.integers(3, vocabulary, size=rng.integers(0, most + 1)).tolist() for _ in parents]
        kept = {(parent, tuple(tokens)): i for i, (parent, tokens) in enumerate(zip(parents, new, strict=True))}
        parents, new = parents[list(kept.values())], [new[i] for i in kept.values()]
        logits = contexts.append(parents, new)
        texts = [texts[parent] + tokens for parent, tokens in zip(parents, new, strict=True)]
        if any(new):
            grown += [text for text, tokens in zip(texts, new, strict=True) if tokens]
            found.append(logits)
    return grown, torch.cat(found)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_contexts_are_as_good_as_a_full_recompute(device, name, dtype) -> None:
    """In float32 to 1e-3 standard deviations; in half precision no further from float32 than thrice the model's own."""
    model = build(name, device, dtype)
    contexts = open_contexts(Twins(model), PROMPTS, 40)
    assert isinstance(contexts, SharedContexts)
    texts, found = walk(contexts, 6, 3, model.config.vocab_size)
    assert contexts._reads_pool
    own = recompute(model, texts)
    if dtype == torch.float32:
        assert float((found - own).abs().max()) < 1e-3 * float(own.std())
    else:
        exact = recompute(model.float(), texts)
        assert float((found - exact).square().mean()) < 9 * float((own - exact).square().mean())


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_contexts_without_triton(device, name, monkeypatch) -> None:
    monkeypatch.setattr("feynkac.models.language.caches.shared.reads_pool", lambda stores: False)
    model = build(name, device)
    texts, found = walk(SharedContexts(Twins(model), PROMPTS, 40), 6, 3, model.config.vocab_size)
    own = recompute(model, texts)
    assert float((found - own).abs().max()) < 1e-3 * float(own.std())


@pytest.mark.parametrize(
    ("n", "n_tokens", "rows"), [(3, 128, 500), (40, 5000, 500), (64, 49152, 300), (17, 262144, 100)]
)
def test_draws_are_those_of_the_cpu(device, n, n_tokens, rows) -> None:
    given = make(n, n_tokens, rows)
    logits, mask, scale, context, _ = given
    there = logits.to(device)
    compare(given, draw_tokens(there, *given[1:]))
    for one, other in zip(sum_masses(logits, mask, scale), sum_masses(there, mask, scale), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=3e-6)
    tokens = np.random.default_rng(1).integers(0, n_tokens, rows)
    wanted = score_tokens(logits, scale, context, tokens, exact=True)
    np.testing.assert_allclose(score_tokens(there, scale, context, tokens, exact=False), wanted, rtol=0, atol=3e-6)


@fk.program
def spell(p, lm):
    """A word, a score of a given text, and a span under a mask."""
    text = lm.context("ab")
    first = p.sample(text.next_token())
    p.condition(not first.is_eos and first != "e")
    text.observe_text("ba")
    return str(first) + p.sample(text.gen(regex="(ab|e)*", max_tokens=6))


RUNS = {
    "a constraint": lambda lm: fk.steer(lm.prompt("ab", max_tokens=8), fk.regex("(ab|e)*"), particles=64, seed=1),
    "a reward": lambda lm: fk.steer(
        lm.prompt("ab", max_tokens=8), fk.reward(lambda text: text.count("a")), particles=64, seed=2
    ),
    "several prompts": lambda lm: fk.steer(
        [lm.prompt("ab", max_tokens=6), lm.prompt("bbe", max_tokens=6)], fk.regex("(ab|e)*"), particles=32, seed=3
    ),
    "an expert": lambda lm: fk.steer(
        lm.prompt("ab", max_tokens=6), fk.expert(lm.prompt("e"), power=0.5), particles=32, seed=4
    ),
    "a program": lambda lm: fk.steer(spell(lm), particles=32, seed=5),
    "optimal": lambda lm: fk.steer(lm.prompt("ab", max_tokens=4), particles=16, algorithm="optimal", seed=6),
    "exact": lambda lm: fk.steer(lm.prompt("ab", max_tokens=4), fk.regex("a*e?"), algorithm="exact", seed=7),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_seed_gives_on_the_device_what_it_gives_on_the_cpu(device, name, tiny_lm) -> None:
    """The same uniform numbers, laws that differ by rounding: the same texts, and the same evidence."""
    wanted, lm = RUNS[name](tiny_lm()), tiny_lm()
    lm.model.to(device)
    found = RUNS[name](lm)
    for one, other in zip(_list(wanted), _list(found), strict=True):
        assert other.log_evidence == pytest.approx(one.log_evidence, abs=1e-3)
        assert sorted(map(str, other.samples)) == sorted(map(str, one.samples))


def _list(results: Any) -> list[Any]:
    return results if isinstance(results, list) else [results]
