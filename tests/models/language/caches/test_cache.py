"""The two context stores against a full recompute of every context, over random programs of extensions and forks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCAB, tiny
from tokenizers_of_kinds import byte_level, wrap
from walks import PROMPTS, recompute, run_program

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models.language.caches import agreement, attention, forward, plain as plain_cache, shared
from feynkac.models.language.caches.opening import find_attention_window, open_contexts, shares_prompt
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.store import SharedLayer
from feynkac.models.language.caches.twin import Twins
from feynkac.models.language.histories import Histories
from feynkac.models.language.lm import CausalLM
from feynkac.potentials import product
from feynkac.smc.engine import smc
from feynkac.smc.resample import multinomial
from feynkac.smc.rng import Streams


@pytest.mark.parametrize("keep", [0.0, 0.3])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "granite"])
def test_shared_cache_is_exact(name: str, keep: float) -> None:
    model = tiny(name)
    for seed, prompts in enumerate([PROMPTS[:1], PROMPTS]):
        contexts = open_contexts(Twins(model), prompts, 20)
        assert isinstance(contexts, SharedContexts)
        run_program(model, contexts, prompts, seed, steps=12, keep=keep)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_several_tokens_at_once(name: str) -> None:
    model = tiny(name)
    for seed, (prompts, most) in enumerate([(PROMPTS[:1], 2), (PROMPTS, 7)]):
        run_program(model, SharedContexts(Twins(model), prompts, 20), prompts, seed, steps=8, keep=0.2, most=most)
    run_program(model, PlainContexts(Twins(model), PROMPTS), PROMPTS, 2, steps=5, keep=0.2, most=4)


def test_memory_that_runs_out_halves_the_contexts_of_a_pass(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Every part as exact as the whole, whatever its rows; told once in a run."""
    model, sizes, most = tiny("llama"), [], 3
    forward_all = forward.Forward.all

    def run_out(self: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward_all(self, ids, *args, **kwargs)

    monkeypatch.setattr(forward.Forward, "all", run_out)
    contexts = SharedContexts(Twins(model), PROMPTS, 20)
    with caplog.at_level("INFO", "feynkac"):
        run_program(model, contexts, PROMPTS, 1, steps=8, keep=0.2, most=4)
    assert max(sizes) > most and contexts._parts.room["a pass"] in (2, 3)
    assert [record.levelname for record in caplog.records] == ["INFO"]  # results warn of it
    assert "smaller parts from now on" in caplog.text


def test_memory_that_holds_no_single_context_is_an_error_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = SharedContexts(Twins(tiny("llama")), PROMPTS, 20)
    contexts.start()

    def run_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(forward.Forward, "all", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        contexts.extend(np.array([0, 0, 1]), np.array([1, 2, 3]))


def test_hidden_states_of_parts_are_in_the_callers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (None, 2):
        contexts = SharedContexts(Twins(tiny("llama")), PROMPTS, 20)
        contexts._parts.room = {} if most is None else {"a pass": most}
        contexts.start()
        contexts.extend(np.array([3, 0, 2, 0, 1]), np.array([1, 2, 3, 4, 5]))
        contexts.extend(np.array([4, 2, 1, 0]), np.array([1, -1, 3, 4]))
        assert contexts.hidden is not None
        found.append(contexts.hidden)
    torch.testing.assert_close(*found)


def test_memory_that_was_never_written_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    model = tiny("llama")
    run_program(model, SharedContexts(Twins(model), PROMPTS, 3), PROMPTS, 5, steps=12, keep=0.5, most=5)


def test_an_output_layer_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    run_program(model, SharedContexts(Twins(model), PROMPTS, 20), PROMPTS, 4, steps=6, keep=0.2, most=3)


def test_without_the_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feynkac.models.language.caches.attention._flash_for_cpu", None)
    model = tiny("llama")
    run_program(model, SharedContexts(Twins(model), PROMPTS, 20), PROMPTS, 3, steps=12, keep=0.3)


@pytest.mark.parametrize(
    ("name", "most", "pooled"),
    [("llama", 1, False), ("gpt2", 1, False), ("qwen3", 3, False), ("llama", 1, True), ("llama", 5, True)],
)
def test_the_path_of_devices_is_exact(monkeypatch: pytest.MonkeyPatch, name: str, most: int, pooled: bool) -> None:
    """What runs on a GPU, on the CPU: operators that tell their log mass, and the kernel over slots, interpreted."""
    if pooled:
        pytest.importorskip("triton")
    monkeypatch.setattr(attention, "is_on_host", lambda query: False)
    monkeypatch.setattr(shared, "reads_pool", lambda stores: pooled)
    model = tiny(name)
    for seed, prompts in enumerate([PROMPTS[:1], PROMPTS]):
        contexts = SharedContexts(Twins(model), prompts, 4)
        run_program(model, contexts, prompts, seed, steps=3 if pooled else 8, keep=0.3, most=most)
        assert (contexts._cache.step.starts is not None) == pooled


@pytest.mark.parametrize("name", ["llama", "bloom", "gemma2", "gemma3", "mamba", "mamba2", "bamba", "lfm2"])
def test_plain_cache_is_exact(name: str) -> None:
    model = tiny(name)
    for keep, prompts in ((0.0, PROMPTS[:1]), (0.3, PROMPTS)):
        run_program(model, PlainContexts(Twins(model), prompts), prompts, 1, steps=12, keep=keep)


def test_who_shares_the_prompt() -> None:
    assert all(shares_prompt(Twins(tiny(name)), 100) for name in ("llama", "qwen3", "gpt2", "granite", "mixtral"))
    # position bias, soft caps, recurrence: their own cache
    assert not any(shares_prompt(Twins(tiny(name)), 10) for name in ("bloom", "gemma2", "mamba", "mamba2", "lfm2"))


def test_sliding_window_that_is_never_full_is_shared() -> None:
    model = tiny("mistral", sliding_window=16)
    assert find_attention_window(model) == 16
    assert isinstance(open_contexts(Twins(model), [[1, 2, 3]], 13), SharedContexts)
    assert isinstance(open_contexts(Twins(model), [[1, 2, 3]], 14), PlainContexts)
    run_program(model, open_contexts(Twins(model), [[1, 2, 3]], 14), [[1, 2, 3]], 0, steps=16, keep=0.1)


def test_half_precision() -> None:
    model = tiny("llama", scale=1.0).to(torch.bfloat16)
    assert shares_prompt(Twins(model), 20)
    for contexts in (SharedContexts(Twins(model), PROMPTS, 8), PlainContexts(Twins(model), PROMPTS)):
        contexts.start()
        contexts.extend(np.array([0, 0, 1, 2]), np.array([1, 2, 3, -1]))
        logits = contexts.extend(np.array([2, 0, 3]), np.array([5, 6, 7]))
        assert logits.dtype == torch.float32
        wanted = recompute(model, [[4, 3, 5], [*PROMPTS[0], 1, 6], [*PROMPTS[0], 7]])
        assert (logits - wanted).abs().max() < 0.1 * wanted.std()


def test_the_model_is_left_as_found() -> None:
    model = tiny("llama")
    config, hooks = model.config.to_dict(), len(model.lm_head._forward_pre_hooks)
    contexts = open_contexts(Twins(model), PROMPTS, 4)
    contexts.start()
    contexts.extend(np.array([0, 1]), np.array([3, 4]))
    with pytest.raises(IndexError):
        contexts.extend(np.array([0, 1]), np.array([3, VOCAB + 4]))
    assert model.config._attn_implementation == "sdpa"
    assert model.config.to_dict() == config
    assert len(model.lm_head._forward_pre_hooks) == hooks


def test_only_new_branches_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """One child of each parent stays in its slot; prompts are never copied, nor what is longer than a context."""
    copies: list[tuple[list[int], list[int], int]] = []
    copy = SharedLayer.copy

    def counted(self: SharedLayer, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        if self is self.cache.shared[0]:
            copies.append((source.tolist(), target.tolist(), length))
        copy(self, source, target, length)

    monkeypatch.setattr(SharedLayer, "copy", counted)
    contexts = SharedContexts(Twins(tiny("llama")), [[1, 2, 3]], 40)
    contexts.start()
    contexts.extend(np.zeros(6, np.int64), np.arange(6))  # the first branching has nothing to copy
    contexts.extend(np.arange(6), np.arange(6))
    contexts.extend(np.array([5, 4, 3, 2, 1, 0]), np.arange(6))  # renumbering is free
    assert copies == []
    address = contexts._cache.shared[0].own[0].data_ptr()
    contexts.extend(np.array([0, 0, 0, 1, 2, 3]), np.arange(6))  # two die, two are born
    assert [(len(source), length) for source, _, length in copies] == [(2, 3)]
    contexts.extend(np.array([0, 1]), np.array([0, 1]))  # fewer: at most moved down into the free slots
    for source, target, _ in copies:
        assert not set(source) & set(target)
    assert contexts._cache.shared[0].own[0].data_ptr() == address
    assert contexts._cache.shared[0].prefixes[0][0].shape[0] == 1


def test_a_kept_context_is_not_forwarded() -> None:
    for contexts in (
        SharedContexts(Twins(tiny("llama")), [[1, 2, 3]], 9),
        PlainContexts(Twins(tiny("llama")), [[1, 2, 3]]),
    ):
        contexts.start()
        contexts.extend(np.zeros(3, np.int64), np.array([4, -1, 5]))
        assert contexts.forwarded == 3 + 2
        assert contexts.extend(np.array([0, 1]), np.array([-1, -1])).shape[0] == 0
        assert contexts.lengths.tolist() == [4, 3]
        assert contexts.forwarded == 5


def test_the_window_of_the_model() -> None:
    with pytest.raises(ModelError, match=r"120 tokens and 20 new ones do not fit the 128 .* at most 8 tokens"):
        open_contexts(Twins(tiny("llama")), [[1] * 120], 20)


def test_angles_that_follow_the_longest_text_of_a_pass_are_refused_where_they_change() -> None:
    """Below the border the law is that of the text alone; beyond it, it is not even in a pass of two whole texts."""
    angles = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[4.0] * 4, factor=8.0)
    model = tiny("llama", rope_parameters={**angles, "original_max_position_embeddings": 16})
    short, long = torch.arange(3, 11)[None], torch.arange(3, 23)[None]
    padded = torch.cat([torch.nn.functional.pad(short, (0, 12)), long])
    alone, beside = (model(input_ids=ids, use_cache=False).logits[0, 7] for ids in (short, padded))
    assert (alone - beside).abs().max() > 0.1 * alone.std()
    run_program(model, open_contexts(Twins(model), PROMPTS, 11), PROMPTS, 0, steps=6, keep=0.2)
    with pytest.raises(ModelError, match=r"5 tokens and 12 new ones reach beyond position 16, where .*longrope"):
        open_contexts(Twins(model), PROMPTS, 12)


def test_a_shared_cache_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._attend_prefix
    monkeypatch.setattr(attention, "_attend_prefix", lambda query, *rest: right(query * 0.9, *rest))
    assert isinstance(open_contexts(Twins(tiny("llama")), [[1, 2]], 5), PlainContexts)


@pytest.mark.parametrize(
    ("name", "changes"), [("mistral", dict(sliding_window=5)), ("llama4", dict(attention_chunk_size=5))]
)
def test_a_text_beyond_the_attention_window_is_an_error(name: str, changes: dict[str, Any]) -> None:
    """Contexts may grow past what they were opened for; the shared cache has no windows, and no chunks."""
    contexts = SharedContexts(Twins(tiny(name, **changes)), [[1, 2, 3]], 2)
    contexts.start()
    for token in (4, 5):
        contexts.extend(np.array([0]), np.array([token]))
    with pytest.raises(ModelError, match="a text of 6 tokens is longer than the attention window of 5 tokens"):
        contexts.extend(np.array([0]), np.array([6]))


@pytest.mark.parametrize("kind", [SharedContexts, PlainContexts])
def test_a_text_that_grows_beyond_the_border_of_angles_is_an_error(kind: Any) -> None:
    angles = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[4.0] * 4, factor=8.0)
    model = tiny("llama", rope_parameters={**angles, "original_max_position_embeddings": 5})
    contexts = kind(Twins(model), [[1, 2, 3]], *([2] if kind is SharedContexts else []))
    contexts.start()
    contexts.append(np.array([0]), [[4, 5]])
    with pytest.raises(ModelError, match=r"a text of 6 tokens reaches beyond position 5, where .*longrope"):
        contexts.extend(np.array([0]), np.array([6]))


def test_programs_have_room_up_to_the_border_of_angles() -> None:
    """However much room they would take at most: a prompt near to the border is no reason to refuse one."""
    angles = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[4.0] * 4, factor=8.0)
    model = tiny("llama", rope_parameters={**angles, "original_max_position_embeddings": 16})
    histories = Histories(CausalLM(model, wrap(byte_level()), eos=2))
    node = histories.root(tuple(range(12)))
    for token in range(12, 16):
        node = histories.child(node, token)
    torch.testing.assert_close(histories.logits([node], [node]), recompute(model, [[*range(16)]]))
    with pytest.raises(ModelError, match="longer than the model's window of 16"):
        histories.logits([histories.child(node, 9)], [])


# --- the self-check


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "shared"), ("gpt2", "shared"), ("mixtral", "shared"), ("gemma2", "plain"), ("bloom", "plain"),
     ("mamba", "plain"), ("mamba2", "plain"), ("bamba", "plain"), ("lfm2", "plain")],
)  # fmt: skip
def test_the_cache_in_use_is_checked_once(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = Twins(tiny(name))
    open_contexts(twins, [[1, 2, 3]], 5)
    assert twins.errors[kind, None] < 1e-4
    monkeypatch.setattr(agreement, "_walk_and_compare", lambda *_: pytest.fail("checked twice"))
    open_contexts(twins, [[1, 2, 3]], 5)


def test_a_cache_that_cannot_be_reordered_is_refused() -> None:
    with pytest.raises(ModelError, match="MiniMaxForCausalLM"):
        open_contexts(Twins(tiny("minimax")), [[1, 2, 3]], 5)


def keep_first(cache: Any, rows: torch.Tensor) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]


@pytest.mark.parametrize("fault", ["order", "positions", "split", "merge"])
def test_the_check_sees_every_fault_of_a_plain_cache(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four is exercised by the walk: left out, it is refused with its figure."""
    model: Any = tiny("bloom")
    if fault == "order":
        monkeypatch.setattr("transformers.DynamicCache.reorder_cache", keep_first)
    elif fault == "positions":
        model = tiny("llama", sliding_window=None)
        monkeypatch.setattr(type(model), "_supports_attention_backend", False)
        last = forward.Forward.last
        monkeypatch.setattr(forward.Forward, "last", lambda self, ids, cache=None, start=0: last(self, ids, cache))
    elif fault == "split":
        monkeypatch.setattr(plain_cache, "_duplicate", lambda cache: cache)
    else:
        monkeypatch.setattr(plain_cache, "_stack", lambda layer, other: [
            setattr(layer, name, torch.cat([getattr(layer, name)] * 2)) for name in ("keys", "values")
        ])  # fmt: skip
    with pytest.raises(ModelError, match=r"off by [0-9.]+ standard deviations|does not run on its own cache"):
        open_contexts(Twins(model), [[1, 2, 3]], 5)


def test_a_real_model(smollm2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2)
    prompts = [list(range(300, 340)), [504, 2000]]
    contexts = open_contexts(Twins(model), prompts, 8)
    assert isinstance(contexts, SharedContexts)
    contexts.start()
    contexts.extend(np.array([0, 0, 1]), np.array([7, 8, 9]))
    logits = contexts.append(np.array([2, 1, 1]), [[10], [11, 12, 13], [14]])
    wanted = recompute(model, [[*prompts[1], 9, 10], [*prompts[0], 8, 11, 12, 13], [*prompts[0], 8, 14]])
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)


# --- steering by recurrent and hybrid models


@pytest.mark.parametrize("name", ["mamba", "mamba2", "bamba", "lfm2"])
def test_a_recurrent_model_steers_by_what_a_full_recompute_says(name: str) -> None:
    """Resampled at every step: each text has the log-probability of one pass over the whole of it, without a cache."""
    model = tiny(name)
    lm = CausalLM(model, wrap(byte_level()), eos=[2])
    task = lm.prompt(tokens=[5, 6, 7, 8], max_tokens=8)
    *_, step = smc(task, product(fk.reward(lambda text: 0.5 * len(text))), n=24, resample=multinomial, rng=Streams(0))
    texts = [task.trace(step.state, row).tolist() for row in range(24)]
    assert len({tuple(text) for text in texts}) > 8 and len({text[0] for text in texts}) < 24
    for text, log_prob in zip(texts, step.state.log_prob, strict=True):
        with torch.inference_mode():
            law = torch.log_softmax(model(torch.tensor([[5, 6, 7, 8, *text]])).logits[0].double(), -1)
        whole = sum(float(law[3 + i, token]) for i, token in enumerate(text))
        assert log_prob == pytest.approx(whole, abs=1e-4 * len(text))


def test_a_model_whose_states_cannot_be_forked_is_refused_by_steer() -> None:
    lm = CausalLM(tiny("minimax"), wrap(byte_level()), eos=[2])
    with pytest.raises(ModelError, match="MiniMaxForCausalLM"):
        fk.steer(lm.prompt(tokens=[5, 6, 7], max_tokens=4), particles=4, seed=0)


def read_hidden(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """(F, width) what the output layer reads last, by a forward pass for each text."""
    heard: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: heard.append(args[0][0, -1]))
    recompute(model, texts)
    handle.remove()
    return torch.stack(heard)


@pytest.mark.parametrize(
    ("name", "cache"),
    [("llama", "shared"), ("llama", "plain"), ("granite", "shared"), ("gpt2", "plain"), ("mamba", "plain")],
)
def test_hidden_states_are_what_the_output_layer_reads(name: str, cache: str) -> None:
    model, prompts = tiny(name), [[5, 9, 3], [4], [5, 9, 3]]
    contexts: Any = (
        SharedContexts(Twins(model), prompts, 8) if cache == "shared" else PlainContexts(Twins(model), prompts)
    )
    contexts.start()
    torch.testing.assert_close(contexts.hidden, read_hidden(model, prompts), atol=1e-4, rtol=1e-4)
    contexts.extend(np.array([2, 1, 0, 2]), np.array([7, 8, -1, 9]))
    grown = [[5, 9, 3, 7], [4, 8], [5, 9, 3, 9]]
    torch.testing.assert_close(contexts.hidden, read_hidden(model, grown), atol=1e-4, rtol=1e-4)
    contexts.append(np.array([3, 1]), [[1, 2], [6]], every=True)
    every = [[5, 9, 3, 9, 1], [5, 9, 3, 9, 1, 2], [4, 8, 6]]
    torch.testing.assert_close(contexts.hidden, read_hidden(model, every), atol=1e-4, rtol=1e-4)
    contexts.extend(np.array([0]), np.array([-1]))
    assert contexts.hidden is None
