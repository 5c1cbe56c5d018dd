"""The user's model stays the user's: runs in threads, a model that is used meanwhile, hooks, changes, precision."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ModelError
from feynkac.models.language.caches import twin as twin_module
from feynkac.models.language.caches.opening import open_contexts
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins

_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "tiny.py")
assert _spec and _spec.loader
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
tiny = _tiny.tiny

THREADS, RUNS = 3, 16


def outcome(lm: Any, seed: int) -> tuple[Any, ...]:
    """All that a run gives, to compare bit for bit."""
    task = lm.prompt("ab", max_tokens=12)
    constraint = fk.regex("[ab]*e?[ab]*")
    result = fk.steer(task, constraint, lambda text: 0.3 * text.count("ab"), particles=8, seed=seed, on_death="return")
    return result.samples, np.asarray(result.log_weights).tobytes(), result.log_evidence


def inside_of(model: Any) -> list[Any]:
    """Everything that a run might write to."""
    hooks = [dict(h) for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    return [model.config.to_dict(), model.config._attn_implementation, hooks, [m.training for m in model.modules()]]


@pytest.fixture
def generating() -> Any:
    """Runs `model.generate` over and over in a thread of its own, and checks that it always says the same."""

    def start(model: Any) -> Any:
        ids = torch.tensor([[1, 2, 3]])
        ask = lambda: model.generate(  # noqa: E731
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
        ).tolist()
        wanted, found, stop = ask(), [], threading.Event()

        def work() -> None:
            while not stop.is_set():
                found.append(ask())

        thread = threading.Thread(target=work)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join()
            assert found and all(answer == wanted for answer in found)

        return end

    return start


def test_threads_give_what_each_run_gives_alone(tiny_lm: Any, generating: Any) -> None:
    lm = tiny_lm()
    before, config = inside_of(lm.model), lm.model.config
    alone = [outcome(tiny_lm(), seed) for seed in range(RUNS)]
    end = generating(lm.model)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            rows = list(pool.map(lambda _: [outcome(lm, seed) for seed in range(RUNS)], range(THREADS)))
    finally:
        end()
    assert all(row == alone for row in rows)
    assert inside_of(lm.model) == before and lm.model.config is config
    assert len({str(run) for run in alone}) > RUNS // 2  # the runs do differ


def test_asyncio_gives_what_each_run_gives_alone(tiny_lm: Any) -> None:
    lm = tiny_lm()
    alone = [outcome(tiny_lm(), seed) for seed in range(6)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(outcome, lm, seed) for seed in range(6)))

    assert asyncio.run(together()) == alone


@pytest.mark.parametrize("name", ["llama", "mamba", "gemma2"])
def test_passes_at_one_time_share_no_module(name: str) -> None:
    """Two contexts taking turns within each other's passes, seen from a hook, run on different twins."""
    model, seen = tiny(name), []
    twins = Twins(model)

    def step() -> None:
        contexts = open_contexts(twins, [[1, 2, 3]], 4)
        contexts.start()
        contexts.extend(np.array([0, 0]), np.array([4, 5]))

    step()
    with twins.borrow() as first, twins.borrow() as second:
        seen += [first.model, second.model]
    assert seen[0] is not seen[1] and model not in seen
    weights = [dict(m.named_parameters()) for m in (model, *seen)]
    assert all(weights[0][name] is w[name] for w in weights for name in weights[0])
    step()  # the same two again
    assert len(twins._free) == 2


def test_training_mode_is_the_user_s() -> None:
    model = tiny("gpt2").train()
    assert model.config.attn_pdrop > 0.0  # dropout: runs in training mode would differ from each other
    first, second = (open_contexts(Twins(model), [[1, 2, 3]], 4).start() for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


def test_a_model_that_cannot_be_copied_runs_behind_a_lock(tiny_lm: Any) -> None:
    class Stubborn:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    def make() -> Any:
        lm = tiny_lm()
        lm.model.model.layers[0].extra = Stubborn()
        return lm

    alone, lm = [outcome(make(), seed) for seed in range(4)], make()
    lm.model.train()
    before = inside_of(lm.model)
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda _: [outcome(lm, seed) for seed in range(4)], range(THREADS)))
    assert not lm._twins.are_copies
    assert all(row == alone for row in rows) and inside_of(lm.model) == before


# --- the twin follows its model


def add(amount: float) -> Any:
    """A hook that adds to every hidden state, and so is right in every cache."""
    return lambda module, args, out: out + amount


def by_place(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
    """A hook that edits the first token of each pass: right in a pass over a whole text only."""
    out = out.clone()
    out[:, 0] += 3.0
    return out


def first_logits(lm: Any) -> torch.Tensor:
    return lm.open([[1, 2, 3]], 4).start()


def direct(lm: Any) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(torch.tensor([[1, 2, 3]])).logits[:, -1]


def test_hooks_put_on_late_are_honoured_and_checked(tiny_lm: Any) -> None:
    lm = tiny_lm()
    plain = first_logits(lm)
    handle = lm.model.model.layers[0].mlp.register_forward_hook(add(2.0))
    torch.testing.assert_close(first_logits(lm), direct(lm), atol=1e-5, rtol=1e-5)
    assert (first_logits(lm) - plain).abs().max() > 1e-3
    assert isinstance(lm.open([[1, 2, 3]], 4), SharedContexts)
    handle.remove()
    assert torch.equal(first_logits(lm), plain)
    handle = lm.model.model.layers[0].mlp.register_forward_hook(by_place)
    with pytest.raises(ModelError, match=r"off by [0-9.e+-]+ standard deviations.*hook acts on the place of a token"):
        lm.open([[1, 2, 3]], 4)
    handle.remove()
    assert torch.equal(first_logits(lm), plain)


def test_a_hook_is_the_user_s_own_object(tiny_lm: Any) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.calls = 0

        def hook(self, *args: Any) -> None:
            self.calls += 1

    lm, recorder = tiny_lm(), Recorder()
    lm.model.model.layers[0].register_forward_hook(recorder.hook)
    lm.model.model.layers[1].register_forward_pre_hook(recorder.hook)
    lm.open([[1, 2, 3]], 4)
    recorder.calls = 0
    first_logits(lm)
    assert recorder.calls == 2


def test_a_replaced_forward_that_holds_the_user_s_module(tiny_lm: Any) -> None:
    """It takes the user's attention into the twin, where the shared cache cannot be right, and the plain one is."""
    lm = tiny_lm()
    plain = first_logits(lm)
    attention = lm.model.model.layers[0].self_attn
    original = attention.forward
    attention.forward = lambda *args, **kwargs: original(*args, **kwargs)
    contexts = lm.open([[1, 2]], 4)
    assert isinstance(contexts, PlainContexts)
    contexts.start()
    torch.testing.assert_close(contexts.extend(np.array([0]), np.array([3])), direct(lm), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(direct(lm), plain, atol=1e-5, rtol=1e-5)


def test_a_language_model_can_be_copied_and_pickled(tiny_lm: Any) -> None:
    lm = tiny_lm()
    wanted = outcome(lm, 0)
    assert outcome(copy.deepcopy(lm), 0) == outcome(pickle.loads(pickle.dumps(lm)), 0) == wanted


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.lm_head.weight.data.mul_(0.5),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}),
        lambda model: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}, assign=True),
        lambda model: setattr(model.model.layers[0], "mlp", copy.deepcopy(model.model.layers[1].mlp)),
        lambda model: setattr(model.model.layers[0].self_attn, "scaling", 0.1),
        lambda model: setattr(model.model.layers[0].mlp, "forward", lambda x: x),
        lambda model: model.model.rotary_emb.inv_freq.mul_(3.0),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: setattr(model.model.layers[0].mlp, "act_fn", torch.nn.Tanh()),
    ],
    ids=["in place", "dtype", "load", "assign", "module", "setting", "forward", "buffer", "attention", "activation"],
)
def test_changes_of_the_model_are_seen(tiny_lm: Any, change: Any) -> None:
    lm = tiny_lm()
    before = first_logits(lm)
    change(lm.model)
    torch.testing.assert_close(first_logits(lm), direct(lm).float(), atol=1e-5, rtol=1e-5)
    assert (first_logits(lm) - before).abs().max() > 1e-4 or lm.model.config._attn_implementation == "eager"


def test_a_model_that_has_not_changed_keeps_its_twins(tiny_lm: Any) -> None:
    lm = tiny_lm()
    first_logits(lm)
    twins = lm._twins
    lm.model.generate(torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2), max_new_tokens=3, pad_token_id=0)
    lm.model.train()
    first_logits(lm)
    assert lm._twins is twins


def test_working_memory_is_the_twin_s_own() -> None:
    """A rotary embedding that writes its frequencies during a pass leaves those of the user's model alone."""
    growing = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = tiny("llama", rope_parameters=growing, max_position_embeddings=4)
    before = model.model.rotary_emb.inv_freq.clone()
    with Twins(model).borrow() as twin, torch.inference_mode():
        twin.model(torch.arange(1, 9)[None])
        assert not torch.equal(twin.model.model.rotary_emb.inv_freq, before)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)


# --- precision, and numba's threads


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bloom"])
def test_runs_inside_of_autocast(name: str) -> None:
    model = tiny(name, scale=1.0)
    twins = Twins(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contexts = open_contexts(twins, [[5, 9, 3, 7]], 4)
        contexts.start()
        found = contexts.extend(np.array([0, 0]), np.array([4, 5]))
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([[5, 9, 3, 7, 4], [5, 9, 3, 7, 5]])).logits[:, -1].float()
    assert isinstance(contexts, PlainContexts if name == "bloom" else SharedContexts)
    assert (found - wanted).abs().max() < 0.1 * wanted.std()
    assert len(twins.errors) == 1
    open_contexts(twins, [[5, 9, 3, 7]], 4)  # outside of it, another precision: checked anew
    assert len(twins.errors) == 2


def test_steering_inside_of_autocast(tiny_lm: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert outcome(tiny_lm(), 0)[0]


def test_numba_s_unsafe_threading_layer_is_never_entered_twice() -> None:
    """The layer "workqueue" aborts the process if two threads are in it."""
    code = """
import threading, numpy as np, numba, torch
from feynkac.models.language.draws.next_token import draw_tokens
logits = torch.randn(40, 5000)
mask = np.full((40, 157), 0xFFFFFFFF, np.uint32)
def work():
    for _ in range(60):
        draw_tokens(logits, mask, np.ones(40, np.float32), np.arange(40), np.full(40, 0.5))
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert numba.threading_layer() == "workqueue"
"""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_snapshots_compare_hooks_of_all_modules() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(add(0.0))
    try:
        snapshot = twin_module.Snapshot(tiny("llama"))
    finally:
        handle.remove()
    assert not snapshot.matches(tiny("llama"))
